"""Two studies side by side: their metrics, their verdicts, and which latent of one is which latent of the other."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from polyseme.core import html
from polyseme.core.errors import InputError
from polyseme.core.records import STATUSES, MetricRecord
from polyseme.core.table import Table
from polyseme.evaluation import DocumentSums, gap, gap_of_records
from polyseme.studies.agreement import Agreement, agreement
from polyseme.studies.opening import open_study
from polyseme.studies.result import StudyResult

_CHUNK = 1024
"""Latents compared at a time with all of the other study's."""
_Key = tuple[str, frozenset[tuple[str, str | int]]]


@dataclass(frozen=True, repr=False)
class ComparedMetrics(Table):
    """One row a metric that both studies have; NaN is "not measured".

    - `name`, `study` (`trained`, or a control), `site`, `seed`, `ablation`: what was measured.
    - `one`, `other`: its value in each study; `difference` = other − one, with its 95% interval `low`, `high`. The
      interval is `paired`, from resamples that draw the same documents for both, where both were measured on the same
      held-out tokens; else of two `independent` ones (Zou & Donner 2008). It says how far the difference depends on
      the documents, not on the seeds of training.
    - `better`: which study is better, where the interval excludes 0 and the metric has a better end.
    """

    row = "Metric"
    previewed = ("name", "study", "site", "seed", "ablation", "one", "other", "difference", "low", "high", "better")

    @property
    def title(self) -> str:
        return f"{len(self):,} metrics that both studies have"


@dataclass(frozen=True, repr=False)
class ComparedVerdicts(Table):
    """One row a site and study (`one`, `other`): how many latents have each verdict there."""

    row = "Site"

    @property
    def title(self) -> str:
        sites = len(set(self.columns["site"].tolist()))
        return f"Verdicts at {sites} site{'' if sites == 1 else 's'}"


