"""A study's results on a terminal: what stands at the top of the report, in 80 columns."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyseme.core.records import STATUSES, Status
from polyseme.core.text import visible
from polyseme.interpret.headlines import headlines
from polyseme.interpret.numbers import count, duration, interval, memory, percent, short, signed
from polyseme.interpret.report import Comparison, StudyReport
from polyseme.interpret.words import STATUS_SHORT, STATUS_SIGNS, bounds_of, gap_bounds, gap_of, metric_name, value_of

_COLOURS: dict[Status, str] = {
    "supported": "blue",
    "mixed": "yellow",
    "indistinguishable_from_control": "default",
    "insufficient_data": "dim",
}
_SHOWN = ("fvu", "fvu_ordinary", "ce_recovered")
"""Metrics whose gaps are printed; the report has all of them."""
_ASCII = str.maketrans({"−": "-", "Δ": "d", "·": "-", "…": "~", "≤": "<=", "‖": "|", "–": "-", "∞": "inf", "’": "'"})


def print_summary(report: StudyReport, *, report_path: Path | None = None, console: Console | None = None) -> None:
    """Print verdict counts, faithfulness single and joint, control gaps, stability and where the report is.

    Text of a corpus or a user is printed as text: no markup is parsed and no control character reaches the terminal.

    Args:
        report: the study's report.
        report_path: its page, named on the last line.
        console: where to print; standard output by default.
    """
    console = console or Console(markup=False, highlight=False, emoji=False)
    write = _Writer(console)
    took = ", ".join(
        text
        for value, text in (
            (report.summary.wall_seconds, duration(report.summary.wall_seconds)),
            (report.summary.peak_memory_bytes, memory(report.summary.peak_memory_bytes)),
        )
        if not math.isnan(value)
    )
    write.line()
    write.line(report.title, style="bold")
    write.line(" · ".join(filter(None, (f"run {report.run}", took))), style="dim")
    for sentence in headlines(report):
        write.line()
        write.line(sentence)
    _verdicts(write, report)
    _faithfulness(write, report)
    _controls(write, report)
    for dictionary in report.dictionaries:
        if dictionary.massive:
            write.line()
            write.line(f"{dictionary.name}: {dictionary.massive}")
    _stability(write, report)
    if report_path is not None:
        write.line()
        write.line(f"Report: {report_path}", style="bold", wrap=False)


class _Writer:
    """Prints cleaned text, in ASCII where the terminal knows nothing else."""

    def __init__(self, console: Console):
        self.console = console
        self.ascii = not console.encoding.lower().replace("-", "").startswith("utf")

    def text(self, text: str, style: str = "") -> Text:
        text = visible(text)
        if self.ascii:
            text = text.translate(_ASCII).encode("ascii", "replace").decode()
        return Text(text, style=style)

    def line(self, text: str = "", *, style: str = "", wrap: bool = True) -> None:
        self.console.print(self.text(text, style), soft_wrap=not wrap)

    def table(self, title: str, columns: tuple[str, ...]) -> Table:
        self.line()
        self.line(title, style="bold")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("", overflow="fold")
        for column in columns:
            table.add_column(self.text(column), justify="right", no_wrap=True)
        return table

    def row(self, table: Table, *cells: str, style: str = "") -> None:
        table.add_row(*(self.text(cell) for cell in cells), style=style)


def _verdicts(write: _Writer, report: StudyReport) -> None:
    table = write.table("Verdicts", ())
    for status in STATUSES:
        sign = "" if write.ascii else f"{STATUS_SIGNS[status]} "
        heading = write.text(f"{sign}{STATUS_SHORT[status]}", _COLOURS[status])
        table.add_column(heading, justify="right", no_wrap=True)
    for dictionary in report.dictionaries:
        write.row(table, dictionary.name, *(count(dictionary.verdict_counts.get(s, 0)) for s in STATUSES))
    if len(report.dictionaries) > 1:
        write.row(table, "all", *(count(report.verdict_counts[s]) for s in STATUSES), style="bold")
    write.console.print(table)


def _faithfulness(write: _Writer, report: StudyReport) -> None:
    if report.faithfulness is None:
        return
    rows = [*report.faithfulness.single, *([report.faithfulness.joint] if report.faithfulness.joint else [])]
    table = write.table(
        "Faithfulness (nats/token; recovered: over mean ablation)",
        ("clean", "patched", "ΔCE", "95% interval", "recovered"),
    )
    for row in rows:
        cells = (
            "all sites jointly" if row.joint else row.site,
            short(row.ce_clean.value),
            short(row.ce_patched.value),
            signed(row.delta_ce.value),
            interval(row.delta_ce.interval, sign=True),
            percent(row.recovered_mean.value, 3),
        )
        write.row(table, *cells, style="bold" if row.joint else "")
    write.console.print(table)
    for note in report.faithfulness.notes:
        write.line(note)


def _controls(write: _Writer, report: StudyReport) -> None:
    for control in report.summary.controls:
        if control.note:
            write.line()
            write.line(f"{control.name}: {control.note}.")
    for name in _SHOWN:
        rows = [c for c in report.comparisons if c.trained.name == name and c.controls and _shown(c)]
        if all(math.isnan(c.trained.value) for c in rows):
            continue
        better = f", {rows[0].trained.better} is better" if rows[0].trained.better != "neither" else ""
        over = " over mean-ablation" if rows[0].trained.scope.get("ablation") else ""
        table = write.table(f"{metric_name(name)}{over}{better}", ("value", "gap", "95% interval"))
        for row in rows:
            write.row(table, "all sites jointly" if row.site == "joint" else row.site, value_of(row.trained))
            for value in row.controls:
                gap = gap_of(value.gap, row.trained), gap_bounds(value.gap_interval, row.trained)
                write.row(table, f"  on {value.control}", value_of(value.record), *gap)
        write.console.print(table)
    _of_all(write, report)


def _of_all(write: _Writer, report: StudyReport) -> None:
    """What of the comparisons with the controls stands above."""
    every = {(c.trained.name, str(c.trained.scope.get("ablation", ""))) for c in report.comparisons if c.controls}
    shown = {(c.trained.name, str(c.trained.scope.get("ablation", ""))) for c in report.comparisons if _shown(c)}
    n = sum(name in _SHOWN for name, _ in every & shown)
    if n < len(every):
        write.line(f"{n} of {len(every)} metrics that are compared with the controls are shown; the report has all.")


def _shown(comparison: Comparison) -> bool:
    return comparison.trained.scope.get("ablation") in (None, "mean")


def _stability(write: _Writer, report: StudyReport) -> None:
    if len(report.summary.seeds) < 2:
        write.line()
        write.line("Stability over seeds: not measured, the study has one seed.")
        return
    records = [
        (label, dictionary.name, record)
        for name, label in (("stability_shared", "cosine > 0.7"), ("stability_cosine", "mean cosine"))
        for dictionary in report.dictionaries
        for record in dictionary.metrics
        if record.name == name
    ]
    if not records:
        return
    table = write.table("Stability over seeds", ("", "value", "95% interval", "by chance"))
    for label, site, record in records:
        chance = record.details.get("chance")
        known = value_of(record.model_copy(update={"value": float(chance)})) if isinstance(chance, int | float) else "–"
        write.row(table, site, label, value_of(record), bounds_of(record), known)
    write.console.print(table)
