"""Comparisons of many latents with one null at once, and the spread of a few replicates of each."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float


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
        """value − null."""
        return self.value - self.null

    def p(self, least: float = 0.0) -> Float[np.ndarray, " latent"]:
        """One-sided p-value that the difference is not above `least`, by Student's t."""
        from scipy.stats import t

        return t.sf((self.difference - least) / self.error, self.freedom)

    def quantile(self, q: float) -> Float[np.ndarray, " latent"]:
        """The difference plus the q-quantile of its error: a bound of its confidence interval."""
        from scipy.stats import t

        return self.difference + t.ppf(q, self.freedom) * self.error

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under its name, for saving; `Contrast(**arrays)` gives the object back."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True)
class Spread:
    """Variance of a few replicates of each latent, moderated by that of all latents.

    Attributes:
        variance: of one replicate.
        freedom: degrees of freedom, those lent by the other latents included.
    """

    variance: Float[np.ndarray, " latent"]
    freedom: Float[np.ndarray, " latent"]


def moderated(replicates: Float[np.ndarray, "replicate latent"], *, centred: bool = False) -> Spread:
    """Variance of each latent's replicates, shrunk towards what is usual among the latents.

    s̃² = (d₀s₀² + d s²) / (d₀ + d) with d degrees of freedom of s² itself, and d₀ and s₀² of the scaled F distribution
    that the s² of all latents have, by the moments of their logarithms (Smyth 2004, Linear models and empirical Bayes
    methods, equation 6 and section 6.2). Where the latents do not differ in their variance, d₀ is infinite.

    Args:
        replicates: two or more of each latent; NaN for a latent that was not measured.
        centred: the replicates have mean 0, so that none of their freedom goes into it.

    Returns:
        NaN for fewer than two replicates (one, where they are centred) and for latents that were not measured.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    n = len(replicates)
    d = n if centred else n - 1
    unknown = np.full(replicates.shape[1], np.nan)
    if d < 1:
        return Spread(unknown, unknown.copy())
    with np.errstate(invalid="ignore"):
        variance = (replicates**2).mean(axis=0) if centred else replicates.var(axis=0, ddof=1)
    known = np.isfinite(variance)
    if known.sum() < 3 or not (variance[known] > 0).any():
        return Spread(variance, np.where(known, float(d), np.nan))
    least = 1e-12 * float(np.median(variance[known][variance[known] > 0]))
    logs = np.log(np.maximum(variance[known], least)) - digamma(d / 2) + np.log(d / 2)
    excess = float(logs.var(ddof=1)) - float(polygamma(1, d / 2))
    if excess <= 1e-8:  # no more spread than chance gives
        usual = np.full(replicates.shape[1], float(np.exp(logs.mean())))
        return Spread(np.where(known, usual, np.nan), np.where(known, np.inf, np.nan))
    d0 = 2 * float(brentq(lambda y: float(polygamma(1, y)) - excess, 1e-6, 1e9))
    s0 = float(np.exp(logs.mean() + digamma(d0 / 2) - np.log(d0 / 2)))
    return Spread((d0 * s0 + d * variance) / (d0 + d), np.where(known, d0 + d, np.nan))


def combined(
    *parts: tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]],
) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """(standard error, degrees of freedom) of a sum of independent parts, each (its squared error, its freedom).

    Welch–Satterthwaite: ν = (Σ v)² / Σ v² / νᵢ.
    """
    total = np.sum([squared for squared, _ in parts], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.sum([squared**2 / freedom for squared, freedom in parts], axis=0)
        freedom = np.where(weights > 0, total**2 / weights, np.inf)
    return np.sqrt(total), np.where(np.isfinite(total), freedom, np.nan)
