"""The interval of a mean over seeds or networks."""

import math

import numpy as np
from jaxtyping import Float

from polyseme.core.records import Interval


def mean_interval(
    values: Float[np.ndarray, " n"], *, level: float = 0.95, over: str = "seeds"
) -> tuple[float, Interval]:
    """Mean with its Student t-interval; NaN values are left out, and fewer than two have no interval.

    Args:
        values: one value for each independent unit, such as a seed or a network.
        level: level of the interval.
        over: what the units are, for the interval's name.
    """
    from scipy import stats

    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    mean = float(kept.mean()) if len(kept) else math.nan
    half = math.nan
    if len(kept) >= 2:
        half = float(stats.t.ppf(0.5 + level / 2, len(kept) - 1)) * float(kept.std(ddof=1)) / math.sqrt(len(kept))
    return mean, Interval(low=mean - half, high=mean + half, level=level, method=f"t over {over}")
