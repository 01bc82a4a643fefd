"""What a toy is held against: a reference and its source beside the measured value, its interval and its n."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

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
    """One line of a toy's acceptance."""

    name: str
    """What is measured, in words: `angle between neighbours`."""
    reference: str
    """What it should be, as printed: `72 ± 4`."""
    source: Source
    paper: str
    """Authors and year, or the equation it is derived from."""
    value: Number
    """NaN: not measured."""
    interval: Interval | None = None
    n: int
    n_unit: str = "networks"
    unit: str = ""
    outcome: Outcome
    note: str = ""
    """What was found where the reference did not reproduce, or why nothing was measured."""


def check(
    name: str,
    value: float,
    *,
    reference: str,
    source: Source,
    paper: str,
    n: int,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    interval: Interval | None = None,
    n_unit: str = "networks",
    unit: str = "",
    note: str = "",
) -> Check:
    """A check that passes where `at_least` ≤ value ≤ `at_most`; NaN is "not measured", never a pass."""
    inside: Outcome = "pass" if at_least <= value <= at_most else "fail"
    return Check(
        name=name,
        reference=reference,
        source=source,
        paper=paper,
        value=value,
        interval=interval,
        n=n,
        n_unit=n_unit,
        unit=unit,
        outcome="not_measured" if math.isnan(value) else inside,
        note=note,
    )


def not_measured(name: str, *, reference: str, source: Source, paper: str, why: str) -> Check:
    """A check whose network did not train, or whose data are missing."""
    return check(name, math.nan, reference=reference, source=source, paper=paper, n=0, note=why)


def mean_interval(values: Float[np.ndarray, " n"]) -> tuple[float, Interval]:
    """Mean over networks with its t-interval; NaN values are left out."""
    return intervals.mean_interval(values, over="networks")


def share_interval(hits: int, n: int) -> tuple[float, Interval]:
    """A share of networks with its Wilson interval; NaN of none."""
    return hits / n if n else math.nan, wilson_interval(hits, n)


@dataclass(frozen=True)
class Experiment:
    """Some checks that share their networks.

    Attributes:
        name: how the command line calls it.
        cost: how long it takes.
        about: one line.
        run: from the toy's config and a reporter to the checks; a resumable one takes a folder, too.
        resumable: whether it keeps checkpoints in a folder, from which a run that was killed goes on.
    """

    name: str
    cost: Cost
    about: str
    run: Callable[..., Sequence[Check]]
    resumable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", shielded(self.run))
