"""What every name in a report means, said once for the page and the terminal."""

import math

from polyseme.core import numbers
from polyseme.core.records import Interval, MetricRecord
from polyseme.evaluation.metrics import METRICS

PRIMARY = frozenset(metric.name for metric in METRICS.values() if metric.primary)
"""Metrics whose comparisons with the controls are shown at once; the others are folded away."""


def metric_name(name: str) -> str:
    """How a metric is called in a report."""
    return METRICS[name].title if name in METRICS else (name[:1].upper() + name[1:]).replace("_", " ")


def _is_share(record: MetricRecord) -> bool:
    return record.name in METRICS and METRICS[record.name].is_share


def value_of(record: MetricRecord | None) -> str:
    """A record's value as its kind is written: shares as percentages."""
    if record is None:
        return numbers.MISSING
    return numbers.percent(record.value, 3) if _is_share(record) else numbers.short(record.value)


def bounds_of(record: MetricRecord | None) -> str:
    """A record's interval as its kind is written; nothing where it was not measured."""
    if record is None or record.interval is None or math.isnan(record.interval.low):
        return ""
    if _is_share(record):
        return f"[{numbers.percent(record.interval.low, 3)}, {numbers.percent(record.interval.high, 3)}]"
    return numbers.interval(record.interval)


def gap_of(gap: float, trained: MetricRecord) -> str:
    """The gap between two values of a metric: percentage points between shares."""
    if not _is_share(trained) or math.isnan(gap):
        return numbers.signed(gap)
    return f"{numbers.signed(100 * gap)} pp"


def gap_bounds(bounds: Interval | None, trained: MetricRecord) -> str:
    """The interval of a gap, in the unit of `gap_of`."""
    if bounds is None or not _is_share(trained):
        return numbers.interval(bounds, sign=True)
    return numbers.interval(Interval(low=100 * bounds.low, high=100 * bounds.high), sign=True)
