"""From evidence to a profile of every latent, and to the word that follows from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Float, Int, Shaped

from polyseme.core.errors import InputError
from polyseme.core.records import AXES, STATUSES, Axis, AxisResult, Evidence, Interval, MetricRecord, Verdict
from polyseme.core.stats import wilson_interval
from polyseme.verdicts.axes import AxisOutcome, Comparison, Frequency, corrected, outcomes
from polyseme.verdicts.evidence import AxisEvidence, SiteEvidence, VerdictConfig
from polyseme.verdicts.words import CHAIN, words

_METHOD = "Student's t"
NOT_TOGETHER = "its answers pass one by one, and not together after correction"


@dataclass(frozen=True)
class SiteVerdicts:
    """The verdicts on one dictionary.

    Attributes:
        verdicts: one a latent, each made when it is asked for.
        status: the word of each latent.
        missing: with `undecided`: why.
        n_documents: in how many documents each latent fired.
        outcomes: by axis, the columns behind the verdicts.
        frequencies: how often repetitions of the study give each latent the same word.
        records: the share of latents with each word.
    """

    verdicts: Sequence[Verdict]
    status: Shaped[np.ndarray, " latent"]
    missing: Shaped[np.ndarray, " latent"]
    n_documents: Int[np.ndarray, " latent"]
    outcomes: dict[Axis, AxisOutcome]
    frequencies: Frequency
    records: list[MetricRecord]

    @property
    def frequency(self) -> Float[np.ndarray, " latent"]:
        """Expected share of repetitions of the study that give each latent the same word."""
        return self.frequencies.expected


def judge(
    sites: Mapping[str, SiteEvidence],
    *,
    config: VerdictConfig | None = None,
    scope: Mapping[str, str | int] | None = None,
) -> dict[str, SiteVerdicts]:
    """A profile of every latent of a study's dictionaries, and the word that follows from it (`words.CHAIN`).

    **Over nulls.** An axis says `yes` of a latent where each of its nulls is exceeded by more than `least`. Its p-value
    is the largest of those against the single nulls: that `yes` claims all of them, so a correction over them is not
    needed (intersection–union test; Berger 1982, Technometrics 24).

    **Over latents and sites.** p is corrected once an axis, over the latents of all sites together
    (Benjamini–Hochberg); all that fire in enough documents and could be measured are counted, whatever their answer.
    At most the share `alpha` of the `yes` of an axis is expected to be false.

    **Over axes.** A word claims that several axes say `yes`, and a false answer of any of them makes it false: where
    few latents pass them all, those that pass one by luck may be most of them. So the largest p-value over the axes
    that a word claims is corrected over the latents of all sites too, among those that at most one of these axes can
    keep from the word (`core.stats.benjamini_hochberg`, filters). A latent whose axes pass one by one and not together
    is `undecided`.

    An axis says `unknown` of a latent that fires in too few documents, where there is nothing to compare it with, and
    where even the largest possible value would not have been shown to exceed a null, without another null saying `no`.

    **Frequencies.** See `axes.Frequency`. A repetition must pass the p-value that passes here, and the frequency of an
    axis is that of the null that is least often exceeded. That of a word takes the axes as independent of each other.
    In simulated pairs of studies (`tests/verdicts/test_simulated.py`) both agree with what the second study says, but
    for axes that few latents pass with two partners: their p-value that passes varies from study to study, and the
    frequency is too high.

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
    found: dict[Axis, dict[str, AxisOutcome]] = {}
    compared: dict[Axis, dict[str, Comparison]] = {}
    for axis in AXES:
        found[axis], compared[axis] = outcomes(axis, sites, config)
    claims = _claims(found, sites, config.alpha)
    verdicts: dict[str, SiteVerdicts] = {}
    for name, site in sites.items():
        mine: dict[Axis, AxisOutcome] = {axis: found[axis][name] for axis in AXES}
        status, decisive = words({axis: mine[axis].answer for axis in AXES})
        missing = np.full(len(status), "", dtype=object)
        for k, (axis, _) in enumerate(CHAIN, start=1):
            unsaid = (status == "undecided") & (decisive == axis)
            missing[unsaid] = mine[axis].missing[unsaid]
            claiming = status == (CHAIN[k][1] if k < len(CHAIN) else "network_feature")
            apart = claiming & ~(claims[k - 1][0][name] <= config.alpha)
            status[apart], missing[apart] = "undecided", NOT_TOGETHER
        of_site: dict[Axis, Comparison] = {axis: here[name] for axis, here in compared.items()}
        frequencies = _frequencies(of_site, mine, [needed for _, needed in claims], status)
        profiles = _Profiles(site, mine, status, missing, frequencies)
        records = _shares(status, frequencies.expected, {**(scope or {}), "site": name})
        verdicts[name] = SiteVerdicts(profiles, status, missing, site.n_documents, mine, frequencies, records)
    return verdicts


def _check(name: str, site: SiteEvidence) -> None:
    sizes = {len(site.n_documents)}
    for axis in site.axes.values():
        sizes |= {len(contrast.value) for contrast in axis.contrasts.values()}
        sizes |= set() if axis.n is None else {len(axis.n)}
    if len(sizes) > 1:
        raise InputError(
            "the parts of the evidence are not about the same latents",
            where=name,
            fix="measure them all on the same dictionary",
        )


