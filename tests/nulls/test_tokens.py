"""Each null of the data keeps what it says it keeps and destroys what it says it destroys."""

import numpy as np
import pytest

from polyseme.corpora import Windows, pack
from polyseme.nulls import make_null

BOS = 0


@pytest.fixture
def windows() -> Windows:
    rng = np.random.default_rng(1)
    # Document i draws from its own ten ids, so documents differ; within each the tokens ascend, so order shows.
    texts = {f"d{i}": np.sort(rng.integers(10 * i + 1, 10 * i + 11, 60 + i)).tolist() for i in range(6)}
    return pack([(n, n) for n in texts], lambda t: [texts[n] for n in t], context=32, prefix=BOS)


def null_of(kind):
    return lambda windows, seed, vocabulary=80: make_null(kind, seed).windows(windows, vocabulary)


shuffle_within_document, unigram_tokens, _uniform = map(
    null_of, ("shuffled_tokens", "unigram_tokens", "uniform_tokens")
)
TRANSFORMS = {"shuffle": shuffle_within_document, "unigram": unigram_tokens, "uniform": _uniform}


def uniform_tokens(windows, vocabulary, seed):
    return _uniform(windows, seed, vocabulary)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_shape_boundaries_and_special_tokens_stay(windows, name):
    before = windows.tokens.copy()
    null = TRANSFORMS[name](windows, 3)
    np.testing.assert_array_equal(windows.tokens, before)  # the original is untouched
    np.testing.assert_array_equal(null.special, windows.special)
    np.testing.assert_array_equal(null.document, windows.document)
    np.testing.assert_array_equal(null.tokens[null.special], windows.tokens[windows.special])
    assert null.tokens.dtype == windows.tokens.dtype
    assert null.names == windows.names


@pytest.mark.parametrize("name", TRANSFORMS)
def test_seeds_repeat_and_differ(windows, name):
    transform = TRANSFORMS[name]
    np.testing.assert_array_equal(transform(windows, 3).tokens, transform(windows, 3).tokens)
    assert (transform(windows, 3).tokens != transform(windows, 4).tokens).any()


def test_shuffling_keeps_each_documents_tokens_and_destroys_order(windows):
    null = shuffle_within_document(windows, 0)
    counted = ~windows.special
    for document in range(6):
        chosen = counted & (windows.document == document)
        assert sorted(null.tokens[chosen]) == sorted(windows.tokens[chosen])
        steps = np.diff(null.tokens[chosen])
        assert (steps < 0).mean() > 0.2  # the original never descends


def test_shuffling_moves_tokens_evenly():
    texts = {"d": [1, 2, 3, 4]}
    windows = pack([("d", "d")], lambda t: [texts[n] for n in t], context=6, prefix=BOS)
    firsts = [shuffle_within_document(windows, seed).tokens[0, 1] for seed in range(400)]
    counts = np.bincount(firsts, minlength=5)[1:]
    assert (np.abs(counts - 100) < 45).all()  # five standard deviations


def test_unigram_tokens_keep_the_distribution_and_forget_documents(windows):
    big = Windows(
        np.tile(windows.tokens, (40, 1)),
        np.tile(windows.document, (40, 1)),
        np.tile(windows.special, (40, 1)),
        windows.names,
        windows.n_bytes,
    )
    null = unigram_tokens(big, 0)
    counted = ~big.special
    before, after = (np.bincount(w.tokens[counted], minlength=80) / counted.sum() for w in (big, null))
    assert np.abs(before - after).max() < 0.005
    assert not after[before == 0].any()
    first = null.tokens[counted & (big.document == 0)]
    assert (first > 10).mean() > 0.6  # the first document held only ids up to 10


def test_uniform_tokens_cover_the_vocabulary_without_special_ids(windows):
    counted = ~windows.special
    drawn = np.concatenate([uniform_tokens(windows, 80, seed).tokens[counted] for seed in range(20)])
    assert set(drawn) == set(range(1, 80))
    counts = np.bincount(drawn, minlength=80)[1:]
    assert counts.max() / counts.mean() < 1.6
