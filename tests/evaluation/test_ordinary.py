"""Figures of the ordinary vectors are those of the data without the others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.activations.reading import Reading
from polyseme.core.binding import Binding
from polyseme.core.records import MetricRecord
from polyseme.corpora.pack import Windows
from polyseme.evaluation.lookup import evaluate_lookup, learn_lookup
from polyseme.evaluation.patching import patch_edits
from polyseme.evaluation.reconstruction import ReconstructionSums, evaluate_reconstruction
from polyseme.evaluation.splice import splice
from polyseme.networks import EditFrom
from tests.evaluation.fakes import (
    AT_FIRST,
    AT_SECOND,
    FIRST,
    SECOND,
    WIDTH,
    Constant,
    FakeNetwork,
    Identity,
    Linear,
    counted,
    make_windows,
)

FAR = Ordinary(torch.zeros(4), 100.0)


def measure(
    y: Tensor, documents: list[int], ordinary: Ordinary, batches: int = 1, positions: np.ndarray | None = None
) -> dict[str, MetricRecord]:
    names = tuple(f"doc{i}" for i in range(max(documents) + 1))
    document = np.array([documents], dtype=np.int32)
    zeros = np.zeros_like(document)
    windows = Windows(zeros, document, zeros.astype(bool), names, np.zeros(len(names), np.int64))
    place = np.arange(len(y), dtype=np.int32) if positions is None else positions.astype(np.int32)
    dictionary = Linear(d=y.shape[1])
    sums = ReconstructionSums({"d": (AT_SECOND, dictionary)}, windows, {SECOND: ordinary})
    for part in np.array_split(np.arange(len(y)), batches):
        vectors = {SECOND: y[torch.from_numpy(part)]}
        reading = Reading(vectors, zeros[0][part], document[0][part], zeros[0][part], place[part])
        sums.see(reading, {"d": dictionary.encode(vectors[SECOND])})
    return {entry.name: entry.record(n_resamples=100) for entry in sums.finish()["d"]}


def planted(seed: int = 0, n: int = 60, every: int = 20) -> tuple[Tensor, np.ndarray, list[int]]:
    y = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    kept = np.arange(n) % every != every // 2
    y[torch.from_numpy(~kept)] *= 1e4
    return y, kept, np.sort(np.arange(n) % 8).tolist()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100), batches=st.integers(1, 7))
def test_without_them_is_what_the_data_without_them_give(seed: int, batches: int):
    y, kept, documents = planted(seed)
    both = measure(y, documents, FAR, batches)
    alone = measure(y[torch.from_numpy(kept)], [d for d, k in zip(documents, kept, strict=True) if k], FAR)
    for name in ("fvu", "shrinkage"):
        assert both[f"{name}_ordinary"].value == pytest.approx(alone[name].value, rel=1e-12)
        one, other = both[f"{name}_ordinary"].interval, alone[name].interval
        assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-9)
    assert both["fvu_ordinary"].n == alone["fvu"].n == kept.sum()
    assert both["fvu_ordinary"].details["left_out"] == (~kept).sum()
    assert both["fvu"].n == len(y)
    assert both["fvu"].value != both["fvu_ordinary"].value


def test_where_all_are_ordinary_the_two_are_one_number():
    y, _, documents = planted()
    found = measure(y, documents, Ordinary(torch.zeros(4), float("inf")))
    assert found["fvu"].value == found["fvu_ordinary"].value
    assert found["fvu"].interval == found["fvu_ordinary"].interval
    assert found["shrinkage"].value == found["shrinkage_ordinary"].value
    assert found["fvu_ordinary"].details["left_out"] == 0


def test_where_none_is_ordinary_nothing_was_measured():
    y, _, documents = planted()
    found = measure(y, documents, Ordinary(torch.zeros(4), 1e-9))
    assert np.isnan(found["fvu_ordinary"].value)
    assert found["fvu_ordinary"].n == 0
    assert found["fvu"].value == measure(y, documents, FAR)["fvu"].value


def test_by_position():
    y, kept, documents = planted()
    positions = np.where(kept, 5, 1)
    by_place = measure(y, documents, Ordinary(torch.zeros(4), float("inf"), positions=2), positions=positions)
    assert by_place["fvu_ordinary"].value == measure(y, documents, FAR)["fvu_ordinary"].value


class Sinks(FakeNetwork):
    """A causal network in which token 7 has a vector a thousand times as long wherever it stands."""

    def __init__(self, **options):
        super().__init__(**options)
        self.embedding[7] *= 1000


ORDINARY = {site: Ordinary(torch.zeros(WIDTH), 100.0) for site in (FIRST, SECOND)}


def test_a_networks_figures_are_those_of_its_ordinary_tokens():
    network, windows, dictionary = Sinks(), make_windows(20), Linear()
    found = evaluate_reconstruction(
        network, windows, {"d": (AT_SECOND, dictionary)}, ordinary=ORDINARY, n_resamples=100, batch_windows=3
    )["d"]
    record = {r.name: r for r in found}["fvu_ordinary"]
    y = counted(network, windows).double()
    y = y[y.norm(dim=1) < 100]
    error = (y - dictionary.decode(dictionary.encode(y.float())).double()).square().sum()
    assert record.value == pytest.approx(float(error / (y - y.mean(0)).square().sum()), rel=1e-6)
    assert record.n == len(y) < windows.n_tokens


def test_look_up_tables_are_learned_and_scored_on_ordinary_vectors():
    """second = first + ½ tanh(previous first): the token after a sink is ordinary, and its bigram explains it."""
    network, train, heldout = Sinks(), make_windows(60, seed=1), make_windows(60, seed=1)
    lookup = learn_lookup(network, train, heldout, [AT_SECOND], ordinary=ORDINARY)
    found = {r.name: r for r in evaluate_lookup(network, heldout, lookup, n_resamples=100)}
    y, tokens = counted(network, heldout).double(), heldout.tokens[~heldout.special]
    kept = (y.norm(dim=1) < 100).numpy()
    table = {t: y[tokens == t].mean(0) for t in np.unique(tokens[kept])}
    estimate = torch.stack([table[t] for t in tokens[kept]])
    expected = (y[kept] - estimate).square().sum() / (y[kept] - y[kept].mean(0)).square().sum()
    assert found["fvu_token_ordinary"].value == pytest.approx(float(expected), rel=1e-4)
    assert found["fvu_bigram_ordinary"].value == pytest.approx(0, abs=1e-9)
    assert found["fvu_token_ordinary"].n == kept.sum()
    plain = learn_lookup(network, train, heldout, [AT_SECOND])
    assert "fvu_token_ordinary" not in {r.name for r in evaluate_lookup(network, heldout, plain, n_resamples=100)}
    whole = {SECOND: Ordinary(torch.zeros(WIDTH), float("inf"))}
    same = learn_lookup(network, train, heldout, [AT_SECOND], ordinary=whole)
    assert all(torch.equal(same.tables[key], plain.tables[key]) for key in plain.tables)


MEANS = {site: counted(FakeNetwork(), make_windows(), site).mean(0) for site in (FIRST, SECOND)}


def spliced(network: FakeNetwork, chosen, ordinary=None, trained_on=None) -> dict[tuple[str, str], MetricRecord]:
    options = {"ordinary": ordinary, "trained_on": trained_on, "n_resamples": 100}
    found = splice(network, make_windows(20), {"s": chosen}, MEANS, **options)["s"]
    return {(r.name, str(r.scope["site"])): r for r in found if r.scope.get("ablation") != "zero"}


def test_patching_ordinary_vectors_alone_is_a_hand_patched_pass():
    network, windows, dictionary = Sinks(), make_windows(20), Linear()
    special = torch.from_numpy(windows.special)
    tokens = torch.from_numpy(windows.tokens).long()
    clean = network.read(tokens, [FIRST, SECOND])

    def patch(site):
        left = special | (clean[site].norm(dim=-1) > 100)
        return lambda x: torch.where(
            left[..., None], x, dictionary.decode(dictionary.encode(x.reshape(-1, WIDTH))).reshape(x.shape)
        )

    both = {AT_FIRST: dictionary, AT_SECOND: dictionary}
    found, plain = spliced(network, both, ORDINARY), spliced(network, both)
    for name, sites in (("first.out", [FIRST]), ("second.out", [SECOND]), ("joint", [FIRST, SECOND])):
        logits = network.run(tokens, edits={site: patch(site) for site in sites}).logits
        keep = ~special[:, 1:]
        ce = torch.nn.functional.cross_entropy(logits[:, :-1][keep].double(), tokens[:, 1:][keep])
        record = found["ce_patched_ordinary", name]
        assert record.value == pytest.approx(float(ce), rel=1e-5)
        assert record.details["patched_differently"] > 0
        increase = found["ce_increase_ordinary", name].value
        assert increase == pytest.approx(record.value - found["ce_clean", name].value, rel=1e-9)
        for metric in ("ce_clean", "ce_patched", "ce_zero", "kl"):
            assert found[metric, name].value == plain[metric, name].value


def test_a_dictionary_that_is_right_where_vectors_are_ordinary_costs_nothing_there():
    class Blind(Identity):
        """The identity for small vectors, nothing for large ones."""

        def decode(self, z):
            y = super().decode(z)
            return torch.where(y.norm(dim=1, keepdim=True) < 100, y, 0)

    found = spliced(Sinks(), {AT_SECOND: Blind()}, ORDINARY)
    assert found["ce_increase_ordinary", "second.out"].value == 0
    assert found["ce_increase", "second.out"].value != 0


def test_where_all_are_ordinary_no_pass_is_added():
    network, again = FakeNetwork(), FakeNetwork()
    plain, found = spliced(network, {AT_SECOND: Linear()}), spliced(again, {AT_SECOND: Linear()}, ORDINARY)
    assert again.passes == network.passes
    assert found.keys() == plain.keys()
    assert all(found[key].model_dump_json() == plain[key].model_dump_json() for key in plain)


def test_what_training_left_out_keeps_the_networks_vectors_and_the_other_choice_is_shown():
    both = {AT_FIRST: Linear(), AT_SECOND: Linear(seed=1)}
    plain = spliced(Sinks(), both, ORDINARY)
    found = spliced(Sinks(), both, ORDINARY, trained_on=ORDINARY)
    for site in ("first.out", "second.out", "joint"):
        assert found["ce_patched", site].value == plain["ce_patched_ordinary", site].value
        assert found["ce_patched_all", site].value == plain["ce_patched", site].value
        assert found["ce_increase_all", site].value == pytest.approx(plain["ce_increase", site].value, rel=1e-12)
        assert found["ce_clean", site].value == plain["ce_clean", site].value
        assert ("ce_patched_ordinary", site) not in found
        assert "those that training left out" in found["ce_patched", site].details["edited"]
    # The ablation is of the same tokens as the patch, or CE recovered would compare two different things.
    constants = {Binding.at(site): Constant(mean) for site, mean in MEANS.items()}
    same = spliced(Sinks(), constants, ORDINARY, trained_on=ORDINARY)
    for site in ("first.out", "second.out", "joint"):
        assert same["ce_patched", site].value == pytest.approx(same["ce_mean", site].value, rel=1e-6)


def test_continued_text_leaves_alone_what_training_left_out():
    network, tokens = Sinks(), torch.tensor([[3, 7, 4, 5]])
    counted_tokens = torch.ones_like(tokens, dtype=torch.bool)
    zero = {AT_SECOND: Constant(torch.zeros(WIDTH))}
    put = patch_edits(network, zero, {AT_SECOND: counted_tokens}, ORDINARY)[SECOND]
    assert not isinstance(put, EditFrom)
    seen = {}

    def keep(x: Tensor) -> Tensor:
        seen["x"] = put(x)
        return seen["x"]

    network.run(tokens, edits={SECOND: keep})
    clean = network.read(tokens, [SECOND])[SECOND]
    assert torch.equal(seen["x"][0, 1], clean[0, 1])
    assert seen["x"][0, [0, 2, 3]].abs().max() == 0
