"""Look-up tables: what a token or a bigram determines is explained, and nothing is learned from held-out windows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.records import MetricRecord
from polyseme.corpora.pack import Windows, pack
from polyseme.evaluation.lookup import LookupConfig, LookupSums, evaluate_lookup, learn_lookup, lookup_keys
from polyseme.evaluation.sweep import sweep
from tests.evaluation.fakes import AT_FIRST, AT_SECOND, VOCABULARY, Constant, FakeNetwork, counted, make_windows

TRAIN = make_windows(60, seed=1)
HELDOUT = make_windows(8, seed=2)


def windows_of(*documents: list[int]) -> Windows:
    encoded = {f"doc{i}": tokens for i, tokens in enumerate(documents)}
    return pack([(n, n) for n in encoded], lambda texts: [encoded[t] for t in texts], context=8, prefix=0)


def measure(
    train: Windows = TRAIN, heldout: Windows = HELDOUT, config: LookupConfig | None = None, **options
) -> dict[tuple[str, str], MetricRecord]:
    network = FakeNetwork()
    lookup = (config or LookupConfig()).build(network, train, heldout, [AT_FIRST, AT_SECOND])
    found = evaluate_lookup(network, heldout, lookup, n_resamples=100, **options)
    return {(record.name, str(record.scope["site"])): record for record in found}


def test_a_function_of_the_token_is_wholly_explained_by_it():
    """first = E[token]; second = first + ½ tanh(E[previous token]), a function of the bigram."""
    found = measure()
    assert found["fvu_token", "first.out"].value == pytest.approx(0, abs=1e-10)
    assert found["fvu_bigram", "first.out"].value == pytest.approx(0, abs=1e-10)
    assert found["fvu_token", "second.out"].value > 0.05
    assert found["fvu_bigram", "second.out"].value < found["fvu_token", "second.out"].value
    assert found["fvu_token", "first.out"].details["coverage"] == 1
    known = windows_of([3, 4, 5, 6, 7, 8])
    seen = measure(train=known, heldout=known)
    assert seen["fvu_bigram", "second.out"].value == pytest.approx(0, abs=1e-10)
    assert seen["fvu_bigram", "second.out"].details["coverage"] == 1


def test_the_tables_are_the_means_over_training_tokens():
    network = FakeNetwork()
    lookup = learn_lookup(network, TRAIN, HELDOUT, [AT_SECOND])
    y, tokens = counted(network, TRAIN).double(), TRAIN.tokens[~TRAIN.special]
    bigrams = lookup_keys(TRAIN, "bigram")[~TRAIN.special]
    for i, token in enumerate(lookup.keys["token"]):
        assert torch.allclose(lookup.tables[AT_SECOND, "token"][i].double(), y[tokens == token].mean(0), atol=1e-6)
    for i, key in enumerate(lookup.keys["bigram"]):
        assert torch.allclose(lookup.tables[AT_SECOND, "bigram"][i].double(), y[bigrams == key].mean(0), atol=1e-5)
    assert torch.allclose(lookup.means[AT_SECOND].double(), y.mean(0), atol=1e-6)


def test_what_training_never_held_falls_back():
    train, heldout = windows_of([1, 2, 3, 1, 2]), windows_of([1, 2, 9], [3, 2])
    network = FakeNetwork()
    found = measure(train, heldout)["fvu_bigram", "second.out"]
    assert found.details["coverage"] == pytest.approx(2 / 5)  # (BOS, 1) and (1, 2); not (2, 9), (BOS, 3), (3, 2)
    assert measure(train, heldout)["fvu_token", "second.out"].details["coverage"] == pytest.approx(4 / 5)
    y, x = counted(network, heldout).double(), counted(network, train).double()
    token = {1: x[[0, 3]].mean(0), 2: x[[1, 4]].mean(0), 3: x[2]}
    estimate = torch.stack([x[0], x[[1, 4]].mean(0), x.mean(0), token[3], token[2]])
    # (BOS, 1) stands only at the start; (1, 2) twice; 9 is unknown; 3 and 2 fall back on their tokens.
    expected = (y - estimate).square().sum() / (y - y.mean(0)).square().sum()
    assert found.value == pytest.approx(float(expected), rel=1e-5)


def test_bounded_tables_keep_the_most_frequent_bigrams():
    network = FakeNetwork()
    train = heldout = windows_of([5, 6, 5, 6, 5, 6, 7])
    lookup = learn_lookup(network, train, heldout, [AT_SECOND], config=LookupConfig(max_bigrams=1))
    assert lookup.keys["bigram"].tolist() == [(5 + 1) * 2**31 + 6]
    none = measure(train, heldout, LookupConfig(max_bigrams=0))
    assert none["fvu_bigram", "second.out"].value == none["fvu_token", "second.out"].value
    assert none["fvu_bigram", "second.out"].details["coverage"] == 0


def test_batches_change_nothing():
    one, many = measure(config=LookupConfig(batch_windows=1), batch_windows=1), measure()
    for key in one:
        assert one[key].value == pytest.approx(many[key].value, rel=1e-5, abs=1e-10)


def test_only_training_windows_teach():
    """Changing what stands around the same held-out tokens leaves the tables as they were."""
    network, other = FakeNetwork(), windows_of([2, 1, 3])
    before = learn_lookup(network, TRAIN, other, [AT_SECOND])
    after = learn_lookup(network, TRAIN, windows_of([3, 2, 1]), [AT_SECOND])
    assert torch.equal(before.tables[AT_SECOND, "token"], after.tables[AT_SECOND, "token"])


def test_scores_ride_along_with_another_pass():
    network = FakeNetwork()
    lookup = learn_lookup(network, TRAIN, HELDOUT, [AT_SECOND])
    sums = LookupSums(lookup, HELDOUT)
    before = network.passes
    sweep(network, HELDOUT, {"d": (AT_SECOND, Constant(torch.zeros(6)))}, [sums.see], batch_windows=1000)
    assert network.passes == before + 1
    entries = sums.finish(scope={"control": "none"})
    assert [entry.name for entry in entries] == ["fvu_token", "fvu_bigram"]
    assert entries[0].scope == {"site": "second.out", "baseline": "token", "control": "none"}


def test_a_large_common_offset_does_not_cancel():
    class Offset(FakeNetwork):
        def _forward(self, tokens: Tensor, edits) -> dict:
            return {site: x + 1e4 for site, x in super()._forward(tokens, edits).items()}

    network = Offset()
    lookup = learn_lookup(network, TRAIN, HELDOUT, [AT_SECOND])
    plain = measure()["fvu_token", "second.out"].value
    assert evaluate_lookup(network, HELDOUT, lookup, n_resamples=10)[0].value == pytest.approx(plain, rel=1e-2)


def test_no_training_token_is_an_input_error():
    silent = Windows(TRAIN.tokens, TRAIN.document, np.ones_like(TRAIN.special), TRAIN.names, TRAIN.n_bytes)
    with pytest.raises(InputError, match="no training token"):
        learn_lookup(FakeNetwork(), silent, HELDOUT, [AT_SECOND])


def test_keys_tell_every_bigram_apart():
    keys = lookup_keys(windows_of([1, 2, 3]), "bigram")[0]
    assert keys[0] == 0 * 2**31 + 0  # BOS, with nothing before it
    assert keys[1] == (0 + 1) * 2**31 + 1
    assert len({(a + 1) * 2**31 + b for a in range(-1, VOCABULARY) for b in range(VOCABULARY)}) == VOCABULARY * 21
