"""How often the verdicts are wrong, as measured on planted truth."""

from pydantic import Field

from polyseme.core.config import Record
from polyseme.core.records import MetricRecord, Status


class PlantedKind(Record):
    """What the verdicts say of the latents that stand for one kind of planted variable."""

    name: str
    """What they stand for: `computed features that are used`, `statistics of the input`, …"""
    is_feature: bool | None
    """Whether `network_feature` is the right word for them; None where it is neither right nor wrong."""
    called: MetricRecord
    """Share of them called `network_feature`; its interval is over networks, the clusters."""
    counts: dict[Status, int] = Field(default_factory=dict[Status, int])
    """How many of them have each word."""


class Calibration(Record):
    """The verdict procedure run on planted truth: a row of the confusion matrix for each kind, never pooled."""

    description: str
    """What was planted and how, one or two sentences."""
    controls: tuple[str, ...] = ()
    """Kinds of null that it was run with."""
    n_networks: int
    """How many planted networks."""
    kinds: tuple[PlantedKind, ...]
