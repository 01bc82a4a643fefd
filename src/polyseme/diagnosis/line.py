"""A line of evidence: what one signature found."""

import math

from polyseme.core.config import Record
from polyseme.core.records import Interval, Number


class Line(Record):
    """What one signature found at a site."""

    name: str
    """The signature: `features_per_dimension`, `co_firing`, …"""
    effect: Number
    """NaN means not measured."""
    interval: Interval | None = None
    null: Number = math.nan
    """The effect under the signature's null; the mean of its draws where it is drawn."""
    n: int
    n_unit: str = "rows"
    threshold: Number = math.nan
    """What the interval, or the p-value where the note says so, is compared with."""
    p_corrected: Number = math.nan
    """The p-value against the null's draws, corrected where the signature makes several tests."""
    passed: bool
    note: str = ""
