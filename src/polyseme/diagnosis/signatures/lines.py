"""What the signatures share: an effect with its interval, and the line of evidence that is made of it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.records import Interval
from polyseme.diagnosis.geometry import Directions, p_value, percentiles, resample
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations

Draws = Float[np.ndarray, " draw"]


class Estimate(NamedTuple):
    """An effect and its interval."""

    effect: float
    interval: Interval


def of_rows(
    seen: Observations, statistic: Callable[[Int[np.ndarray, " row"]], float], n: int, rng: np.random.Generator
) -> Estimate:
    """A statistic of all `n` rows, and its interval over rows drawn with replacement."""
    interval = resample(statistic, n, seen.config.n_resamples, rng)
    return Estimate(statistic(np.arange(n)), interval)


def mean_of_rows(seen: Observations, values: Float[np.ndarray, " row"], rng: np.random.Generator) -> Estimate:
    """The mean over rows, and its interval over rows drawn with replacement."""
    return of_rows(seen, lambda rows: float(values[rows].mean()), len(values), rng)


def of_directions(seen: Observations, measure: Callable[[Directions], Float[np.ndarray, "*batch"]]) -> Estimate:
    """A measure of what the features write, and its interval over the rows that this was estimated on."""
    written = seen.features
    return Estimate(float(measure(written.directions)), percentiles(measure(written.resampled)))


def at_least(
    seen: Observations,
    name: str,
    found: Estimate,
    threshold: float,
    n: int,
    n_unit: str = "rows",
    *,
    null: float | Draws = 0.0,
    tested: float | None = None,
    note: str = "",
) -> Line:
    """A line that passes where the interval is at the threshold or above, and the p-value, if any, is at most `alpha`.

    Args:
        seen: the observations.
        name: the name of the signature.
        found: the effect.
        threshold: the smallest effect that passes.
        n: number of things that the effect was estimated on.
        n_unit: what they are.
        null: the effect under the null; draws of it give a p-value, too.
        tested: what the draws are compared with, where this is not the effect.
        note: a remark on the numbers.
    """
    p = math.nan
    if isinstance(null, np.ndarray):
        p = p_value(found.effect if tested is None else tested, null, larger=True)
    return Line(
        name=name,
        effect=found.effect,
        interval=found.interval,
        null=float(np.mean(null)),
        n=n,
        n_unit=n_unit,
        threshold=threshold,
        p_corrected=p,
        passed=found.interval.low >= threshold and not p > seen.config.alpha,
        note=note,
    )


def at_most(name: str, found: Estimate, threshold: float, n: int, n_unit: str = "rows", *, note: str) -> Line:
    """A line that passes where the interval is at the threshold or below; its null is 0."""
    return Line(
        name=name,
        effect=found.effect,
        interval=found.interval,
        null=0.0,
        n=n,
        n_unit=n_unit,
        threshold=threshold,
        passed=found.interval.high <= threshold,
        note=note,
    )


def not_measured(name: str, threshold: float, why: str, n: int = 0, n_unit: str = "rows") -> Line:
    """The line of a signature that these observations do not allow."""
    return Line(
        name=name,
        effect=math.nan,
        n=n,
        n_unit=n_unit,
        threshold=threshold,
        passed=False,
        note=f"not measured: {why}",
    )
