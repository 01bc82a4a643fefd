"""The statistics that every stage shares, against known answers and against scipy."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.core import stats
from polyseme.core.stats import (
    benjamini_hochberg,
    bootstrap_documents,
    least_documents,
    resampling_weights,
    wilson_interval,
)

shares = st.floats(0, 1, allow_subnormal=False)


def test_the_correction_of_the_paper_itself() -> None:
    """Benjamini & Hochberg 1995, section 4: of these fifteen, the four smallest are rejected at .05."""
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    adjusted = benjamini_hochberg(np.array(p))
    assert (adjusted <= 0.05).tolist() == [True] * 4 + [False] * 11
    assert adjusted[3] == pytest.approx(0.0095 * 15 / 4)


@given(p=st.lists(shares, min_size=1, max_size=30), left_out=st.integers(0, 3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_the_correction_is_scipys_and_nan_is_no_test(p: list[float], left_out: int, seed: int) -> None:
    expected = scipy.stats.false_discovery_control(np.array(p))
    mixed = np.array(p + [math.nan] * left_out)
    order = np.random.default_rng(seed).permutation(len(mixed))
    found = np.empty_like(mixed)
    found[order] = benjamini_hochberg(mixed[order])
    np.testing.assert_allclose(found[: len(p)], expected, rtol=1e-12)
    assert np.isnan(found[len(p) :]).all()


def test_wilson_interval_of_known_shares() -> None:
    some = wilson_interval(10, 50)
    assert (some.low, some.high) == pytest.approx((0.1124, 0.3304), abs=1e-4)
    none = wilson_interval(0, 50)
    assert (none.low, none.high) == pytest.approx((0, 0.0713), abs=1e-4)
    assert math.isnan(wilson_interval(0, 0).low)


def test_resampling_draws_as_many_documents_as_there_are() -> None:
    weights = resampling_weights(7, seed=3, n_resamples=50)
    assert weights.shape == (50, 7)
    assert (weights.sum(1) == 7).all()
    assert (weights == resampling_weights(7, seed=3, n_resamples=50)).all()
    assert (weights != resampling_weights(7, seed=4, n_resamples=50)).any()
    with pytest.raises(ValueError, match="read-only"):  # the next to ask may be given the same table
        weights[0, 0] += 1


def test_documents_not_tokens_are_resampled() -> None:
    """A token's value is its document's own: the interval is the documents', however many tokens each has."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        per_document = rng.normal(size=40)
        totals = np.stack([per_document * 50, np.full(40, 50.0)], axis=1)
        _, interval = bootstrap_documents(totals, lambda t: t[..., 0] / t[..., 1], seed=seed, n_resamples=400)
        covered += interval.low <= 0 <= interval.high
        width = 2 * 1.96 / math.sqrt(40)
        assert interval.high - interval.low == pytest.approx(width, rel=0.45)
    # 95% of 200 is 190; the percentile interval of 40 documents covers a little less.
    assert 177 <= covered <= 199


@pytest.mark.parametrize(("level", "least"), [(0.5, 2), (0.9, 5), (0.95, 6), (0.99, 8), (0.999, 11)])
def test_an_interval_needs_the_documents_that_can_carry_its_level(level: float, least: int) -> None:
    """From the least to the greatest of n values the median is missed with probability 2 · 2⁻ⁿ."""
    assert least_documents(level) == least
    assert 2 * 0.5**least <= 1 - level + 1e-12
    assert 2 * 0.5 ** (least - 1) > 1 - level + 1e-12 or least == 2
    for n, known in ((least - 1, False), (least, True)):
        sums = np.stack([np.ones(n), np.arange(n, dtype=float)], axis=1)
        value, interval = bootstrap_documents(sums, lambda s: s[..., 1] / s[..., 0], seed=0, level=level)
        assert value == (n - 1) / 2
        assert (not math.isnan(interval.low)) == known


@given(n=st.integers(1, 12), effect=st.sampled_from([0.0, 1.0, 1e-300]), n_resamples=st.sampled_from([1, 20, 100]))
@settings(deadline=None, max_examples=40)
def test_effects_all_alike_never_differ_from_themselves(n: int, effect: float, n_resamples: int) -> None:
    sums = np.stack([np.ones(n), np.full(n, effect)], axis=1)
    _, interval = bootstrap_documents(sums, lambda s: s[..., 1] / s[..., 0], seed=0, n_resamples=n_resamples)
    assert not interval.excludes(effect)
    assert math.isnan(interval.low) == (n < 6)


def test_resamples_drawn_some_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).normal(size=(40, 3))
    whole = stats.resampled_totals(sums, seed=5, n_resamples=101)
    monkeypatch.setattr(stats, "_AT_ONCE", 7 * 40)
    np.testing.assert_allclose(stats.resampled_totals(sums, seed=5, n_resamples=101), whole, rtol=1e-12)
