"""Known answers and invariances of the reconstruction metrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyseme.activations.reading import Reading
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.records import MetricRecord
from polyseme.corpora.pack import Windows
from polyseme.evaluation.reconstruction import ReconstructionSums, density_histogram, evaluate_reconstruction
from tests.evaluation.fakes import (
    AT_FIRST,
    AT_SECOND,
    SECOND,
    WIDTH,
    Constant,
    FakeNetwork,
    Identity,
    Linear,
    counted,
    make_windows,
)


def evaluate(dictionary, windows=None, site=SECOND, network=None, **options) -> dict[str, MetricRecord]:
    found = evaluate_reconstruction(
        network or FakeNetwork(),
        windows or make_windows(),
        {"d": (Binding.at(site), dictionary)},
        n_resamples=200,
        **options,
    )
    return {record.name: record for record in found["d"]}


def rows_of(y: Tensor, documents: list[int]) -> tuple[Windows, Reading]:
    """Vectors made up for a test, one a token of one window a document."""
    names = tuple(f"doc{i}" for i in range(max(documents) + 1))
    document = np.array([documents], dtype=np.int32)
    zeros = np.zeros_like(document)
    windows = Windows(zeros, document, zeros.astype(bool), names, np.zeros(len(names), np.int64))
    ids = np.arange(len(y), dtype=np.int32)
    return windows, Reading({SECOND: y}, zeros[0], document[0], zeros[0], ids)


def measure(dictionary, y: Tensor, documents: list[int], batches: int = 1) -> dict[str, MetricRecord]:
    windows, reading = rows_of(y, documents)
    sums = ReconstructionSums({"d": (AT_SECOND, dictionary)}, windows)
    for part in np.array_split(np.arange(len(y)), batches):
        vectors = {SECOND: y[torch.from_numpy(part)]}
        ids = (getattr(reading, name)[part] for name in ("token", "document", "window", "position"))
        sums.see(Reading(vectors, *ids), {"d": dictionary.encode(vectors[SECOND])})
    return {entry.name: entry.record(n_resamples=200) for entry in sums.finish()["d"]}


def test_the_perfect_dictionary_leaves_nothing_unexplained():
    found = evaluate(Identity())
    assert found["fvu"].value == 0
    assert found["l0"].value == WIDTH
    assert found["cosine"].value == pytest.approx(1)
    assert found["norm_ratio"].value == pytest.approx(1)
    assert found["shrinkage"].value == pytest.approx(1)


def test_the_mean_predictor_explains_nothing():
    network, windows = FakeNetwork(), make_windows()
    found = evaluate(Constant(counted(network, windows).double().mean(0).float()), windows, network=network)
    assert found["fvu"].value == pytest.approx(1, abs=1e-6)
    assert found["l0"].value == 0
    assert found["dead_latents"].value == 1
    assert found["dead_latents"].details["dead"] == 3


def test_a_case_worked_by_hand():
    y = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    found = measure(Constant(torch.tensor([1.0, 0.0])), y, [0, 0, 1])
    # mean (2/3, 4/3): Σ‖y−ȳ‖² = 20 − 3·(4/9 + 16/9) = 40/3; Σ‖y−ŷ‖² = 1 + 1 + 17
    assert found["fvu"].value == pytest.approx(19 / (40 / 3))
    assert found["cosine"].value == pytest.approx(1 / 3)
    assert found["norm_ratio"].value == pytest.approx(3 / 6)
    assert found["shrinkage"].value == pytest.approx(3 / 2)
    assert found["fvu"].n == 3
    assert found["fvu"].details["n_documents"] == 2


def test_fvu_equals_the_formula_over_the_whole_split():
    network, windows, dictionary = FakeNetwork(), make_windows(), Linear()
    y = counted(network, windows).double()
    error = (y - dictionary.decode(dictionary.encode(y.float())).double()).square().sum()
    expected = float(error / (y - y.mean(0)).square().sum())
    record = evaluate(dictionary, windows, network=network)["fvu"]
    assert record.value == pytest.approx(expected, rel=1e-9)
    assert record.interval is not None
    assert record.interval.low < record.value < record.interval.high
    assert record.n == windows.n_tokens
    assert record.scope == {"dictionary": "d", "site": "second.out"}


def test_every_resample_recomputes_its_own_mean():
    """Two kinds of document far apart: a resample of one kind alone, 1 in 11, has no variance between documents."""
    y = torch.tensor([[0.0], [1.0]] * 4 + [[100.0], [101.0]] * 2)
    record = measure(Constant(torch.tensor([50.5])), y, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])["fvu"]
    # A third of one: (50.5² + 49.5²) / 2 over 100² · 2/9 + ¼. One kind alone: over ¼.
    assert record.value == pytest.approx((50.5**2 + 49.5**2) / 2 / (100**2 * 2 / 9 + 0.25))
    assert record.interval is not None
    assert record.interval.high == pytest.approx(2 * (50.5**2 + 49.5**2))


@settings(deadline=None, max_examples=15)
@given(batches=st.integers(1, 7), scale=st.sampled_from([1e-3, 1.0, 1e3]), shift=st.sampled_from([0.0, 1e3]))
def test_fvu_does_not_move_with_batches_scale_or_shift(batches: int, scale: float, shift: float):
    y = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)).double()
    documents = np.sort(np.random.default_rng(0).integers(0, 6, 60)).tolist()

    class Halve(Identity):
        """(y − offset) / 2 + offset, in float64 so that the offset costs no digits."""

        def encode(self, x):
            return Latents.from_dense((x.double() - shift * scale) / 2)

        def decode(self, z):
            return z.dense() + shift * scale

    plain = 0.25 * y.square().sum() / (y - y.mean(0)).square().sum()
    record = measure(Halve(4), (y + shift) * scale, documents, batches)["fvu"]
    assert record.value == pytest.approx(float(plain), rel=1e-4 if shift else 1e-6)


def test_a_large_common_offset_does_not_cancel():
    """Σ‖y‖² − ‖Σy‖²/n would lose every digit here; sums about a nearby origin do not."""
    y = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() + 1e9
    windows, _ = rows_of(y, [0] * 25 + [1] * 25)
    sums = ReconstructionSums({"d": (AT_SECOND, Constant(torch.zeros(3)))}, windows)
    tally = sums._tallies["d"]
    target = y.mean(0).expand_as(y)
    tally.add(y, target, Latents.from_dense(torch.zeros(50, 3)), np.repeat([0, 1], 25))
    assert next(iter(sums.finish()["d"])).record(n_resamples=10).value == pytest.approx(1, rel=1e-6)


def test_the_split_into_network_batches_changes_nothing():
    several = [evaluate(Linear(), batch_windows=size) for size in (1, 3, 100)]
    for name in several[0]:
        values = [found[name].value for found in several]
        assert values == pytest.approx([values[0]] * 3, rel=1e-9)
        assert [found[name].interval.low for found in several] == pytest.approx([several[0][name].interval.low] * 3)


def test_many_dictionaries_share_one_pass():
    network, windows = FakeNetwork(), make_windows()
    dictionaries = {"a": (AT_FIRST, Linear()), "b": (AT_SECOND, Linear(seed=1)), "c": (AT_SECOND, Identity())}
    together = evaluate_reconstruction(network, windows, dictionaries, batch_windows=100, n_resamples=50)
    assert network.passes == 1
    alone = evaluate_reconstruction(network, windows, {"b": (AT_SECOND, Linear(seed=1))}, n_resamples=50)
    assert [r.value for r in together["b"]] == pytest.approx([r.value for r in alone["b"]])


class Flags:
    """Latent i fires with value 1 where coordinate i is positive; reconstructs nothing."""

    def __init__(self, d: int):
        self.d_in = self.d_out = self.n_latents = d

    def encode(self, x: Tensor) -> Latents:
        return Latents.from_dense((x > 0).float())

    def decode(self, z: Latents) -> Tensor:
        return torch.zeros(z.n_rows, self.d_out)


def test_dead_and_dense_latents_and_their_histogram():
    fires = torch.zeros(100, 4)
    fires[:50, 0] = 1  # density .5, in both documents
    fires[3, 1] = 1  # density .01, only in the first document
    fires[:10, 2] = 1  # density .1 is not above .1
    found = measure(Flags(4), fires, [0] * 40 + [1] * 60)
    dead, dense = found["dead_latents"], found["dense_latents"]
    assert dead.value == 0.25
    assert dead.details["dead"] == 1
    assert dead.details["density_limit"] == pytest.approx(0.03)
    # Leaving out the first document kills latents 1 and 2: θ = (.75, .25), and t₁ √(½ · .125) = 12.7 · .25: two
    # documents say nothing about a share.
    assert dead.interval.method == "jackknife over documents"
    assert dead.interval.low == 0
    assert dead.interval.high == 1
    # Twenty documents, the dead latents of one of them its own: θ is .5 without it and .25 without any other.
    wide = torch.zeros(100, 4)
    wide[:, :2], wide[3, 2] = 1, 1
    many = measure(Flags(4), wide, [i // 5 for i in range(100)])["dead_latents"]
    assert many.value == 0.25
    assert many.interval is not None
    assert many.interval.high == pytest.approx(0.25 + 2.093024 * math.sqrt(19 / 20 * (0.25**2 * 19 / 20)))
    assert dense.value == 0.25
    assert found["l0"].value == pytest.approx(0.61)
    histogram = dense.details["density_histogram"]
    assert sum(histogram["counts"]) == 3
    assert histogram["dead"] == 1
    assert histogram["counts"][histogram["edges"].index(-2.0)] == 1


def test_dense_share_is_the_same_however_documents_are_batched():
    y = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)) - torch.arange(5) / 2
    documents = np.sort(np.random.default_rng(1).integers(0, 9, 90)).tolist()
    one, many = (measure(Flags(5), y, documents, batches) for batches in (1, 13))
    assert one["dense_latents"] == many["dense_latents"]
    assert one["dead_latents"] == many["dead_latents"]


def test_densities_rarer_than_the_first_bin_are_kept():
    histogram = density_histogram(np.array([1, 0, 10**9]), 10**9, decades=3)
    assert histogram["counts"][0] == 1
    assert histogram["counts"][-1] == 1


def test_one_document_has_no_interval_and_a_constant_target_no_fvu():
    found = measure(Constant(torch.zeros(2)), torch.full((5, 2), 0.1), [0] * 5)
    assert math.isnan(found["fvu"].value)
    assert math.isnan(found["l0"].interval.low)


def test_no_held_out_token_is_an_input_error():
    windows = make_windows()
    silent = Windows(windows.tokens, windows.document, np.ones_like(windows.special), windows.names, windows.n_bytes)
    with pytest.raises(InputError, match="no held-out token"):
        evaluate(Identity(), silent)


def test_a_wrong_width_names_the_site_and_both_widths():
    with pytest.raises(InputError, match=r"width 5.*width 6.*second\.out"):
        evaluate(Identity(5))


def test_sums_over_part_of_the_windows_are_refused():
    windows, reading = rows_of(torch.randn(6, 6), [0, 0, 0, 1, 1, 1])
    sums = ReconstructionSums({"d": (AT_SECOND, Identity())}, windows)
    part = Reading({SECOND: reading.vectors[SECOND][:3]}, *(ids[:3] for ids in (reading.token,) * 4))
    sums.see(part, {"d": Identity().encode(part.vectors[SECOND])})
    with pytest.raises(AssertionError, match="not the windows"):
        sums.finish()
