"""The confusion matrix of the verdicts: what each kind of latent was called, kind by kind, with errors by network."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from polyseme.core.config import Record
from polyseme.core.records import AXES, STATUSES, Answer, Axis, Interval, MetricRecord, Status
from polyseme.core.stats import wilson_interval
from polyseme.studies.levels import LevelName
from polyseme.trials.kinds import FEATURES, MODES, NAMES, Kind, Mode

LEAST_CORRELATION = 0.05
"""Correlation within a network that is assumed at least: a few networks cannot show that there is less."""


class Row(Record):
    """What the latents of one kind were called.

    A planted variable counts once, with the latent that stands for it and has the most favourable word; a given latent
    counts for itself.
    """

    kind: Kind
    counts: dict[Status, int]
    """How many have each word; those that none has are left out."""
    answers: dict[Axis, tuple[int, int]]
    """By axis, how many have `yes` and how many `no`; the others have `unknown`."""
    not_found: int = 0
    """Variables that no latent stands for."""
    by_network: tuple[tuple[int, int], ...]
    """(called `network_feature`, all that a latent stands for) for each network."""
    not_found_by_network: tuple[int, ...] = ()
    """For each network; empty where every variable is found."""

    @property
    def n(self) -> int:
        """All that a latent stands for."""
        return sum(self.counts.values())

    @property
    def called(self) -> MetricRecord:
        """Share called `network_feature`, of those that a latent stands for."""
        return self._rate("called_network_feature", self.by_network)

    @property
    def missed(self) -> MetricRecord:
        """Share not called `network_feature`, those that no latent stands for among them."""
        lost = self.not_found_by_network or (0,) * len(self.by_network)
        pairs = [(n - called + gone, n + gone) for (called, n), gone in zip(self.by_network, lost, strict=True)]
        return self._rate("missed", pairs)

    def _rate(self, name: str, pairs: Sequence[tuple[int, int]]) -> MetricRecord:
        count, n = (sum(pair[i] for pair in pairs) for i in (0, 1))
        return MetricRecord(
            name=name,
            value=count / n if n else float("nan"),
            interval=clustered_interval(pairs),
            n=n,
            n_unit="latents",
            scope={"kind": self.kind},
            details={"count": count, "networks": len(pairs)},
        )


class Procedure(Record):
    """The matrix of one way of judging."""

    level: LevelName
    mode: Mode
    controls: tuple[str, ...]
    """Kinds of null, in alphabetical order."""
    rows: tuple[Row, ...]

    def row(self, kind: Kind) -> Row | None:
        """What one kind was called; None where there is none of it."""
        return next((row for row in self.rows if row.kind == kind), None)


class Seen(Record):
    """What one network's latents were called, by one way of judging: the unit that a killed run resumes from."""

    level: LevelName
    mode: Mode
    controls: tuple[str, ...]
    kinds: tuple[Kind, ...]
    """Kind of each variable or latent."""
    statuses: tuple[Status | None, ...]
    """Its word; None of a variable that no latent stands for."""
    answers: tuple[str, ...] = Field(default=())
    """Its answers, one letter an axis in the order of `AXES`; empty where there is no word."""


def letters(answers: Sequence[Answer]) -> str:
    """The first letters of the answers of the axes."""
    return "".join(answer[0] for answer in answers)


def procedure(seen: Sequence[Seen]) -> Procedure:
    """The matrix of one way of judging, from what it said of every network."""
    first = seen[0]
    kinds: list[Kind] = [kind for kind in NAMES if any(kind in one.kinds for one in seen)]
    return Procedure(
        level=first.level, mode=first.mode, controls=first.controls, rows=tuple(_row(k, seen) for k in kinds)
    )


def _row(kind: Kind, seen: Sequence[Seen]) -> Row:
    of_network = [
        [(s, a) for k, s, a in zip(one.kinds, one.statuses, one.answers, strict=True) if k == kind] for one in seen
    ]
    found = [[(s, a) for s, a in mine if s is not None] for mine in of_network]
    words = [s for mine in found for s, _ in mine]
    lost = tuple(len(mine) - len(have) for mine, have in zip(of_network, found, strict=True))
    answers: dict[Axis, tuple[int, int]] = {}
    for i, axis in enumerate(AXES):
        given = [a[i] for mine in found for _, a in mine]
        answers[axis] = (given.count("y"), given.count("n"))
    return Row(
        kind=kind,
        counts={status: words.count(status) for status in STATUSES if status in words},
        answers=answers,
        not_found=sum(lost),
        by_network=tuple((sum(s == "network_feature" for s, _ in mine), len(mine)) for mine in found),
        not_found_by_network=lost if any(lost) else (),
    )


def clustered_interval(pairs: Sequence[tuple[int, int]], *, level: float = 0.95) -> Interval:
    """Interval of a share whose cases come in clusters, each (count, of how many).

    Wilson's for n / deff cases, deff = 1 + (Σ nᵢ² / n − 1) ρ (Kish 1965), with the intraclass correlation ρ that the
    analysis of variance gives (Donner & Koval 1980), at least `LEAST_CORRELATION`.
    """
    counts, sizes = (np.array([pair[i] for pair in pairs if pair[1]], dtype=np.float64) for i in (0, 1))
    n, k = float(sizes.sum()), len(sizes)
    method = "Wilson, clustered by network"
    if not k:
        return Interval(low=float("nan"), high=float("nan"), level=level, method=method)
    shares, share, correlation = counts / sizes, counts.sum() / n, LEAST_CORRELATION
    if k > 1 and n > k:
        between = float((sizes * (shares - share) ** 2).sum()) / (k - 1)
        within = float((sizes * shares * (1 - shares)).sum()) / (n - k)
        usual = (n - float((sizes**2).sum()) / n) / (k - 1)
        total = between + (usual - 1) * within
        correlation = max(correlation, (between - within) / total if total > 0 else 0.0)
    effect = 1 + (float((sizes**2).sum()) / n - 1) * correlation
    found = wilson_interval(float(counts.sum()) / effect, n / effect, level=level)
    return found.model_copy(update={"method": method})


def as_markdown(procedures: Sequence[Procedure]) -> str:
    """A table for each level and set of controls: how many of each kind have each word, and what is wrong or missed."""
    lines: list[str] = []
    for level, controls in dict.fromkeys((p.level, p.controls) for p in procedures):
        lines += [
            f"## {level}, {' + '.join(controls)}",
            "",
            "| dictionaries | latents | n | "
            + " | ".join(status.replace("_", " ") for status in STATUSES)
            + " | called network feature | missed | yes: "
            + ", ".join(axis.replace("_", " ") for axis in AXES)
            + " |",
            "|---" * (len(STATUSES) + 6) + "|",
        ]
        for mode in MODES:
            mine = [p for p in procedures if (p.level, p.mode, p.controls) == (level, mode, controls)]
            lines += [_line(mode, row) for p in mine for row in p.rows]
        lines.append("")
    return "\n".join(lines)


def _line(mode: Mode, row: Row) -> str:
    counts = " | ".join(str(row.counts.get(status, 0)) for status in STATUSES)
    missed = _percent(row.missed) if row.kind in FEATURES else ""
    yes = ", ".join(f"{row.answers[axis][0] / row.n:.0%}" if row.n else "—" for axis in AXES)
    return f"| {mode} | {NAMES[row.kind]} | {row.n} | {counts} | {_percent(row.called)} | {missed} | {yes} |"


def _percent(rate: MetricRecord) -> str:
    if rate.interval is None or not rate.n:
        return "—"
    return f"{rate.value:.1%} [{rate.interval.low:.1%}, {rate.interval.high:.1%}]"
