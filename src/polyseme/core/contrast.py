"""Comparisons of many latents with one null at once, and the spread of a few replicates of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

FEWEST = 3
"""Latents that a usual variance can be learned from; fewer keep their own."""
_NEGLIGIBLE = 1e-9
"""A variance below this share of the median is that of replicates that differ by rounding alone."""


@dataclass(frozen=True)
class Contrast:
    """What was measured of every latent against one null; NaN where it was not measured.

    Attributes:
        value: the latent's own figure.
        null: the figure of the null.
        error: standard error that the difference is tested with.
        freedom: degrees of freedom of that error; infinite for a known one.
        redrawn: standard deviation of the difference when everything random is drawn again: seeds, draws of nulls,
            held-out documents, sampled firings, directions.
        reach: the largest value that there can be: 1 for a correlation.
    """

    value: Float[np.ndarray, " latent"]
    null: Float[np.ndarray, " latent"]
    error: Float[np.ndarray, " latent"]
    freedom: Float[np.ndarray, " latent"]
    redrawn: Float[np.ndarray, " latent"]
    reach: float = np.inf

    @property
    def difference(self) -> Float[np.ndarray, " latent"]:
        """value − null; NaN where either is not finite."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(self.value) & np.isfinite(self.null), self.value - self.null, np.nan)

    def p(self, least: float = 0.0) -> Float[np.ndarray, " latent"]:
        """One-sided p-value that the difference is not above `least`, by Student's t.

        An error of zero leaves no doubt: p is 0 above `least`, and 1 at it or below. NaN where a figure is not finite.
        """
        from scipy.special import stdtr

        known = np.isfinite(self.error) & ~np.isnan(self.freedom)
        above = np.where(known, self.difference - least, np.nan)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            p = stdtr(self.freedom, -above / self.error)
        return np.where((self.error == 0) & np.isfinite(above), np.where(above > 0, 0.0, 1.0), p)

    def reaches(self, p: float, least: float = 0.0) -> Float[np.ndarray, " latent"]:
        """The smallest difference whose p-value against `least` is as small as `p`."""
        from scipy.special import stdtrit

        with np.errstate(invalid="ignore", over="ignore"):  # an infinite quantile of an error of zero
            margin = -stdtrit(self.freedom, p) * self.error
        return least + np.where(self.error == 0, 0.0, margin)

    def interval(self, level: float = 0.95) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
        """(low, high) of the two-sided confidence interval of the difference."""
        half = self.reaches((1 - level) / 2)
        return self.difference - half, self.difference + half


@dataclass(frozen=True)
class Spread:
    """Variance of a few replicates of each latent, moderated by that of all latents.

    Attributes:
        variance: of one replicate.
        freedom: degrees of freedom, those lent by the other latents included.
    """

    variance: Float[np.ndarray, " latent"]
    freedom: Float[np.ndarray, " latent"]


def moderated(replicates: Float[np.ndarray, "replicate latent"]) -> Spread:
    """Variance of each latent's replicates, shrunk towards what is usual among the latents.

    A replicate (a partner, a draw of a null) has an effect that all latents share and one on each alone. What they
    share is known no better for being seen in many latents: its variance, of the means over latents, has the d =
    n − 1 degrees of freedom of n replicates. What is left has, for each latent,

        s̃² = (d₀s₀² + d s²) / (d₀ + d)

    with d₀ and s₀² those of the scaled F distribution that the s² of all latents have, by the moments of their
    logarithms (Smyth 2004, Linear models and empirical Bayes methods, equation 6 and section 6.2). Where the latents do
    not differ in their variance, d₀ is infinite and s₀² is the mean. The two parts are added (`combined`).

    Args:
        replicates: two or more of each latent; NaN for a latent that was not measured.

    Returns:
        NaN for fewer than two replicates and for latents that were not measured. Fewer than three latents have their
        own variance and d degrees of freedom.
    """
    n, n_latents = replicates.shape
    known, d = np.asarray(np.isfinite(replicates).all(axis=0)), n - 1
    found = Spread(np.full(n_latents, np.nan), np.full(n_latents, np.nan))
    if d < 1 or not known.any():
        return found
    apart = replicates[:, known] - replicates[:, known].mean(axis=0)
    if known.sum() < FEWEST:
        found.variance[known], found.freedom[known] = (apart**2).sum(axis=0) / d, d
        return found
    shared = apart.mean(axis=1, keepdims=True)
    own = _shrunk(((apart - shared) ** 2).sum(axis=0) / d, d)
    of_all = np.full(int(known.sum()), float((shared**2).sum() / d))
    error, found.freedom[known] = combined((own.variance, own.freedom), (of_all, np.full(len(of_all), float(d))))
    found.variance[known] = error**2
    return found


