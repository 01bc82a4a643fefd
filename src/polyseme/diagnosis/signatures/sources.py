"""Whether the vectors have components of their own, beyond their covariance, and whether they lie along the neurons."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from polyseme.core.records import Evidence, Interval
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.components import GAUSSIAN, independent_sources, log_cosh
from polyseme.diagnosis.geometry import (
    Directions,
    p_value,
    percentiles,
    purity,
    resample_mean,
    rotations,
    turned_purity,
)
from polyseme.diagnosis.observations import Observations

NON_GAUSSIAN = 0.01
"""Gain in |E log cosh − that of a Gaussian| over random components that counts; a uniform variable's is .02."""
TWO_SIDED = 0.2
"""Rarer tail over commoner one from which a source counts as two-sided, and share of such sources that counts."""
_REFITS = 10


def sources(seen: Observations) -> Evidence:
    """How much further from a Gaussian the independent components are than random ones, on rows not fitted.

    For Gaussian vectors, and all that only their covariance sets apart, the expectation is 0.
    """
    (_, fit, held_out, found), rng = seen.components, _rng(seen, "sources")
    sign = np.sign(log_cosh(found.values[fit]).mean(0) - GAUSSIAN)
    mine = (sign * (log_cosh(found.values[held_out]) - GAUSSIAN)).mean(1)
    signs = np.sign(log_cosh(found.random[fit]).mean(0) - GAUSSIAN)
    others = (signs * (log_cosh(found.random[held_out]) - GAUSSIAN)).mean(1)
    interval = resample_mean(lambda r: float((mine - others)[r].mean()), len(mine), seen.config.n_resamples, rng)
    return Evidence(
        name="sources",
        effect=float((mine - others).mean()),
        interval=interval,
        null=0.0,
        n=len(held_out),
        n_unit="vectors",
        threshold=NON_GAUSSIAN,
        passed=interval.low >= NON_GAUSSIAN,
        note=f"{len(found.directions)} components; null: random ones",
    )


def source_purity(seen: Observations) -> Evidence:
    """How far each neuron answers to one of the components, against random rotations of the site."""
    found, rng = seen.components.sources, _rng(seen, "source_purity")
    D = found.directions
    value = float(purity(D))
    null = (
        purity(D @ rotations(seen.config.draws(seen.config.n_null // 4), D.shape[1], rng))
        if 1 < D.shape[1] <= 256
        else np.ones(100)
    )
    p, interval = p_value(value, null, larger=True), _refitted(seen, purity, rng)
    return Evidence(
        name="source_purity",
        effect=value,
        interval=interval,
        null=float(null.mean()),
        n=len(D),
        n_unit="components",
        threshold=seen.config.pure,
        p_corrected=p,
        passed=interval.low >= seen.config.pure and p <= seen.config.alpha,
        note="null: random rotations of the site",
    )


def source_rotation(seen: Observations) -> Evidence:
    """Purity after the rotation that serves the components best, against random directions."""
    found, rng = seen.components.sources, _rng(seen, "source_rotation")
    D = found.directions
    value = float(turned_purity(D))
    null = turned_purity(rng.standard_normal((seen.config.draws(100), *D.shape)))
    p = p_value(value, null, larger=True)
    interval = _refitted(seen, turned_purity, rng)
    return Evidence(
        name="source_rotation",
        effect=value,
        interval=interval,
        null=float(null.mean()),
        n=len(D),
        n_unit="components",
        threshold=seen.config.pure,
        p_corrected=p,
        passed=interval.low >= seen.config.pure and p <= seen.config.alpha,
        note="null: random directions",
    )


def two_sided(seen: Observations) -> Evidence:
    """Share of components with two heavy tails: each may be one variable of both signs or two opposed features."""
    (_, _, held_out, found), rng = seen.components, _rng(seen, "two_sided")
    values = found.values[held_out]
    up, down = (values > 2.5).sum(0), (values < -2.5).sum(0)
    both = np.minimum(up, down) >= TWO_SIDED * np.maximum(np.maximum(up, down), 5)
    interval = resample_mean(lambda c: float(both[c].mean()), len(both), seen.config.n_resamples, rng)
    return Evidence(
        name="two_sided",
        effect=float(both.mean()),
        interval=interval.model_copy(update={"method": "bootstrap over components"}),
        null=0.0,
        n=len(both),
        n_unit="components",
        threshold=TWO_SIDED,
        passed=float(both.mean()) >= TWO_SIDED,
        note="passed: the vectors cannot tell these from opposed features",
    )


def _rng(seen: Observations, name: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seen.config.seed, name))


def _refitted(
    seen: Observations, measure: Callable[[Directions], Float[np.ndarray, "*batch"]], rng: np.random.Generator
) -> Interval:
    """Range of a measure of the directions over refits on rows drawn with replacement."""
    vectors = seen.components.vectors
    values: list[float] = []
    for _ in range(_REFITS):
        drawn = vectors[rng.integers(0, len(vectors), len(vectors))]
        found = independent_sources(drawn, np.arange(len(drawn)), rng, n_starts=1)
        values.append(float(measure(found.directions)))
    return percentiles(values, f"{_REFITS} refits on resampled rows")
