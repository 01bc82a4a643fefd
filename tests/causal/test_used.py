"""The test behind the axis `used`: the latent as one more draw of each null, with variances pooled over nulls."""

import numpy as np
import pytest
from scipy.stats import t

from polyseme.causal import CausalEffects, Expected
from polyseme.core.contrast import moderated_together

NULLS = ("isotropic", "other_latent")


def effects_of(expected, nulls, error=0.0) -> CausalEffects:
    n, none = len(expected), np.empty(0)
    count = np.zeros(n, dtype=np.int64)
    samples = {f"sample_{part}": none.astype(np.int32) for part in ("latent", "row")}
    samples |= {f"sample_{part}": none for part in ("kl", "loss", "expected")}
    effect = Expected(expected, np.full(n, error), nulls)
    return CausalEffects(effect, effect, {}, count, count, count, **samples)


def drawn(rng, n, k, *, spread=1.0, factors=(1.0, 3.0)):
    """Null values of latents whose variances differ a lot, with a factor for each null."""
    size = np.exp(spread * rng.standard_normal(n))
    nulls = {name: by * size * rng.standard_normal((k, n)) for name, by in zip(NULLS, factors, strict=True)}
    return size, nulls


def test_the_statistic_is_that_of_one_more_draw():
    rng = np.random.default_rng(0)
    size, nulls = drawn(rng, 50, 4)
    expected = size * rng.standard_normal(50) + 2
    contrasts = effects_of(expected, nulls, error=0.3).used()
    spreads = moderated_together(nulls)
    for name, null in nulls.items():
        contrast, spread = contrasts[name], spreads[name]
        statistic = (expected - null.mean(axis=0)) / np.sqrt(spread.variance * (1 + 1 / 4))
        np.testing.assert_allclose(contrast.p(), t.sf(statistic, spread.freedom), rtol=1e-6)
        np.testing.assert_allclose(contrast.redrawn**2, 0.3**2 + spread.variance / 4)


def test_variances_of_all_nulls_are_pooled_with_a_factor_for_each():
    rng = np.random.default_rng(1)
    n, k = 4000, 4
    size, nulls = drawn(rng, n, k)
    spreads = moderated_together(nulls)
    for name, by in zip(NULLS, (1.0, 3.0), strict=True):
        ratio = np.log(spreads[name].variance / (by * size) ** 2)
        assert np.median(ratio) == pytest.approx(0, abs=0.1)
        assert 2 * (k - 1) < np.median(spreads[name].freedom) < 2 * (k - 1) + 2
    # Each latent's is nearer to its own than that of either null alone is.
    alone = np.log(nulls["isotropic"].var(axis=0, ddof=1) / size**2)
    assert np.log(spreads["isotropic"].variance / size**2).std() < 0.8 * alone.std()


@pytest.mark.parametrize("k", [2, 3, 8])
def test_a_latent_that_is_one_more_draw_has_uniform_p_values(k):
    rng = np.random.default_rng(k)
    n = 20_000
    size, nulls = drawn(rng, n, k)
    for name, by in zip(NULLS, (1.0, 3.0), strict=True):
        p = effects_of(by * size * rng.standard_normal(n), nulls).used()[name].p()
        for alpha, within in ((0.05, 0.008), (0.01, 0.004), (0.001, 0.0012)):
            assert abs((p < alpha).mean() - alpha) < within


def test_what_was_not_measured_lends_nothing_and_gets_no_answer():
    rng = np.random.default_rng(3)
    size, nulls = drawn(rng, 40, 3)
    expected = size * rng.standard_normal(40)
    whole = effects_of(expected, nulls).used()
    more = {name: np.concatenate([null, np.full((3, 5), np.nan)], axis=1) for name, null in nulls.items()}
    some = effects_of(np.concatenate([expected, np.full(5, np.nan)]), more).used()
    for name in NULLS:
        np.testing.assert_allclose(some[name].p()[:40], whole[name].p())
        assert np.isnan(some[name].p()[40:]).all()
    # A null without two directions has no variance, and takes nothing from the other.
    for few in (0, 1):
        lacking = effects_of(expected, {**nulls, "other_latent": nulls["other_latent"][:few]}).used()
        assert np.isnan(lacking["other_latent"].p()).all()
        alone = effects_of(expected, {"isotropic": nulls["isotropic"]}).used()
        np.testing.assert_allclose(lacking["isotropic"].p(), alone["isotropic"].p())


def test_latents_that_stand_for_nothing_change_no_others():
    rng = np.random.default_rng(4)
    size, nulls = drawn(rng, 200, 3)
    expected = size * rng.standard_normal(200)
    whole = effects_of(expected, nulls).used()
    still = {name: np.concatenate([null, 1e-9 * rng.standard_normal((3, 60))], axis=1) for name, null in nulls.items()}
    some = effects_of(np.concatenate([expected, np.zeros(60)]), still).used()
    for name in NULLS:
        np.testing.assert_allclose(some[name].p()[:200], whole[name].p(), rtol=0.02)
        assert (some[name].p()[200:] > 0.1).all()
