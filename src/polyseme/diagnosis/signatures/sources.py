"""Whether the vectors have components of their own, beyond their covariance, and whether they lie along the neurons."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from polyseme.diagnosis.components import GAUSSIAN, independent_sources, log_cosh
from polyseme.diagnosis.geometry import Directions, percentiles, purity, rotations, turned_purity
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.lines import Estimate, at_least, mean_of_rows

NON_GAUSSIAN = 0.01
"""Gain in |E log cosh − that of a Gaussian| over random components that counts; a uniform variable's is 0.02."""
TWO_SIDED = 0.2
"""Rarer tail over commoner one from which a source counts as two-sided, and share of such sources that counts."""
_REFITS = 10
_TURNS = 32
"""Random rotations that the components are compared with: a single one moves the gain by a third."""


def sources(seen: Observations) -> Line:
    """How much further from a Gaussian the independent components are than random ones, on rows not fitted.

    For Gaussian vectors, and all that only their covariance sets apart, the expectation is 0.
    """
    _, fit, held_out, found = seen.components

    def away(values: Float[np.ndarray, "row source"]) -> Float[np.ndarray, " held_out"]:
        sign = np.sign(log_cosh(values[fit]).mean(0) - GAUSSIAN)
        return (sign * (log_cosh(values[held_out]) - GAUSSIAN)).mean(1)

    rng, k = seen.rng("sources"), len(found.directions)
    random = np.mean([away(found.whitened @ turn) for turn in rotations(_TURNS, k, rng)], axis=0)
    gain = mean_of_rows(seen, away(found.values) - random, rng)
    note = f"{k} components; null: random ones"
    return at_least(seen, "sources", gain, NON_GAUSSIAN, len(held_out), "vectors", note=note)


def source_purity(seen: Observations) -> Line:
    """How far each neuron answers to one of the components, against random rotations of the site."""
    D, rng, null = seen.components.sources.directions, seen.rng("source_purity"), np.ones(100)
    if 1 < D.shape[1] <= 256:
        null = purity(D @ rotations(seen.config.draws(seen.config.n_null // 4), D.shape[1], rng))
    return _pure(seen, "source_purity", purity, null, rng, note="null: random rotations of the site")


def source_rotation(seen: Observations) -> Line:
    """Purity after the rotation that serves the components best, against random directions."""
    D, rng = seen.components.sources.directions, seen.rng("source_rotation")
    null = turned_purity(rng.standard_normal((seen.config.draws(100), *D.shape)))
    return _pure(seen, "source_rotation", turned_purity, null, rng, note="null: random directions")


def two_sided(seen: Observations) -> Line:
    """Share of components with two heavy tails: each may be one variable of both signs or two opposed features."""
    _, _, held_out, found = seen.components
    values = found.values[held_out]
    up, down = (values > 2.5).sum(0), (values < -2.5).sum(0)
    both = np.minimum(up, down) >= TWO_SIDED * np.maximum(np.maximum(up, down), 5)
    share, interval = mean_of_rows(seen, both.astype(np.float64), seen.rng("two_sided"))
    return Line(
        name="two_sided",
        effect=share,
        interval=interval.model_copy(update={"method": "bootstrap over components"}),
        null=0.0,
        n=len(both),
        n_unit="components",
        threshold=TWO_SIDED,
        passed=share >= TWO_SIDED,
        note="passed: the vectors cannot distinguish these from opposed features",
    )


def _pure(
    seen: Observations,
    name: str,
    measure: Callable[[Directions], Float[np.ndarray, "*batch"]],
    null: Float[np.ndarray, " draw"],
    rng: np.random.Generator,
    *,
    note: str,
) -> Line:
    """A measure of the components' directions, with its range over refits on rows drawn with replacement."""
    vectors, D = seen.components.vectors, seen.components.sources.directions
    values: list[float] = []
    for _ in range(_REFITS):
        drawn = vectors[rng.integers(0, len(vectors), len(vectors))]
        refit = independent_sources(drawn, np.arange(len(drawn)), rng, n_starts=1)
        values.append(float(measure(refit.directions)))
    found = Estimate(float(measure(D)), percentiles(values, f"{_REFITS} refits on resampled rows"))
    return at_least(seen, name, found, seen.config.pure, len(D), "components", null=null, note=note)
