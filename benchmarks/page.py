"""Pieces that every section of docs/benchmarks.md is made of."""

import statistics
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)] + [""]


def spread(ms: Sequence[float]) -> str:
    """Median and quartiles."""
    if len(ms) < 2:
        return f"{ms[0]:.0f}"
    low, middle, high = statistics.quantiles(ms, n=4, method="inclusive")
    return f"{middle:.0f} [{low:.0f}, {high:.0f}]"


def ratio(value: float, other: float) -> str:
    """One over the other."""
    return f"{value / other:.2f}"
