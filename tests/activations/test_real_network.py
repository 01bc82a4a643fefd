"""The whole way on real architectures: text to windows to vectors, against the modules run by hand."""

import numpy as np
import pytest
import torch

from polyseme.activations.config import HarvestConfig
from polyseme.activations.disk import harvest_to_disk
from polyseme.activations.firings import collect_firings
from polyseme.activations.live import LiveSource
from polyseme.activations.statistics import site_means
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding
from polyseme.corpora import TextCorpusConfig, load_windows
from polyseme.networks import load_network
from tests.activations.fakes import same
from tests.tiny import LINES, tiny_bert, tiny_gpt2, tiny_tokenizer

CONFIG = HarvestConfig(block_tokens=256, batch_windows=4, prefetch=False, seed=1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(12):
        (folder / f"{i}.txt").write_text("".join(LINES[(i + j) % len(LINES)] for j in range(1 + i % 4)) + str(i))
    corpus = TextCorpusConfig(paths=(folder,)).build()
    return load_windows(corpus, tiny_tokenizer(), split="train", context=24)


@pytest.fixture(scope="module")
def network():
    return load_network(tiny_gpt2())


@pytest.fixture(scope="module")
def sites(network):
    return {name: network.site(name) for name in ("blocks.0.resid_post", "blocks.1.mlp_out")}


@pytest.fixture(scope="module")
def by_hand(windows):
    """Every window's block outputs, one window at a time from hooks of our own."""
    model = tiny_gpt2()
    kept = {"blocks.0.resid_post": [], "blocks.1.mlp_out": []}

    def keep(name):
        return lambda module, args, out: kept[name].append((out[0] if isinstance(out, tuple) else out).reshape(24, -1))

    model.transformer.h[0].register_forward_hook(keep("blocks.0.resid_post"))
    model.transformer.h[1].mlp.register_forward_hook(keep("blocks.1.mlp_out"))
    with torch.no_grad():
        for row in windows.tokens:
            model(torch.from_numpy(row).long()[None])
    return {name: torch.stack(rows) for name, rows in kept.items()}


def test_vectors_are_the_modules_own(network, windows, sites, by_hand):
    source = LiveSource(network, windows, sites, CONFIG)
    batch = next(source.batches(source.n_tokens))
    places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for row, column in zip(*np.nonzero(~windows.special), strict=True):
        key = (windows.tokens[row, column], windows.document[row, column], column)
        places.setdefault(key, []).append((row, column))
    found = torch.stack([batch.token, batch.document, batch.position], 1).tolist()
    assert len(found) == windows.n_tokens
    for i, key in enumerate(found):
        near = [
            all(torch.allclose(batch.acts[name][i], by_hand[name][place], rtol=1e-4, atol=1e-4) for name in sites)
            for place in places[tuple(key)]
        ]
        assert any(near)


def test_live_ahead_and_disk_give_the_same_bits(network, windows, sites, tmp_path):
    live = LiveSource(network, windows, sites, CONFIG)
    ahead = LiveSource(network, windows, sites, CONFIG.model_copy(update={"prefetch": True}))
    disk = harvest_to_disk(network, windows, sites, CONFIG, tmp_path)
    stop = 2 * live.n_tokens // 50
    for a, b, c in zip(*(s.batches(50, stop=stop) for s in (live, ahead, disk)), strict=True):
        assert same(a, b)
        assert same(a, c)
    middle = list(live.batches(50, stop=stop))[stop // 2 :]
    assert all(same(a, b) for a, b in zip(live.batches(50, start=stop // 2, stop=stop), middle, strict=True))


def test_firings_are_computed_from_the_sites_vectors(network, windows, sites, by_hand):
    class Positive:
        d_in = n_latents = 16

        def encode(self, x):
            return Latents.from_dense(x.clamp_min(0))

    found = collect_firings(network, windows, {name: (Binding.at(site), Positive()) for name, site in sites.items()})
    for name, firings in found.items():
        expected = by_hand[name][torch.from_numpy(~windows.special)].clamp_min(0)
        np.testing.assert_allclose(firings.matrix.toarray(), expected, rtol=1e-4, atol=1e-4)


def test_means_are_over_counted_tokens(network, windows, sites, by_hand):
    for name, mean in site_means(network, windows, sites, batch_windows=5).items():
        torch.testing.assert_close(
            mean, by_hand[name][torch.from_numpy(~windows.special)].mean(0), rtol=1e-4, atol=1e-4
        )


def test_an_encoders_padded_window_is_read_as_if_it_were_short(windows):
    lengths = (windows.document >= 0).sum(1)
    assert lengths[-1] < 24
    network = load_network(tiny_bert())
    assert not network.causal
    site = network.site("blocks.1.resid_post")
    source = LiveSource(network, windows, {"site": site}, CONFIG)
    last = torch.from_numpy(windows.tokens[-1, : lengths[-1]]).long()[None]
    alone = network.read(last, [site])[site][0]
    counted = np.flatnonzero(~windows.special[-1])
    batch = next(source.batches(source.n_tokens))
    for column in counted:
        distance = (batch.acts["site"] - alone[column]).abs().amax(1)
        nearest = int(distance.argmin())
        assert distance[nearest] < 1e-4
        assert int(batch.token[nearest]) == windows.tokens[-1, column]
