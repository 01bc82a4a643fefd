"""Checks: what a toy should show, declared as lines of a table, and the values that fill it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.config import Record
from polyseme.core.records import Interval, Number
from polyseme.core.stats import wilson_interval
from polyseme.evaluation import intervals
from polyseme.kernels.shield import shielded

Source = Literal["published", "second-hand", "derived", "computed", "proposed"]
"""Where a reference comes from: the primary text; a summary of it; algebra; a numerical check; a threshold of ours."""
Outcome = Literal["pass", "fail", "not_measured"]
Cost = Literal["fast", "slow", "long"]
"""On two cores: under a minute, under ten minutes, longer."""
COSTS: tuple[Cost, ...] = ("fast", "slow", "long")


class Check(Record):
    """One line of a toy's acceptance, measured."""

    name: str
    """What is measured, in words: `angle between neighbours`."""
    reference: str
    """What it should be, as printed: `72 ± 4`."""
    source: Source
    paper: str = ""
    """Authors and year, or the equation it is derived from; empty for the toy's own paper."""
    value: Number
    """NaN: not measured."""
    interval: Interval | None = None
    n: int
    n_unit: str = "networks"
    unit: str = ""
    outcome: Outcome
    note: str = ""
    """What was found where the reference did not reproduce, or why nothing was measured."""


@dataclass(frozen=True)
class Value:
    """What was measured for a line.

    Attributes:
        value: NaN where there is nothing to measure.
        n: number of networks, or of whatever the line counts.
        interval: interval of the value.
        note: what to know besides the value.
        holds: False where a claim about every network is broken by one of them, whatever their mean.
    """

    value: float
    n: int = 1
    interval: Interval | None = None
    note: str = ""
    holds: bool = True

    def shown(self, spec: str) -> str:
        """The value with its interval, each in this format: `0.40 [0.39, 0.41]`."""
        assert self.interval is not None
        return f"{self.value:{spec}} [{self.interval.low:{spec}}, {self.interval.high:{spec}}]"


NOTHING = Value(math.nan, 0)


@dataclass(frozen=True)
class Line:
    """A line of a toy's acceptance before it is measured. Braces in its texts are filled by the words given to `fill`.

    Attributes:
        name, reference, source, paper, unit, n_unit: as in the check.
        at_least, at_most: bounds of a value that passes.
        target: what the value should be near, in place of bounds; `fill` may give another.
        within, relative: how far the value may be from the target: absolute, and as a share of the target.
        beyond: whether the lower end of the interval has to reach `at_least`, too.
    """

    name: str
    reference: str
    at_least: float = -math.inf
    at_most: float = math.inf
    source: Source = "proposed"
    paper: str = ""
    target: float = math.nan
    within: float = 0.0
    relative: float = 0.0
    beyond: bool = False
    unit: str = ""
    n_unit: str = "networks"

    def fill(self, found: Value, why: str = "", *, target: float | None = None, **words: Any) -> Check:
        """The check of a value: passed where it is inside the bounds; NaN is "not measured", never a pass.

        Args:
            found: what was measured.
            why: why nothing was measured: the network did not train, or data are missing; empty where there is a value.
            target: what the value should be near.
            words: what stands in the braces of name and reference, besides `target`.
        """
        if why:
            found = Value(math.nan, 0, note=why)
        target = self.target if target is None else target
        slack = self.within + self.relative * abs(target)
        low, high = (self.at_least, self.at_most) if math.isnan(target) else (target - slack, target + slack)
        passed = found.holds and low <= found.value <= high
        if self.beyond and found.interval is not None:
            passed = passed and found.interval.low >= low
        inside: Outcome = "pass" if passed else "fail"
        return Check(
            name=self.name.format(target=target, **words),
            reference=self.reference.format(target=target, **words),
            source=self.source,
            paper=self.paper,
            value=found.value,
            interval=found.interval,
            n=found.n,
            n_unit="networks" if why else self.n_unit,
            unit="" if why else self.unit,
            outcome="not_measured" if math.isnan(found.value) else inside,
            note=found.note,
        )


def table(*lines: Line, **shared: Any) -> tuple[Line, ...]:
    """Lines that have these fields in common."""
    return tuple(replace(line, **shared) for line in lines)


def fill(lines: Sequence[Line], found: Sequence[Value], why: str = "", **words: Any) -> list[Check]:
    """The checks of a table's lines and their values, in order; `why` leaves all of them unmeasured."""
    values = [NOTHING] * len(lines) if why else found
    return [line.fill(value, why, **words) for line, value in zip(lines, values, strict=True)]


def mean(values: Any, note: str = "", *, holds: bool = True) -> Value:
    """Mean over networks, or whatever the line counts, with its t-interval; NaN values are left out."""
    value, interval = intervals.mean_interval(np.asarray(values), over="networks")
    return Value(value, len(values), interval, note, holds)


def share(hits: Any, n: int | None = None, note: str = "") -> Value:
    """A share with its Wilson interval: of `n`, or of the entries of an array of yes and no; NaN of none."""
    flags = np.asarray(hits)
    total, n = int(flags.sum()), flags.size if n is None else n
    value, interval = share_interval(total, n)
    return Value(value, n, interval, note)


def share_interval(hits: int, n: int) -> tuple[float, Interval]:
    """A share of networks with its Wilson interval; NaN of none."""
    return hits / n if n else math.nan, wilson_interval(hits, n)


def least_p(counts: Int[np.ndarray, " test"], n: Any, p: Float[np.ndarray, " test"]) -> float:
    """The smallest two-sided binomial p-value of counts out of `n` against exact probabilities, times their number.

    `n` is one number, or one a test.
    """
    from scipy import stats

    tails = np.minimum(stats.binom.cdf(counts, n, p), stats.binom.sf(counts - 1, n, p))
    return float(min(1.0, 2 * tails.min() * len(counts))) if len(counts) else math.nan


@dataclass(frozen=True)
class Experiment:
    """Some checks that share their networks.

    Attributes:
        name: its name on the command line.
        cost: how long it takes.
        about: one line.
        run: measures the checks from the toy's config and a reporter; a resumable one also takes a folder.
        resumable: whether it keeps checkpoints in a folder, from which an interrupted run resumes.
        version: raised when its code, or a default of its config, changes what it finds; kept results are then dropped.
    """

    name: str
    cost: Cost
    about: str
    run: Callable[..., Sequence[Check]]
    resumable: bool = False
    version: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", shielded(self.run))
