"""What an evaluation says: a value never travels without its interval, its n and its unit."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from polyseme.core.config import Record

Better = Literal["higher", "lower", "neither"]
Status = Literal["network_feature", "token_level", "use_not_shown", "not_beyond_nulls", "not_recurrent", "undecided"]
STATUSES: tuple[Status, ...] = (
    "network_feature",
    "token_level",
    "use_not_shown",
    "not_beyond_nulls",
    "not_recurrent",
    "undecided",
)
DECIDED: tuple[Status, ...] = STATUSES[:-1]
"""The words that say something of a latent; `undecided` is the want of one."""
Answer = Literal["yes", "no", "unknown"]
"""What an axis of the profile says: `no` where what it asks for was not shown, `unknown` where it could not be."""
Axis = Literal["recurrent", "network", "beyond_tokens", "used"]
AXES: tuple[Axis, ...] = ("recurrent", "network", "beyond_tokens", "used")


def _from_json(value: Any) -> Any:
    return math.nan if value is None else value


def _to_json(value: float) -> float | None:
    return value if math.isfinite(value) else None


Number = Annotated[float, BeforeValidator(_from_json), PlainSerializer(_to_json, when_used="json")]
"""A float whose NaN ("not measured") is `null` in JSON and NaN again when read back."""


class Interval(Record):
    """A two-sided interval."""

    low: Number
    high: Number
    level: float = 0.95
    method: str = "bootstrap over documents"

    def excludes(self, value: float) -> bool:
        """True when `value` lies strictly outside; False for an interval that was not measured."""
        return self.low > value or self.high < value


class MetricRecord(Record):
    """One measured number and all it takes to read it."""

    name: str
    """The metric: `fvu`, `ce_recovered`, …"""
    value: Number
    """NaN means not measured."""
    interval: Interval | None = None
    n: int
    """How many units of `n_unit` the value rests on."""
    n_unit: str = "tokens"
    unit: str = ""
    """Unit of the value: `nats/token`, `latents`, empty for a ratio."""
    better: Better = "neither"
    scope: dict[str, str | int] = Field(default_factory=dict[str, str | int])
    """What it was measured on: site, seed, control, ablation, joint, …"""
    details: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Parts of the value (every CE behind a CE recovered), a histogram, a curve; JSON, NaN as null."""
    version: int = 1
    """Raised when the definition changes, so that old and new numbers are never compared."""


class Backend(Record):
    """What carried out the operations behind a run's numbers, whose last bits depend on it."""

    name: Literal["torch", "loops", "triton"]
    """Dictionaries are computed by torch's own operations, by the compiled loops, or by the Triton kernels."""
    why_not: str | None
    """Why it is not the faster one of its device; None where it is."""
    loops: str | None
    """The build of the compiled loops that the process uses; None where it uses torch's operations instead."""
    threads: int
    """Threads of torch, which the loops share."""
    products_by_onednn: bool
    """Whether oneDNN computes the products of float32 matrices on the CPU."""


class Evidence(Record):
    """One comparison of a latent with one null."""

    null: str
    """What it is compared with: `gaussian_reinit`, `bigram table`, `covariance`, …"""
    value: Number
    """The latent's own figure: a correlation, or a correlation-like expected effect."""
    null_value: Number
    """The figure of the null."""
    interval: Interval | None = None
    """Interval of the difference, value − null_value."""
    least: Number = 0.0
    """The difference must exceed this."""
    p: Number = math.nan
    """One-sided p-value that it does not, before correction."""


class AxisResult(Record):
    """What one axis of the profile says of a latent, with every comparison that it rests on."""

    axis: Axis
    answer: Answer
    evidence: tuple[Evidence, ...] = ()
    hardest: str = ""
    """The null of the largest p-value, on which the answer rests."""
    p_corrected: Number = math.nan
    """p-value against the hardest null, Benjamini–Hochberg corrected over the latents of all sites."""
    frequency: Number = math.nan
    """Expected share of repetitions of the study that answer `yes`: the same dictionary is judged, and everything else
    that is random is drawn again."""
    frequency_interval: Interval | None = None
    """Range of that share, for true differences within their 95% intervals."""
    n: int = 0
    n_unit: str = "documents"
    missing: str = ""
    """With `unknown`: what is missing."""

    @property
    def comparison(self) -> Evidence | None:
        """The one with the hardest null; None where nothing was compared."""
        return next((evidence for evidence in self.evidence if evidence.null == self.hardest), None)


class Verdict(Record):
    """What the evidence says about one latent: a profile, and the word that follows from it."""

    status: Status
    axes: tuple[AxisResult, ...]
    """In the order of `AXES`."""
    frequency: Number = math.nan
    """Expected share of repetitions of the study that give the same word, the axes taken as independent."""
    frequency_interval: Interval | None = None
    """The same at the bounds of the axes: not an interval of 95%, for not all of them are at their bounds at once."""
    missing: str = ""
    """With `undecided`: what the first axis that the word needs is missing."""

    def axis(self, name: Axis) -> AxisResult:
        """One axis of the profile."""
        return next(axis for axis in self.axes if axis.axis == name)