def _claims(
    found: Mapping[Axis, Mapping[str, AxisOutcome]], sites: Mapping[str, SiteEvidence], alpha: float
) -> list[tuple[dict[str, Float[np.ndarray, " latent"]], float]]:
    """By how many axes a word claims: the corrected p-values that all of them say `yes`, and the one that passes."""
    claimed: list[Axis] = [axis for axis, _ in CHAIN]
    claims: list[tuple[dict[str, Float[np.ndarray, " latent"]], float]] = []
    for k in range(1, len(claimed) + 1):
        largest: dict[str, Float[np.ndarray, " latent"]] = {}
        filters: dict[str, Float[np.ndarray, " latent"]] = {}
        for name in sites:
            in_order = np.sort(np.stack([found[axis][name].p for axis in claimed[:k]]), axis=0)
            largest[name] = in_order[-1]
            filters[name] = in_order[-2] if k > 1 else np.zeros(in_order.shape[1])
        claims.append(corrected(largest, alpha, filters))
    return claims


def _frequencies(
    compared: Mapping[Axis, Comparison],
    outcomes: Mapping[Axis, AxisOutcome],
    needed: Sequence[float],
    status: Shaped[np.ndarray, " latent"],
) -> Frequency:
    """How often each latent's word comes out again, the axes taken as independent of each other."""
    n = len(status)
    claimed = [Frequency(np.ones(n), np.ones(n), np.ones(n))]
    for k in range(1, len(CHAIN) + 1):
        claimed.append(_product([compared[axis].frequency(needed[k - 1]) for axis, _ in CHAIN[:k]]))
    words: dict[str, Frequency] = {"network_feature": claimed[-1]}
    for k, (axis, word) in enumerate(CHAIN):
        yes = outcomes[axis].frequencies
        words[word] = _product([claimed[k], Frequency(1 - yes.expected, 1 - yes.high, 1 - yes.low)])
    words["undecided"] = Frequency(
        *(
            np.clip(1 - np.nansum([getattr(word, part) for word in words.values()], axis=0), 0, 1)
            for part in ("expected", "high", "low")
        )
    )
    mine = [status == word for word in words]
    return Frequency(
        *(
            np.select(mine, [getattr(word, part) for word in words.values()], np.nan)
            for part in ("expected", "low", "high")
        )
    )


def _product(parts: Sequence[Frequency]) -> Frequency:
    """Frequency that independent parts all come out; NaN where one is unknown."""
    return Frequency(*(np.prod([getattr(p, name) for p in parts], axis=0) for name in ("expected", "low", "high")))


def _shares(
    status: Shaped[np.ndarray, " latent"], frequency: Float[np.ndarray, " latent"], scope: Mapping[str, str | int]
) -> list[MetricRecord]:
    """The share of latents with each word, and what share of those is expected to keep it."""
    n, records = len(status), list[MetricRecord]()
    for word in STATUSES:
        mine = status == word
        count, known = int(mine.sum()), mine & np.isfinite(frequency)
        records.append(
            MetricRecord(
                name=f"share_{word}",
                value=count / n if n else math.nan,
                interval=wilson_interval(count, n),
                n=n,
                n_unit="latents",
                scope=dict(scope),
                details={
                    "count": count,
                    "expected_to_keep_the_word": float(frequency[known].mean()) if known.any() else math.nan,
                },
            )
        )
    return records


class _Profiles(Sequence[Verdict]):
    """The verdicts of one dictionary, each made from the columns when it is asked for."""

    def __init__(
        self,
        site: SiteEvidence,
        outcomes: Mapping[Axis, AxisOutcome],
        status: Shaped[np.ndarray, " latent"],
        missing: Shaped[np.ndarray, " latent"],
        frequencies: Frequency,
    ):
        self._axes = [_Records(axis, site.axes[axis], outcome) for axis, outcome in outcomes.items()]
        self._status, self._missing, self._frequencies = status, missing, frequencies

    def __len__(self) -> int:
        return len(self._status)

    @overload
    def __getitem__(self, i: int) -> Verdict: ...

    @overload
    def __getitem__(self, i: slice) -> list[Verdict]: ...

    def __getitem__(self, i: int | slice) -> Verdict | list[Verdict]:
        if isinstance(i, slice):
            return [self[at] for at in range(*i.indices(len(self)))]
        return Verdict(
            status=self._status[i],
            axes=tuple(axis.of(i) for axis in self._axes),
            frequency=float(self._frequencies.expected[i]),
            frequency_interval=_interval(self._frequencies, i),
            missing=self._missing[i],
        )


class _Records:
    """The records of one axis of one dictionary."""

    def __init__(self, axis: Axis, evidence: AxisEvidence, outcome: AxisOutcome):
        self._axis: Axis = axis
        self._evidence, self._outcome = evidence, outcome
        self._columns = [
            (name, contrast.value, contrast.null, *contrast.interval(), contrast.p(evidence.least))
            for name, contrast in evidence.contrasts.items()
        ]

    def of(self, i: int) -> AxisResult:
        outcome, n = self._outcome, self._evidence.n
        return AxisResult(
            axis=self._axis,
            answer=outcome.answer[i],
            evidence=tuple(
                Evidence(
                    null=name,
                    value=float(value[i]),
                    null_value=float(null[i]),
                    interval=Interval(low=float(low[i]), high=float(high[i]), method=_METHOD),
                    least=self._evidence.least,
                    p=float(p[i]),
                )
                for name, value, null, low, high, p in self._columns
            ),
            hardest=outcome.hardest[i],
            p_corrected=float(outcome.p_corrected[i]),
            frequency=float(outcome.frequency[i]),
            frequency_interval=_interval(outcome.frequencies, i),
            n=0 if n is None else int(n[i]),
            n_unit=self._evidence.n_unit,
            missing=outcome.missing[i],
        )


def _interval(frequency: Frequency, i: int) -> Interval | None:
    low, high = float(frequency.low[i]), float(frequency.high[i])
    return None if math.isnan(low) else Interval(low=low, high=high, method="normal difference under redrawing")
