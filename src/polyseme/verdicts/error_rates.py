"""How often the verdicts are wrong, as measured on planted truth."""

from polyseme.core.config import Record
from polyseme.core.records import MetricRecord, Number, Status


class Calibration(Record):
    """The verdict procedure run on planted truth."""

    description: str
    """What was planted and how, one or two sentences."""
    controls: tuple[str, ...] = ()
    """Kinds of control that it was run with."""
    false_positive_rate: MetricRecord
    """Share of planted non-features called supported."""
    miss_rate: MetricRecord
    """Share of planted features not called supported."""
    by_kind: tuple[tuple[str, MetricRecord], ...] = ()
    """(`statistics of the input`, …) with the share of each kind of non-feature called supported."""
    target: Number = 0.05
    counts: tuple[tuple[str, dict[Status, int]], ...] = ()
    """(`planted feature`, …) with the count of each verdict."""
