"""How numbers are written: true minus, enough digits, and "not measured" for NaN."""

import math

from polyseme.core.records import Interval, MetricRecord

MISSING = "not measured"


def short(value: float, digits: int = 3) -> str:
    """`value` with about `digits` significant digits: `0.143`, `12.5`, `1.2k`, `3.9M`, `2.1e−7`."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0:
        text = "0"
    elif size < 9_999.5 and size % 1 == 0:
        text = f"{size:.0f}"
    elif size >= 999_500:
        text = f"{_significant(size / 1e6, digits)}M" if size < 999.5e6 else f"{_significant(size / 1e9, digits)}B"
    elif size >= 9_999.5:
        text = f"{_significant(size / 1e3, digits)}k"
    elif size >= 1e-4:
        text = _significant(size, digits)
    else:
        text = f"{size:.{max(digits - 2, 0)}e}".replace("e-0", "e-").replace("-", "−")
    return f"−{text}" if value < 0 else text


def _significant(size: float, digits: int) -> str:
    rounded = float(f"{size:.{digits}g}")
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    return f"{size:.{decimals}f}"


def plain(value: float) -> str:
    """A round number, without zeros behind it: `0.05`, `20`, `2k`."""
    text = short(value, 2)
    head, unit = (text[:-1], text[-1]) if text[-1] in "kMB" else (text, "")
    return f"{head.rstrip('0').rstrip('.')}{unit}" if "." in head and "e" not in head else text


def signed(value: float, digits: int = 3) -> str:
    """The same as `short`, with a plus before what is positive."""
    return f"+{short(value, digits)}" if value > 0 else short(value, digits)


def count(value: float) -> str:
    """An integer with commas between thousands."""
    return MISSING if math.isnan(value) else f"{value:,.0f}".replace("-", "−")


def percent(value: float, digits: int = 2) -> str:
    """A share as a percentage with `digits` significant digits, whole numbers from ten up when there are two."""
    if math.isnan(value):
        return MISSING
    if value == 0 or abs(value) < 1e-6:
        return "0%" if value == 0 else "≈ 0%"
    return f"{'−' if value < 0 else ''}{_significant(abs(100 * value), digits)}%"


def interval(value: Interval | None, *, sign: bool = False) -> str:
    """`[low, high]`, or nothing where it was not measured."""
    if value is None or math.isnan(value.low) or math.isnan(value.high):
        return ""
    form = signed if sign else short
    return f"[{form(value.low)}, {form(value.high)}]"


def measured(record: MetricRecord | None, *, sign: bool = False) -> str:
    """A record's value and interval on one line."""
    if record is None:
        return MISSING
    return " ".join(filter(None, ((signed if sign else short)(record.value), interval(record.interval, sign=sign))))


def duration(seconds: float) -> str:
    """`4 min 12 s`."""
    if math.isnan(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def memory(n_bytes: float) -> str:
    """`2.4 GiB`."""
    if math.isnan(n_bytes):
        return MISSING
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
