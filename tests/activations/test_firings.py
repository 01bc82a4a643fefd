"""Firings: ids line up with activations, and what is saved is what is read."""

import numpy as np
import pytest
import torch

from polyseme.activations.firings import Firings, collect_firings
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.site import Site
from tests.activations.fakes import SITES, FakeNetwork, make_windows


class Threshold:
    """Latent i fires with x_i - 0.3 where that is positive."""

    def __init__(self, d: int):
        self.d_in = self.n_latents = d

    def encode(self, x: torch.Tensor) -> Latents:
        return Latents.from_dense((x - 0.3).clamp_min(0))


def expected(network: FakeNetwork, windows, site: Site) -> np.ndarray:
    rows = []
    for w in range(len(windows)):
        for p in range(windows.tokens.shape[1]):
            if not windows.special[w, p]:
                rows.append(network.vector(site, windows.tokens[w], p))
    return (torch.stack(rows) - 0.3).clamp_min(0).numpy()


def test_firings_equal_the_latents_recomputed_token_by_token():
    windows, network = make_windows(n_documents=5), FakeNetwork()
    dictionaries = {f"d{i}": (Binding.at(site), Threshold(network.width(site))) for i, site in enumerate(SITES)}
    firings = collect_firings(network, windows, dictionaries, batch_windows=3)
    for name, (binding, _) in dictionaries.items():
        f, (site,) = firings[name], binding.reads
        np.testing.assert_array_equal(f.matrix.toarray(), expected(network, windows, site))
        assert f.n_tokens == windows.n_tokens
        assert f.matrix.dtype == np.float32
        assert (f.matrix.data != 0).all()
        np.testing.assert_array_equal(f.token, windows.tokens[f.window, f.position])
        np.testing.assert_array_equal(f.document, windows.document[f.window, f.position])
        assert not windows.special[f.window, f.position].any()
        assert f.n_documents == len(np.unique(windows.document[~windows.special]))
    assert network.passes == -(-len(windows) // 3)  # one pass for both sites


def test_columns_hold_the_same_numbers():
    windows, network = make_windows(n_documents=3), FakeNetwork()
    f = collect_firings(network, windows, {"d": (Binding.at(SITES[0]), Threshold(4))})["d"]
    np.testing.assert_array_equal(f.columns.toarray(), f.matrix.toarray())
    assert f.columns is f.columns


def test_saved_firings_come_back(tmp_path):
    windows, network = make_windows(n_documents=3), FakeNetwork()
    f = collect_firings(network, windows, {"d": (Binding.at(SITES[0]), Threshold(4))})["d"]
    f.save(tmp_path, "d")
    back = Firings.load(tmp_path, "d")
    np.testing.assert_array_equal(back.matrix.toarray(), f.matrix.toarray())
    for part in ("token", "document", "window", "position"):
        np.testing.assert_array_equal(getattr(back, part), getattr(f, part))
    path = tmp_path / "d.token.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedArtifact, match="firings 'd'"):
        Firings.load(tmp_path, "d")


def test_a_dictionary_of_another_width_is_refused():
    with pytest.raises(InputError, match=r"width 5.*have width 4"):
        collect_firings(FakeNetwork(), make_windows(n_documents=2), {"d": (Binding.at(SITES[0]), Threshold(5))})


def test_no_tokens_give_an_empty_matrix():
    windows = make_windows(n_documents=2)
    windows.special[:] = True
    f = collect_firings(FakeNetwork(), windows, {"d": (Binding.at(SITES[0]), Threshold(4))})["d"]
    assert f.matrix.shape == (0, 4)
    assert f.n_documents == 0
