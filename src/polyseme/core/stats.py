"""Bootstrap over documents, multiple testing, and the interval of a share: what every stage shares.

Documents, not tokens, are the unit of resampling: tokens of one document depend on each other, and an interval over
tokens would be several times too narrow.
"""

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from polyseme.core.records import Interval

_KEPT = 2**21
"""Most numbers that a table of weights may hold to be kept: 16 MiB."""
_AT_ONCE = 2**26
"""Most numbers that a table of weights may hold at all: 512 MiB."""


def least_documents(level: float = 0.95) -> int:
    """The fewest documents that can carry a percentile interval of this level: 6 for 95%.

    The widest interval that resampling n values can give runs from the least to the greatest. The median of what they
    are drawn from lies outside with probability 2 · 2⁻ⁿ, where all n fall on one side of it.
    """
    return max(2, math.ceil(round(1 - math.log2(1 - level), 9)))


def bootstrap_documents(
    sums: Float[np.ndarray, "document statistic"],
    finish: Callable[[Float[np.ndarray, "*batch statistic"]], Float[np.ndarray, "*batch"]],
    *,
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, Interval]:
    """A statistic of additive sums with its percentile interval under resampling of documents.

    Args:
        sums: per-document additive statistics (counts, sums of squares, …).
        finish: from totals over documents (last axis: statistics) to the value; vectorised over leading axes.
        seed: of the resampling.
        n_resamples: bootstrap replicates.
        level: of the interval.

    Returns:
        The value on all documents, and its interval (NaN bounds with fewer than `least_documents`).
    """
    sums = np.asarray(sums, dtype=np.float64)
    value = float(finish(sums.sum(axis=0)))
    n = len(sums)
    if n < least_documents(level):
        return value, Interval(low=np.nan, high=np.nan, level=level)
    replicates = finish(resampled_totals(sums, seed=seed, n_resamples=n_resamples))
    replicates = replicates[np.isfinite(replicates)]
    if len(replicates) < n_resamples // 2:
        return value, Interval(low=np.nan, high=np.nan, level=level)
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return value, Interval(low=float(low), high=float(high), level=level)


def resampled_totals(
    sums: Float[np.ndarray, "document *statistic"], *, seed: int, n_resamples: int
) -> Float[np.ndarray, "resample *statistic"]:
    """Totals over `n_resamples` draws of as many documents as there are, with replacement."""
    sums = np.asarray(sums, dtype=np.float64)
    if len(sums) * n_resamples <= _AT_ONCE:
        return np.tensordot(resampling_weights(len(sums), seed=seed, n_resamples=n_resamples), sums, axes=(1, 0))
    rng, step = np.random.default_rng(seed), max(1, _AT_ONCE // len(sums))  # the same draws, some at a time
    counts = [min(step, n_resamples - at) for at in range(0, n_resamples, step)]
    return np.concatenate([np.tensordot(_drawn(rng, len(sums), count), sums, axes=(1, 0)) for count in counts])


def resampling_weights(n_documents: int, *, seed: int, n_resamples: int) -> Float[np.ndarray, "resample document"]:
    """How often each document is drawn in each resample (multinomial counts); shared seeds pair two statistics.

    Read-only: a study asks hundreds of times for the same table.
    """
    draw = _kept_weights if n_documents * n_resamples <= _KEPT else _weights
    return draw(n_documents, seed, n_resamples)


def _weights(n_documents: int, seed: int, n_resamples: int) -> Float[np.ndarray, "resample document"]:
    weights = _drawn(np.random.default_rng(seed), n_documents, n_resamples)
    weights.flags.writeable = False
    return weights


def _drawn(rng: np.random.Generator, n_documents: int, n_resamples: int) -> Float[np.ndarray, "resample document"]:
    return rng.multinomial(n_documents, np.full(n_documents, 1 / n_documents), size=n_resamples).astype(np.float64)


_kept_weights = functools.lru_cache(maxsize=2)(_weights)


def benjamini_hochberg(
    p: Float[np.ndarray, " test"], filters: Float[np.ndarray, " test"] | None = None
) -> Float[np.ndarray, " test"]:
    """Benjamini–Hochberg adjusted p-values (step-up false discovery rate); NaN stays NaN and is not counted.

    Benjamini & Hochberg 1995, Controlling the false discovery rate. With n(t) tests counted at a threshold t, of which
    r(t) have p ≤ t, a test is adjusted to the smallest t · n(t) / r(t) over t ≥ p: n(t) = m without filters.

    Args:
        p: of each test.
        filters: p-values at most p, independent of p where p is that of a true null: tests are counted at t where they
            are at most t. For a claim of several independent parts, p is the largest of their p-values and the filter
            the second largest: a test that is far from passing in two parts cannot pass by luck in one (Wang, Gui, Su,
            Sabatti & Owen 2022, Detecting multiple replicating signals using adaptive filtering procedures).
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full_like(p, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    if len(tested) == 0:
        return adjusted
    order = tested[np.argsort(p[tested], kind="stable")]
    counted = np.full(len(order), len(order))
    if filters is not None:
        counted = np.searchsorted(np.sort(filters[tested]), p[order], side="right")
    # Where p are equal, the last of them has the number that have it.
    passing = np.searchsorted(p[order], p[order], side="right")
    scaled = p[order] * counted / passing
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def wilson_interval(count: float, n: float, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share of `count` in `n`; NaN bounds when n is 0 (Wilson 1927, JASA 22)."""
    if n == 0:
        return Interval(low=math.nan, high=math.nan, level=level, method="Wilson")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = count / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return Interval(low=max(0.0, centre - reach), high=min(1.0, centre + reach), level=level, method="Wilson")