def moderated_together(groups: Mapping[str, Float[np.ndarray, "replicate latent"]]) -> dict[str, Spread]:
    """The same for replicates of several kinds, whose variances differ by a factor that is common to all latents.

    What makes one latent's replicates vary more than another's is taken to be the same in every kind: log σ² of latent
    i in kind k is λᵢ + ρₖ. The factors ρₖ are means over latents, with them the variances of all kinds are pooled, and
    the pooled ones are shrunk as in `moderated`. A latent has Σ (Kₖ − 1) degrees of freedom of its own so, where each
    kind alone has a few. Replicates are drawn for each latent apart, so that none has an effect that latents share.

    Args:
        groups: by kind, two or more replicates of each latent; a kind of fewer gets NaN and lends nothing.
    """
    known = {kind: replicates for kind, replicates in groups.items() if len(replicates) > 1}
    spreads = {kind: moderated(replicates[:1]) for kind, replicates in groups.items()}
    if not known:
        return spreads
    variances = np.stack([replicates.var(axis=0, ddof=1) for replicates in known.values()])
    freedom = np.array([len(replicates) - 1 for replicates in known.values()])[:, None]
    usable = (np.isfinite(variances) & (variances > _NEGLIGIBLE * _usual(variances))).all(axis=0)
    factors = np.ones_like(freedom, dtype=np.float64)
    if usable.any():
        logs = _log_variance(variances[:, usable], freedom).mean(axis=1, keepdims=True)
        factors = np.exp(logs - (freedom * logs).sum() / freedom.sum())
    pooled = _shrunk((freedom * variances / factors).sum(axis=0) / freedom.sum(), int(freedom.sum()))
    for kind, factor in zip(known, factors[:, 0], strict=True):
        spreads[kind] = Spread(pooled.variance * factor, pooled.freedom)
    return spreads


def _usual(variance: Float[np.ndarray, "*kind latent"]) -> float:
    """The median of the variances that are there."""
    there = variance[np.isfinite(variance) & (variance > 0)]
    return float(np.median(there)) if len(there) else 0.0


def _log_variance(variance: Float[np.ndarray, "*kind latent"], d: Any) -> Float[np.ndarray, "*kind latent"]:
    """Logarithms whose expectation is log σ², of variances with d degrees of freedom."""
    from scipy.special import digamma

    return np.log(variance) - digamma(d / 2) + np.log(d / 2)


def _shrunk(variance: Float[np.ndarray, " latent"], d: int) -> Spread:
    """Variances with d degrees of freedom, shrunk towards what is usual among those above rounding."""
    from scipy.special import digamma, polygamma

    known = np.isfinite(variance)
    usable = known & (np.nan_to_num(variance) > _NEGLIGIBLE * _usual(variance))
    if usable.sum() < FEWEST:
        return Spread(variance, np.where(known, float(d), np.nan))
    pooled = float(d * usable.sum())  # nothing is known better than by the replicates of all latents
    logs = _log_variance(variance[usable], d)
    excess = float(logs.var(ddof=1)) - float(polygamma(1, d / 2))
    if excess <= 1e-8:  # no more spread than chance gives
        return Spread(np.where(known, variance[usable].mean(), np.nan), np.where(known, pooled, np.nan))
    d0 = 2 * _inverse_trigamma(excess)
    s0 = float(np.exp(logs.mean() + digamma(d0 / 2) - np.log(d0 / 2)))
    return Spread((d0 * s0 + d * variance) / (d0 + d), np.where(known, min(d0 + d, pooled), np.nan))


def _inverse_trigamma(x: float) -> float:
    """y with ψ′(y) = x, by Newton's method on 1/ψ′, which is convex (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    y, step = 0.5 + 1 / x, np.inf
    while abs(step) > 1e-10 * y:
        value = float(polygamma(1, y))
        step = value * (1 - value / x) / float(polygamma(2, y))
        y += step
    return y


def combined(
    *parts: tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]],
) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """(standard error, degrees of freedom) of a sum of independent parts, each (its squared error, its freedom).

    A part of squared error s² and freedom ν is s tᵥ, of variance v = s² ν / (ν − 2). Their sum is taken for a t of the
    variance V = Σ v with ν* − 2 = V² / Σ v² / (ν − 2), so a part alone stays as it is (ν below 2.5, whose variance is
    infinite or nearly so, counts as 2.5). Welch and Satterthwaite's ν* = (Σ s²)² / Σ s⁴ / ν takes s² for unbiased, and
    a moderated one of heavy tails is too small: for two parts of ν = 3.5, p ≤ 0.05, 0.01 and 0.001 then comes out 1.6,
    2.4 and 5.2 times as often as it should, and here 0.9, 1.0 and 1.3 times.

    Returns:
        NaN where any part is.
    """
    freedoms = [np.maximum(freedom, 2.5) for _, freedom in parts]
    variances = [squared / (1 - 2 / freedom) for (squared, _), freedom in zip(parts, freedoms, strict=True)]
    total = np.sum(variances, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        tails = np.sum([v**2 / (freedom - 2) for v, freedom in zip(variances, freedoms, strict=True)], axis=0)
        freedom = np.where(tails == 0, np.inf, 2 + total**2 / tails)
    return np.sqrt(total * (1 - 2 / freedom)), freedom
