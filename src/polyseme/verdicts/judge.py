"""From evidence to a profile of every latent, and to the word that follows from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field

from polyseme.core.config import Config
from polyseme.core.contrast import Contrast
from polyseme.core.errors import InputError
from polyseme.core.records import AXES, STATUSES, Answer, Axis, AxisResult, Evidence, Interval, MetricRecord, Verdict
from polyseme.core.stats import benjamini_hochberg, wilson_interval
from polyseme.verdicts.words import deciding, word_frequencies

_METHOD = "Student's t"


class VerdictConfig(Config):
    """When an axis of a latent's profile says yes."""

    replaced: ClassVar[Mapping[str, str]] = {
        "margin_fdr": "each axis has one correction for all latents, and `verdicts.alpha` is its false discovery rate"
    }

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of false answers among the `yes` of an axis (false discovery rate), over the latents of all sites."""
    min_documents: int = Field(default=20, ge=2, le=10**9)
    """Smallest number of held-out documents that a latent must fire in."""
    recurrence: float = Field(default=0.7, ge=0, lt=1)
    """A recurrent latent correlates with its best match in other seeds' dictionaries by more than this, and by more
    than 95% of random directions of the same density do."""
    margin: float = Field(default=0.05, ge=0, lt=1)
    """Other seeds' dictionaries must predict a latent better, by this much correlation, than a null network's
    dictionaries (axis `network`) or a table of tokens (axis `beyond_tokens`) do."""


@dataclass(frozen=True)
class AxisEvidence:
    """What an axis of one site rests on.

    Attributes:
        contrasts: null to the comparison of every latent with it; empty where there is none.
        least: the difference that must be exceeded.
        n: units that the figures of each latent rest on.
        n_unit: what they are.
        missing: why the site has no contrasts; empty where it has.
    """

    contrasts: Mapping[str, Contrast]
    least: float = 0.0
    n: Int[np.ndarray, " latent"] | None = None
    n_unit: str = "documents"
    missing: str = ""


@dataclass(frozen=True)
class SiteEvidence:
    """What the latents of one dictionary are judged on.

    Attributes:
        n_documents: held-out documents that each latent fires in.
        axes: by axis.
    """

    n_documents: Int[np.ndarray, " latent"]
    axes: Mapping[Axis, AxisEvidence]


@dataclass(frozen=True)
class AxisOutcome:
    """What one axis says of every latent of one dictionary.

    Attributes:
        answer: `yes`, `no` or `unknown`.
        missing: why it is unknown; empty elsewhere.
        p: of the hardest null, uncorrected; NaN where it is unknown.
        p_corrected: the same after correction over the latents of all sites.
        hardest: the null of the largest p-value.
        frequency: expected share of repetitions of the study that say `yes`.
        detectable: the least difference from the hardest null that would have been shown without correction.
    """

    answer: Shaped[np.ndarray, " latent"]
    missing: Shaped[np.ndarray, " latent"]
    p: Float[np.ndarray, " latent"]
    p_corrected: Float[np.ndarray, " latent"]
    hardest: Shaped[np.ndarray, " latent"]
    frequency: Float[np.ndarray, " latent"]
    detectable: Float[np.ndarray, " latent"]

    @property
    def yes(self) -> Bool[np.ndarray, " latent"]:
        """Where it says yes."""
        return self.answer == "yes"

    @property
    def made(self) -> Bool[np.ndarray, " latent"]:
        """Where it says yes or no."""
        return self.answer != "unknown"


@dataclass(frozen=True)
class SiteVerdicts:
    """The verdicts on one dictionary.

    Attributes:
        verdicts: one a latent.
        n_documents: in how many documents each latent fired.
        outcomes: by axis, the columns behind the verdicts.
        frequency: expected share of repetitions of the study that give each latent the same word.
        records: the share of latents with each word.
    """

    verdicts: list[Verdict]
    n_documents: Int[np.ndarray, " latent"]
    outcomes: dict[Axis, AxisOutcome]
    frequency: Float[np.ndarray, " latent"]
    records: list[MetricRecord] = field(default_factory=list[MetricRecord])


def judge(
    sites: Mapping[str, SiteEvidence],
    *,
    config: VerdictConfig | None = None,
    scope: Mapping[str, str | int] | None = None,
) -> dict[str, SiteVerdicts]:
    """A profile of every latent of a study's dictionaries, and the word that follows from it (`words.RULES`).

    An axis says `yes` of a latent where each of its nulls is exceeded by more than `least`: the largest of the
    p-values over the nulls (an intersection–union test needs no correction over them; Berger 1982) is at most `alpha`
    after Benjamini–Hochberg correction over the latents of all sites that the axis can say something of. It says
    `unknown` of a latent that fires in too few documents, where the site has no evidence, or where no result could
    have passed: the null is so close to the largest possible value that no difference fits in between.

    The frequency of an answer is the probability that an independent repetition gives `yes`, for a difference that is
    normally distributed around the one measured with √2 times its standard deviation under redrawing (both studies
    have one), at the same p-value as the largest that passed here.

    Args:
        sites: by name, the evidence.
        config: thresholds.
        scope: what the records say they were measured on, beside the site.

    Raises:
        InputError: the parts of a site's evidence are not about the same latents.
    """
    config = config or VerdictConfig()
    for name, site in sites.items():
        _check(name, site)
    outcomes = {axis: _axis(axis, sites, config) for axis in AXES}
    found: dict[str, SiteVerdicts] = {}
    for name, site in sites.items():
        mine: dict[Axis, AxisOutcome] = {axis: outcomes[axis][name] for axis in AXES}
        frequencies = word_frequencies(
            {axis: mine[axis].frequency for axis in AXES}, {axis: ~mine[axis].made for axis in AXES}
        )
        verdicts: list[Verdict] = []
        for i in range(len(site.n_documents)):
            answers: dict[Axis, Answer] = {axis: mine[axis].answer[i] for axis in AXES}
            decisive, status = deciding(answers)
            missing = str(mine[decisive].missing[i]) if decisive is not None and status == "undecided" else ""
            axes = tuple(_result(axis, site.axes[axis], mine[axis], i) for axis in AXES)
            frequency = float(frequencies[status][i])
            verdicts.append(Verdict(status=status, axes=axes, frequency=frequency, missing=missing))
        frequency = np.array([verdict.frequency for verdict in verdicts])
        records = summarise(verdicts, {**(scope or {}), "site": name})
        found[name] = SiteVerdicts(verdicts, site.n_documents, mine, frequency, records)
    return found


def summarise(verdicts: list[Verdict], scope: Mapping[str, str | int]) -> list[MetricRecord]:
    """The share of latents with each word, and how many of them would keep theirs."""
    n = len(verdicts)
    records: list[MetricRecord] = []
    for status in STATUSES:
        mine = [verdict for verdict in verdicts if verdict.status == status]
        kept = float(np.mean([verdict.frequency for verdict in mine])) if mine else math.nan
        records.append(
            MetricRecord(
                name=f"share_{status}",
                value=len(mine) / n if n else math.nan,
                interval=wilson_interval(len(mine), n),
                n=n,
                n_unit="latents",
                scope=dict(scope),
                details={"count": len(mine), "expected_to_keep_the_word": kept},
            )
        )
    return records


def _check(name: str, site: SiteEvidence) -> None:
    sizes = {len(site.n_documents)}
    sizes |= {len(contrast.value) for axis in site.axes.values() for contrast in axis.contrasts.values()}
    if len(sizes) > 1:
        raise InputError(
            "the parts of the evidence are not about the same latents",
            where=name,
            fix="measure them all on the same dictionary",
        )


def _axis(axis: Axis, sites: Mapping[str, SiteEvidence], config: VerdictConfig) -> dict[str, AxisOutcome]:
    """One axis at every site, with one correction over all of them."""
    open_ = {name: _Open(axis, site, config) for name, site in sites.items()}
    tested = {name: np.where(one.missing == "", one.p, np.nan) for name, one in open_.items()}
    corrected = benjamini_hochberg(np.concatenate([*tested.values(), np.empty(0)]))
    every = np.concatenate([*tested.values(), np.empty(0)])
    passed = corrected <= config.alpha
    n_tested = int(np.isfinite(every).sum())
    # The p-value that a repetition needs: the largest that passed here; where none did, that of a latent alone.
    needed = float(every[passed].max()) if passed.any() else config.alpha / max(1, n_tested)
    found: dict[str, AxisOutcome] = {}
    at = 0
    for name, one in open_.items():
        mine = corrected[at : at + len(one.missing)]
        at += len(one.missing)
        made = one.missing == ""
        answer = np.where(~made, "unknown", np.where(mine <= config.alpha, "yes", "no")).astype(object)
        frequency = np.where(made, one.frequency(needed), np.nan)
        found[name] = AxisOutcome(
            answer, one.missing, tested[name], mine, one.hardest, frequency, one.detectable(config.alpha)
        )
    return found


class _Open:
    """One axis of one site before correction: what is missing, and the p-value of the hardest null."""

    def __init__(self, axis: Axis, site: SiteEvidence, config: VerdictConfig):
        n, evidence = len(site.n_documents), site.axes[axis]
        self.contrasts, self.least = dict(evidence.contrasts), evidence.least
        self.p = np.full(n, np.nan)
        self.hardest = np.full(n, "", dtype=object)
        self.missing = np.full(n, evidence.missing or "", dtype=object)
        if evidence.missing or not self.contrasts:
            self.missing[:] = evidence.missing or "there is nothing to compare it with"
            return
        names = list(self.contrasts)
        each = np.stack([contrast.p(self.least) for contrast in self.contrasts.values()])
        measured = np.isfinite(each).all(axis=0)
        self.p = np.where(measured, each.max(axis=0), np.nan)
        hardest = np.where(np.isfinite(each), each, -1).argmax(axis=0)
        self.hardest = np.array(names, dtype=object)[hardest]
        rare = site.n_documents < config.min_documents
        blocked = self._blocked(config.alpha)
        for name, where in blocked.items():
            self.missing[where] = f"no power: {name} is so close to the largest value that no margin fits in between"
        self.missing[~measured] = "it could not be measured"
        self.missing[rare] = f"it fired in fewer than {config.min_documents:,} held-out documents"

    def _blocked(self, alpha: float) -> dict[str, Bool[np.ndarray, " latent"]]:
        """By null, the latents that no result could have passed, and that are not shown to be no better either."""
        found: dict[str, Bool[np.ndarray, " latent"]] = {}
        for name, contrast in self.contrasts.items():
            if math.isinf(contrast.reach):
                continue
            room = contrast.reach - contrast.null
            lacking = room < self.least + (contrast.quantile(1 - alpha) - contrast.difference)
            undetermined = contrast.quantile(1 - alpha) > self.least
            found[name] = lacking & undetermined & (contrast.p(self.least) > alpha)
        return found

    def frequency(self, needed: float) -> Float[np.ndarray, " latent"]:
        """How often a repetition exceeds every null: that of the least certain one."""
        from scipy.stats import norm, t

        each: list[np.ndarray] = [np.full(len(self.p), np.inf)]
        for contrast in self.contrasts.values():
            bar = self.least + t.isf(needed, contrast.freedom) * contrast.error
            each.append(norm.cdf((contrast.difference - bar) / (math.sqrt(2) * np.maximum(contrast.redrawn, 1e-12))))
        return np.min(each, axis=0)

    def detectable(self, alpha: float) -> Float[np.ndarray, " latent"]:
        """The least difference that would have been shown against the null that asks for most."""
        each = [c.quantile(1 - alpha) - c.difference + self.least for c in self.contrasts.values()]
        return np.max(each, axis=0) if each else np.full(len(self.p), np.nan)


def _result(axis: Axis, evidence: AxisEvidence, outcome: AxisOutcome, i: int) -> AxisResult:
    return AxisResult(
        axis=axis,
        answer=outcome.answer[i],
        evidence=tuple(_evidence(name, contrast, evidence.least, i) for name, contrast in evidence.contrasts.items()),
        hardest=str(outcome.hardest[i]),
        p_corrected=float(outcome.p_corrected[i]),
        frequency=float(outcome.frequency[i]),
        n=0 if evidence.n is None else int(evidence.n[i]),
        n_unit=evidence.n_unit,
        missing=str(outcome.missing[i]),
    )


def _evidence(name: str, contrast: Contrast, least: float, i: int) -> Evidence:
    value, null, error, freedom, redrawn = (
        array[i : i + 1]
        for array in (contrast.value, contrast.null, contrast.error, contrast.freedom, contrast.redrawn)
    )
    one = Contrast(value, null, error, freedom, redrawn)
    return Evidence(
        null=name,
        value=float(contrast.value[i]),
        null_value=float(contrast.null[i]),
        interval=Interval(low=float(one.quantile(0.025)[0]), high=float(one.quantile(0.975)[0]), method=_METHOD),
        least=least,
        p=float(one.p(least)[0]),
    )
