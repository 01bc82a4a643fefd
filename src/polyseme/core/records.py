"""What an evaluation says: a value never travels without its interval, its n and its unit."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from polyseme.core.config import Record

Better = Literal["higher", "lower", "neither"]
Status = Literal["supported", "mixed", "indistinguishable_from_control", "insufficient_data"]
STATUSES: tuple[Status, ...] = ("supported", "mixed", "indistinguishable_from_control", "insufficient_data")
JUDGED: tuple[Status, ...] = ("supported", "mixed", "indistinguishable_from_control")
"""The verdicts; `insufficient_data` is the want of one."""


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
    """One test behind a verdict."""

    name: str
    """`causal_effect`, `model_specificity`, `firing_documents`, …"""
    effect: Number
    interval: Interval | None = None
    null: Number = math.nan
    """The effect's value under its null (the mean over random directions; 0 for a margin)."""
    n: int
    n_unit: str = "tokens"
    threshold: Number = math.nan
    p_corrected: Number = math.nan
    """Benjamini–Hochberg corrected p-value, where the test has one."""
    passed: bool
    made: bool = True
    """False where the test could not be made, or no result could have passed it: not having passed says nothing."""
    note: str = ""


class Verdict(Record):
    """What the evidence says about one latent."""

    status: Status
    evidence: tuple[Evidence, ...]
    missing: str = ""
    """With `insufficient_data`: what the verdict lacks."""
