"""What one axis of the profile says of the latents of all sites."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from polyseme.core.contrast import Contrast
from polyseme.core.records import Axis
from polyseme.core.stats import benjamini_hochberg
from polyseme.verdicts.evidence import SiteEvidence, VerdictConfig

Z = 1.959964
"""Standard errors to either side of a 95% interval."""


@dataclass(frozen=True)
class Frequency:
    """How often repetitions of a study give an answer.

    A repetition judges the same dictionary with everything else drawn again: partners, draws of nulls, held-out
    documents, sampled firings and directions. It says `yes` where its difference D exceeds what must be reached, b. In
    the mean over repetitions D − b is δ, and σ its standard deviation: that of D under redrawing, and of b, which rests
    on an error known to 1 / √(2ν) of itself. So repetitions say `yes` with the frequency π = Φ(δ / σ).

    Attributes:
        expected: the mean of π over δ ~ N(D − b, σ²) with the D and b of this study: Φ(z / √2), z = (D − b) / σ.
        low, high: π at the ends of the 95% interval of δ: Φ(z ± 1.96).
    """

    expected: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, " latent"]
    high: Float[np.ndarray, " latent"]


@dataclass(frozen=True)
class AxisOutcome:
    """What one axis says of every latent of one dictionary.

    Attributes:
        answer: `yes`, `no` or `unknown`.
        missing: why it is unknown; empty elsewhere.
        p: of the hardest null, uncorrected; NaN where it was not measured or the latent fires in too few documents.
        p_corrected: the same after correction over the latents of all sites.
        hardest: the null of the largest p-value.
        frequencies: how often repetitions of the study say `yes`; NaN where it is unknown.
        detectable: the least difference that would have been shown, after correction, against the null that asks for
            most.
        left_out: nulls that no latent of the site could be compared with, so that the answers rest on the others.
    """

    answer: Shaped[np.ndarray, " latent"]
    missing: Shaped[np.ndarray, " latent"]
    p: Float[np.ndarray, " latent"]
    p_corrected: Float[np.ndarray, " latent"]
    hardest: Shaped[np.ndarray, " latent"]
    frequencies: Frequency
    detectable: Float[np.ndarray, " latent"]
    left_out: tuple[str, ...] = ()

    @property
    def frequency(self) -> Float[np.ndarray, " latent"]:
        """Expected share of repetitions of the study that say `yes`; NaN where it is unknown."""
        return self.frequencies.expected

    @property
    def yes(self) -> Bool[np.ndarray, " latent"]:
        """Where it says yes."""
        return self.answer == "yes"

    @property
    def made(self) -> Bool[np.ndarray, " latent"]:
        """Where it says yes or no."""
        return self.answer != "unknown"


def corrected(
    p: Mapping[str, Float[np.ndarray, " latent"]],
    alpha: float,
    filters: Mapping[str, Float[np.ndarray, " latent"]] | None = None,
) -> tuple[dict[str, Float[np.ndarray, " latent"]], float]:
    """Benjamini–Hochberg over the latents of all sites together (`core.stats.benjamini_hochberg`).

    Args:
        p: by site; NaN for latents that are not tested.
        alpha: false discovery rate.
        filters: by site, those of the tests.

    Returns:
        By site the corrected p-values, and the uncorrected one that passes beside the others as they are: α r / n with
        r passing of n counted, and α / n where none passes.
    """
    every = np.concatenate([np.empty(0), *p.values()])
    filter_ = np.concatenate([np.empty(0), *filters.values()]) if filters is not None else np.zeros(len(every))
    together = benjamini_hochberg(every, filter_)
    passed = together <= alpha
    largest = float(every[passed].max()) if passed.any() else alpha
    n_counted = int((np.isfinite(every) & (filter_ <= largest)).sum())
    ends = np.cumsum([len(mine) for mine in p.values()])
    return (
        dict(zip(p, np.split(together, ends[:-1]), strict=True)) if p else {},
        alpha * max(1, int(passed.sum())) / max(1, n_counted),
    )


class Comparison:
    """The latents of one site on one axis, before correction.

    Attributes:
        p: of the hardest null; NaN where it was not measured or the latent fires in too few documents.
        hardest: the null of the largest p-value.
        missing: why the axis cannot say anything of a latent; empty where it can.
        left_out: nulls that no latent could be compared with.
    """

    def __init__(self, site: SiteEvidence, axis: Axis, config: VerdictConfig):
        n, evidence = len(site.n_documents), site.axes[axis]
        self.least = evidence.least
        p = {name: contrast.p(self.least) for name, contrast in evidence.contrasts.items()}
        self.contrasts = {name: contrast for name, contrast in evidence.contrasts.items() if np.isfinite(p[name]).any()}
        self.left_out = tuple(name for name in p if name not in self.contrasts)
        self.p, self.hardest = np.full(n, np.nan), np.full(n, "", dtype=object)
        if not self.contrasts:
            why = evidence.missing or ("it could not be measured" if p else "there is nothing to compare it with")
            self.missing = np.full(n, why, dtype=object)
            return
        names = np.array(list(self.contrasts), dtype=object)
        each = np.stack([p[name] for name in self.contrasts])
        rare = site.n_documents < config.min_documents
        found = np.where(np.isfinite(each), each, -1.0)
        self.p = np.where(rare | (found.max(axis=0) < 0), np.nan, found.max(axis=0))
        self.hardest = np.where(np.isnan(self.p), "", names[found.argmax(axis=0)])
        self.missing = self._missing(names, each, config.alpha)
        self.missing[rare] = f"it fires in fewer than {config.min_documents:,} held-out documents"

    def _missing(
        self, names: np.ndarray, each: Float[np.ndarray, "null latent"], alpha: float
    ) -> Shaped[np.ndarray, " latent"]:
        """Why a latent that every null with power leaves open cannot be answered: by the first null without."""
        without = np.isnan(each)
        hopeless = np.stack([self._hopeless(contrast, alpha) for contrast in self.contrasts.values()])
        # A null that it is not shown to exceed answers `no`, whatever the others could have said.
        open_ = ~((each > alpha) & ~hopeless).any(axis=0)
        missing = np.full(each.shape[1], "", dtype=object)
        for i, name in reversed(list(enumerate(names))):
            missing[open_ & hopeless[i]] = f"no value that there can be would have been shown to exceed {name}"
            missing[open_ & without[i]] = f"it could not be compared with {name}"
        missing[without.all(axis=0)] = "it could not be measured"
        return missing

    def _hopeless(self, contrast: Contrast, alpha: float) -> Bool[np.ndarray, " latent"]:
        """Where the largest value would not have been shown to exceed the null, nor this one that it does not."""
        if math.isinf(contrast.reach):
            return np.zeros(len(contrast.value), dtype=bool)
        room, needed = contrast.reach - contrast.null, contrast.reaches(alpha, self.least)
        undetermined = contrast.difference > 2 * self.least - needed
        return (room < needed) & undetermined

    def frequency(self, needed: float) -> "Frequency":
        """How often a repetition exceeds every null at this p-value: that of the null that is least often exceeded."""
        from scipy.special import ndtr

        n = len(self.p)
        found = [np.full(n, np.nan) for _ in range(3)]
        for contrast in self.contrasts.values():
            bar = contrast.reaches(needed, self.least)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                # One study varies by its difference, and by what must be reached, whose error is known to 1 / √(2ν).
                one = np.sqrt(contrast.redrawn**2 + (bar - self.least) ** 2 / (2 * contrast.freedom))
                z = (contrast.difference - bar) / one
                shares = (ndtr(z / math.sqrt(2)), ndtr(z - Z), ndtr(z + Z))
            certain = np.where(np.isnan(bar), np.nan, contrast.p(self.least) <= needed)
            found = [np.fmin(f, np.where(one == 0, certain, share)) for f, share in zip(found, shares, strict=True)]
        return Frequency(*(np.where(self.missing == "", f, np.nan) for f in found))

    def detectable(self, needed: float) -> Float[np.ndarray, " latent"]:
        """The least difference that would have been shown at this p-value against the null that asks for most."""
        found = np.full(len(self.p), np.nan)
        for contrast in self.contrasts.values():
            found = np.fmax(found, contrast.reaches(needed, self.least))
        return found


def against_hardest(contrasts: Mapping[str, Contrast], outcome: AxisOutcome) -> Contrast:
    """The comparison of each latent with its hardest null, as one contrast; NaN where there is none."""
    value, null, error, freedom, redrawn = columns = np.full((5, len(outcome.p)), np.nan)
    for name, one in contrasts.items():
        at = outcome.hardest == name
        columns[:, at] = np.stack([one.value, one.null, one.error, one.freedom, one.redrawn])[:, at]
    return Contrast(value, null, error, freedom, redrawn)


def outcomes(
    axis: Axis, sites: Mapping[str, SiteEvidence], config: VerdictConfig
) -> tuple[dict[str, AxisOutcome], dict[str, Comparison]]:
    """One axis at every site, with one correction over all of them, and what was compared."""
    compared = {name: Comparison(site, axis, config) for name, site in sites.items()}
    adjusted, needed = corrected({name: one.p for name, one in compared.items()}, config.alpha)
    found: dict[str, AxisOutcome] = {}
    for name, one in compared.items():
        answer = np.where(one.missing != "", "unknown", np.where(adjusted[name] <= config.alpha, "yes", "no"))
        found[name] = AxisOutcome(
            answer=answer.astype(object),
            missing=one.missing,
            p=one.p,
            p_corrected=adjusted[name],
            hardest=one.hardest,
            frequencies=one.frequency(needed),
            detectable=one.detectable(needed),
            left_out=one.left_out,
        )
    return found, compared