@dataclass(frozen=True, repr=False)
class MatchedLatents(Table):
    """One row a latent of the one study's judged dictionaries, with the most alike of the other's; NaN, −1: none.

    The match has the highest correlation over the held-out tokens where the two studies share these, else the highest
    cosine of write directions.

    - `site`, `latent`, `status`; `match`, `match_status`: the other study's latent and its verdict.
    - `correlation`, `cosine`: of the two. Chance gives a match, too: the best of many is never 0.
    - `mutual`: whether this latent is the match's own match.
    """

    row = "Latent"

    @property
    def title(self) -> str:
        mutual = int(self.columns["mutual"].sum())
        return f"{len(self):,} latents with their matches, {mutual:,} of them mutual"


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two studies side by side.

    Attributes:
        one, other: the studies.
    """

    one: StudyResult
    other: StudyResult

    @property
    def shares_tokens(self) -> bool:
        """Whether both were measured on the same held-out tokens."""
        keys = [study.findings.real.subject.tokens.heldout_key for study in (self.one, self.other)]
        return keys[0] == keys[1]

    @cached_property
    def metrics(self) -> ComparedMetrics:
        """Every metric that both have, with the difference and its interval."""
        return _metrics(self.one, self.other, paired=self.shares_tokens)

    @cached_property
    def verdicts(self) -> ComparedVerdicts:
        """The number of latents with each verdict."""
        studies = {"one": self.one, "other": self.other}
        sites = dict.fromkeys([*self.one.sites, *self.other.sites])
        rows = [
            (site, name, *study.latents(site).counts.values())
            for site in sites
            for name, study in studies.items()
            if site in study.sites
        ]
        return ComparedVerdicts(_columns(("site", "study", *STATUSES), rows))

    @cached_property
    def latents(self) -> MatchedLatents:
        """The judged latents of `one` with the latents of `other` that they are most like, at sites that both have.

        Raises:
            InputError: the studies have no site in common where their latents can be compared.
        """
        common = [site for site in self.one.sites if site in self.other.sites]
        parts = [part for part in map(self._matched, common) if part is not None]
        if not parts:
            raise InputError(
                "the studies have no site in common where their latents can be compared",
                where=f"{', '.join(self.one.sites)} and {', '.join(self.other.sites)}",
                fix="compare studies of one site, on the same held-out tokens or on networks of the same width",
            )
        return MatchedLatents({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    @cached_property
    def agreement(self) -> Agreement:
        """How many latents keep their answers and their word, at sites where both judge the same dictionary.

        Raises:
            InputError: there is no such site.
        """
        return agreement(self.one, self.other)

    def _matched(self, site: str) -> dict[str, np.ndarray] | None:
        dictionaries = [study.dictionary(site) for study in (self.one, self.other)]
        write = [torch.nn.functional.normalize(d.write_directions().float().cpu(), dim=1) for d in dictionaries]
        same_width = write[0].shape[1] == write[1].shape[1]
        if self.shares_tokens:
            similar = _by_firing(self.one, self.other, site)
        elif same_width:
            similar = ((write[0][i : i + _CHUNK] @ write[1].T).numpy() for i in range(0, len(write[0]), _CHUNK))
        else:
            return None
        match, value, mutual = _best(similar, n_other=len(write[1]))
        found, cosine = match >= 0, np.full(len(match), math.nan)
        if same_width:
            cosine = np.where(found, (write[0] * write[1][torch.from_numpy(match)]).sum(1).numpy(), math.nan)
        status = [study.latents(site)["status"] for study in (self.one, self.other)]
        return {
            "site": np.full(len(match), site, dtype=object),
            "latent": np.arange(len(match)),
            "status": status[0],
            "match": match,
            "match_status": np.where(found, status[1][match], ""),
            "correlation": value if self.shares_tokens else np.full(len(match), math.nan),
            "cosine": cosine,
            "mutual": mutual,
        }

    def to_pandas(self) -> Any:
        """`metrics` as a pandas DataFrame.

        Raises:
            InputError: pandas is not installed.
        """
        return self.metrics.to_pandas()

    @property
    def _title(self) -> str:
        tokens = "the same" if self.shares_tokens else "different"
        return f"one: {self.one.run.id}, other: {self.other.run.id}, measured on {tokens} held-out tokens"

    def __repr__(self) -> str:
        return "\n\n".join([self._title, repr(self.verdicts), repr(self.metrics)])

    def _repr_html_(self) -> str:
        return html.frame(self._title, self.verdicts.to_html(), self.metrics.to_html())


def compare(one: StudyResult | str | Path, other: StudyResult | str | Path, root: str | Path = "runs") -> Comparison:
    """Two studies side by side: `.metrics`, `.verdicts`, `.latents` and `.agreement` are tables, each with
    `.to_pandas()`.

    >>> both = polyseme.compare(result, "small", root)
    >>> both.latents.title
    '64 latents with their matches, 64 of them mutual'

    Args:
        one: a study that was run or opened, or what `open_study` takes.
        other: what is compared with it; differences are other − one.
        root: the folder of runs, for a study that is opened.

    Raises:
        InputError: a run that cannot be opened.
    """
    one, other = (study if isinstance(study, StudyResult) else open_study(study, root) for study in (one, other))
    return Comparison(one, other)


def _metrics(one: StudyResult, other: StudyResult, *, paired: bool) -> ComparedMetrics:
    records = [{_key(r): r for r in study.run.metrics if "gap" not in r.scope} for study in (one, other)]
    sums = [_sums(study) if paired else {} for study in (one, other)]
    rows: list[tuple[object, ...]] = []
    for key, first in records[0].items():
        second = records[1].get(key)
        if second is None or second.version != first.version:
            continue
        difference, kind = gap_of_records(second, first), "independent"
        if key in sums[0] and key in sums[1] and _paired(sums[0][key], sums[1][key]):
            n = one.findings.config.evaluation.n_resamples
            difference, kind = gap(sums[1][key], sums[0][key], n_resamples=n), "paired"
        low, high = (difference.interval.low, difference.interval.high) if difference.interval else (math.nan, math.nan)
        scope = [first.scope.get(name) for name in ("study", "site", "seed", "ablation")]
        values = (first.value, second.value, second.value - first.value, low, high)
        rows.append((first.name, *scope, *values, kind, first.unit, _better(first, low, high)))
    names = ("name", "study", "site", "seed", "ablation", "one", "other", "difference", "low", "high", "interval")
    return ComparedMetrics(_columns((*names, "unit", "better"), rows))


def _key(entry: MetricRecord | DocumentSums) -> _Key:
    return entry.name, frozenset(entry.scope.items())


def _sums(study: StudyResult) -> dict[_Key, DocumentSums]:
    """What the metrics were made of, a row a document."""
    found = study.findings
    entries = [entry for m in (found.real, *found.controls.values()) for entry in m.spliced.sums]
    for measured in (found.real, *found.controls.values()):
        entries += [entry for of_one in measured.readings.sums.values() for entry in of_one]
    return {_key(entry): entry for entry in entries}


def _paired(one: DocumentSums, other: DocumentSums) -> bool:
    """Whether both were measured on the same documents, with as many tokens of them."""
    return np.array_equal(one.documents, other.documents) and one.n == other.n


def _better(record: MetricRecord, low: float, high: float) -> Literal["one", "other", ""]:
    if record.better == "neither" or not (low > 0 or high < 0):
        return ""
    return "other" if (low > 0) == (record.better == "higher") else "one"


def _by_firing(one: StudyResult, other: StudyResult, site: str) -> Iterator[Float[np.ndarray, "chunk n_other"]]:
    own, others = one.firings(site), other.firings(site)
    for start in range(0, own.n_latents, _CHUNK):
        yield own.correlations(range(start, min(start + _CHUNK, own.n_latents)), others)


def _best(
    similar: Iterator[Float[np.ndarray, "chunk n_other"]], *, n_other: int
) -> tuple[Int[np.ndarray, " latent"], Float[np.ndarray, " latent"], np.ndarray]:
    """For each row its best column, the value there, and whether the row is that column's best, too.

    Returns:
        match (−1 where no value is above 0), value (NaN there), mutual.
    """
    matches, values = [np.zeros(0, np.int64)], [np.zeros(0)]
    back, back_value = np.full(n_other, -1), np.zeros(n_other)
    start = 0
    for rows in similar:
        matches.append(rows.argmax(axis=1))
        values.append(rows.max(axis=1).astype(np.float64))
        best = rows.argmax(axis=0)
        better = rows[best, np.arange(n_other)] > back_value
        back[better], back_value[better] = start + best[better], rows[best, np.arange(n_other)][better]
        start += len(rows)
    match, value = np.concatenate(matches), np.concatenate(values)
    mutual = (value > 0) & (back[match] == np.arange(len(match)))
    return np.where(value > 0, match, -1), np.where(value > 0, value, math.nan), mutual


def _columns(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> dict[str, np.ndarray]:
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return {
        name: np.array(values, dtype=float if values and all(isinstance(v, float) for v in values) else object)
        for name, values in columns.items()
    }
