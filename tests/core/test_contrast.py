"""Variances of a few replicates, sums of errors, and the test they serve: its size against known truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from polyseme.core.contrast import Contrast, combined, moderated, moderated_together


def drawn(rng, n_latents, kind):
    """Standard deviations of latents."""
    return {
        "alike": np.ones(n_latents),
        "scaled": np.sqrt(4 / rng.chisquare(4, n_latents)),
        "lognormal": np.exp(rng.normal(0, 0.5, n_latents)),
    }[kind]


def sizes(n, kind, *, n_latents=500, repeats=40, shared=0.0, seed=0):
    """How many times as often as it should p is at most 0.05, 0.01 and 0.001, with n replicates of mean 0."""
    rng = np.random.default_rng(seed)
    p = []
    for _ in range(repeats):
        replicates = rng.normal(size=(n, n_latents)) * drawn(rng, n_latents, kind) + shared * rng.normal(size=(n, 1))
        spread = moderated(replicates)
        zero = np.zeros(n_latents)
        p.append(Contrast(replicates.mean(0), zero, np.sqrt(spread.variance / n), spread.freedom, zero).p())
    return [float((np.concatenate(p) <= level).mean() / level) for level in (0.05, 0.01, 0.001)]


@pytest.mark.parametrize("kind", ["alike", "scaled", "lognormal"])
@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_size_of_the_test_of_few_replicates(n, kind):
    at_5, at_1, at_01 = sizes(n, kind)
    assert 0.85 < at_5 < 1.2
    assert 0.6 < at_1 < 1.4
    assert at_01 < 2.5


@pytest.mark.parametrize(("n", "shared"), [(2, 0.5), (5, 0.5), (5, 2.0)])
def test_what_a_replicate_does_to_all_latents_is_not_known_better_for_their_number(n, shared):
    at_5, at_1, at_01 = sizes(n, "alike", n_latents=50, repeats=800, shared=shared)
    assert 0.6 < at_5 < 1.15
    assert at_1 < 1.25
    assert at_01 < 2.0


@pytest.mark.parametrize("n_latents", [3, 10, 30])
def test_few_latents_lend_little(n_latents):
    assert max(sizes(2, "alike", n_latents=n_latents, repeats=12_000 // n_latents)) < 1.6


def test_a_variance_is_drawn_to_the_usual_one_as_smyth_says():
    # s₀² = 1 and d₀ = 4 behind the variances, which have d = 2 degrees of freedom of their own.
    rng = np.random.default_rng(1)
    n_latents, d0, d = 40_000, 4, 2
    replicates = rng.normal(size=(d + 1, n_latents)) * np.sqrt(d0 / rng.chisquare(d0, n_latents))
    spread = moderated(replicates)
    own = replicates.var(axis=0, ddof=1)
    np.testing.assert_allclose(spread.variance, (d0 + d * own) / (d0 + d), rtol=0.1)
    np.testing.assert_allclose(spread.freedom, d0 + d, rtol=0.1)


def test_latents_without_replicates_are_not_measured_and_lend_nothing():
    rng = np.random.default_rng(2)
    replicates = rng.normal(size=(4, 50))
    with_gap = np.insert(replicates, 7, np.nan, axis=1)
    whole, gap = moderated(replicates), moderated(with_gap)
    assert np.isnan([gap.variance[7], gap.freedom[7]]).all()
    np.testing.assert_allclose(np.delete(gap.variance, 7), whole.variance)
    assert np.isnan(moderated(replicates[:1]).variance).all()
    assert moderated(np.empty((3, 0))).variance.shape == (0,)
    one = moderated(replicates[:, :1])
    assert (one.variance[0], one.freedom[0]) == (pytest.approx(replicates[:, 0].var(ddof=1)), 3)


def test_replicates_that_are_all_alike():
    same = moderated(np.ones((3, 20)))
    assert (same.variance == 0).all()
    rng = np.random.default_rng(3)
    some = rng.normal(size=(3, 20))
    some[:, :5] = 0.25
    spread = moderated(some)
    assert (spread.variance > 0).all()
    assert (spread.freedom > 0).all()


@given(
    seed=st.integers(0, 10_000), n=st.integers(2, 6), n_latents=st.integers(1, 12), scale=st.sampled_from([1e-6, 3.0])
)
@settings(deadline=None, max_examples=60)
def test_neither_order_nor_units_matter(seed, n, n_latents, scale):
    rng = np.random.default_rng(seed)
    replicates = rng.normal(size=(n, n_latents)) * np.exp(rng.normal(size=n_latents))
    order, latents = rng.permutation(n), rng.permutation(n_latents)
    first, second = moderated(replicates), moderated(scale * replicates[order][:, latents])
    np.testing.assert_allclose(first.variance[latents] * scale**2, second.variance, rtol=1e-6)
    np.testing.assert_allclose(first.freedom[latents], second.freedom, rtol=1e-6)


def test_kinds_of_other_variance_are_moderated_together():
    rng = np.random.default_rng(4)
    sd = np.exp(rng.normal(0, 0.7, 3000))
    groups = {kind: rng.normal(size=(4, 3000)) * sd * scale for kind, scale in {"small": 0.1, "large": 10.0}.items()}
    together = moderated_together({**groups, "one": rng.normal(size=(1, 3000))})
    for kind, scale in {"small": 0.1, "large": 10.0}.items():
        assert np.corrcoef(np.log(together[kind].variance), np.log(sd))[0, 1] > 0.85
        assert np.median(together[kind].variance / (sd * scale) ** 2) == pytest.approx(1, abs=0.2)
        alone = moderated(groups[kind])
        assert together[kind].freedom[0] > alone.freedom[0]
    assert np.isnan(together["one"].variance).all()


@pytest.mark.parametrize("freedoms", [(3.5, 3.5), (7.0, 7.0, 19.0), (2.5, 19.0), (12.0, math.inf)])
def test_a_sum_of_students_keeps_the_size_of_its_test(freedoms):
    rng = np.random.default_rng(5)
    n = 300_000
    total = np.sum([rng.standard_t(nu, n) if math.isfinite(nu) else rng.normal(size=n) for nu in freedoms], axis=0)
    error, freedom = combined(*((np.ones(n), np.full(n, nu)) for nu in freedoms))
    zero = np.zeros(n)
    p = Contrast(total, zero, error, freedom, zero).p()
    assert (p <= 0.05).mean() / 0.05 == pytest.approx(1, abs=0.12)
    assert 0.7 < (p <= 0.01).mean() / 0.01 < 1.15
    assert 0.6 < (p <= 0.001).mean() / 0.001 < 1.7


def test_a_part_alone_and_known_parts_are_added_exactly():
    error, freedom = combined((np.array([4.0, 0.0, np.nan, 1.0]), np.array([5.0, 3.0, 4.0, np.nan])))
    np.testing.assert_allclose(error[:2], [2, 0])
    assert (freedom[0], freedom[1]) == (pytest.approx(5), math.inf)
    assert np.isnan(error[2:]).all()
    known = combined((np.array([9.0]), np.array([math.inf])), (np.array([16.0]), np.array([math.inf])))
    assert (known[0][0], known[1][0]) == (5, math.inf)


@given(difference=st.floats(-3, 3), least=st.floats(-1, 1), error=st.floats(0.01, 5), freedom=st.floats(1, 200))
@settings(deadline=None)
def test_p_and_intervals_are_students(difference, least, error, freedom):
    value, zero = np.array([difference + 0.3]), np.zeros(1)
    made = Contrast(value, zero + 0.3, zero + error, zero + freedom, zero)
    assert made.p(least)[0] == pytest.approx(student.sf((made.difference[0] - least) / error, freedom), rel=1e-6)
    low, high = (bound[0] for bound in made.interval())
    assert (low, high) == pytest.approx(student.interval(0.95, freedom, made.difference[0], error), rel=1e-6)
    reached = Contrast(made.reaches(0.03, least), zero, zero + error, zero + freedom, zero)
    assert reached.p(least)[0] == pytest.approx(0.03, rel=1e-6)
    normal = Contrast(value, zero + 0.3, zero + error, zero + math.inf, zero)
    assert normal.p(least)[0] == pytest.approx(norm.sf((made.difference[0] - least) / error), rel=1e-6)


def test_an_error_of_zero_and_what_is_not_finite():
    zero = np.zeros(6)
    odd = np.array([1.0, 0.0, -1.0, np.nan, np.inf, 1.0])
    made = Contrast(odd, zero, zero, np.array([1.0, 1, 1, 1, 1, np.nan]), zero)
    np.testing.assert_array_equal(made.p(), [0, 1, 1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(made.reaches(0.01, 0.5)[:5], 0.5)
    endless = Contrast(zero + 1, zero, zero + np.inf, zero + 3, zero)
    assert np.isnan(endless.p()).all()
