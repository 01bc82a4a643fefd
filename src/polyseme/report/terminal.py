"""A study's results on a terminal: what stands at the top of the report, in 80 columns."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from polyseme.core.numbers import count, duration, interval, memory, percent, short, signed
from polyseme.core.records import STATUSES, Status
from polyseme.core.text import visible
from polyseme.evaluation.metric import Metric
from polyseme.evaluation.metrics import METRICS
from polyseme.report import learning
from polyseme.report.headlines import headlines
from polyseme.report.profiles import ANSWER_NAMES, AXIS_NAMES, STATUS_HEADS, STATUS_SIGNS
from polyseme.report.schema import AxisReport, Comparison, StudyReport
from polyseme.report.words import bounds_of, gap_bounds, gap_of, metric_name, value_of

_COLOURS: dict[Status, str] = {
    "network_feature": "blue",
    "token_level": "yellow",
    "use_not_shown": "green",
    "not_beyond_nulls": "magenta",
    "not_recurrent": "red",
    "undecided": "dim",
}
_ASCII = str.maketrans({"−": "-", "Δ": "d", "·": "-", "…": "~", "≤": "<=", "‖": "|", "–": "-", "∞": "inf", "’": "'"})


def print_summary(report: StudyReport, *, report_path: Path | None = None, console: Console | None = None) -> None:
    """Print counts of words and answers, faithfulness single and joint, control gaps, stability, where the report is.

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
    _words(write, report)
    _axes(write, report)
    _faithfulness(write, report)
    _controls(write, report)
    for dictionary in report.dictionaries:
        if dictionary.massive:
            write.line()
            write.line(f"{dictionary.name}: {dictionary.massive}")
    _stability(write, report)
    _learning(write, report)
    if report_path is not None:
        write.line()
        write.line(f"Report: {report_path}", style="bold", wrap=False)


_Row = tuple[str, list[str], str]
"""A row of a table: its name, its cells and their style."""


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

    def table(self, title: str, columns: Sequence[tuple[str, str]], rows: Sequence[_Row]) -> None:
        """Names at the left, numbers in columns at the right; nothing is cut off, however narrow the terminal is.

        A name that is too long for its column stands on a line of its own above its numbers; where not even the
        columns fit side by side, every number follows the name of its column. The name of a column may have several
        lines, and a row without cells is the name of those below it.
        """
        self.line()
        self.line(title, style="bold")
        parts = [(name.split("\n"), style or "dim") for name, style in columns]
        depth = max(len(lines) for lines, _ in parts)
        heads = [
            [self.text(lines[i - depth] if depth - i <= len(lines) else "", style) for lines, style in parts]
            for i in range(depth)
        ]
        body = [(self.text(name, style), [self.text(cell, style) for cell in cells]) for name, cells, style in rows]
        filled = [cells for _, cells in body if cells]
        widths = [max(text.cell_len for text in column) for column in zip(*heads, *filled, strict=True)]
        room = self.console.width - sum(width + 2 for width in widths)
        if room < 0:
            joined = [self.text(" ".join(lines), style) for lines, style in parts]
            for name, cells in body:
                pairs = (Text.assemble(head, " ", cell) for head, cell in zip(joined, cells, strict=bool(cells)))
                self.console.print(name)
                if cells:
                    self.console.print(Text(", ").join(pairs))
            return
        named = [name.cell_len for name, cells in body if cells]
        longest = max(named, default=0)
        left = longest if longest <= room else max((n for n in named if n <= room), default=0)
        for name, cells in [*((Text(), line) for line in heads), *body]:
            if name.cell_len > left or not cells:
                self.console.print(name)
                name = Text()
            if not cells:
                continue
            line = Text.assemble(name, " " * (left - name.cell_len))
            for cell, width in zip(cells, widths, strict=True):
                line = Text.assemble(line, " " * (2 + width - cell.cell_len), cell)
            self.console.print(line, soft_wrap=True)


def _words(write: _Writer, report: StudyReport) -> None:
    """How many latents of every site have each word."""
    signs = dict.fromkeys(STATUSES, "") if write.ascii else {s: f"\n{STATUS_SIGNS[s]}" for s in STATUSES}
    columns = [(f"{STATUS_HEADS[s]}{signs[s]}", _COLOURS[s]) for s in STATUSES]
    rows: list[_Row] = [
        (d.name, [count(d.verdict_counts.get(s, 0)) for s in STATUSES], "") for d in report.dictionaries
    ]
    if len(report.dictionaries) > 1:
        rows.append(("all", [count(report.verdict_counts[s]) for s in STATUSES], "bold"))
    write.table("Words", columns, rows)


def _axes(write: _Writer, report: StudyReport) -> None:
    """What each axis answers at every site, with the median of the value and of the hardest null."""
    several = len(report.dictionaries) > 1
    rows: list[_Row] = []
    for dictionary in report.dictionaries:
        if several and dictionary.axes:
            rows.append((dictionary.name, [], ""))
        for part in dictionary.axes:
            cells = [count(part.yes), count(part.no), count(part.unknown), *_medians(part)]
            rows.append((f"{'  ' * several}{AXIS_NAMES[part.axis]}", cells, ""))
    if rows:
        answers = (name.replace(" ", "\n") for name in ANSWER_NAMES.values())
        write.table(
            "Answers (medians of value and hardest null)", _plain(*answers, "value", "null", "hardest null"), rows
        )


def _medians(part: AxisReport) -> list[str]:
    return [short(part.value), short(part.null_value), part.hardest] if part.n_answered else ["–", "–", "–"]


def _faithfulness(write: _Writer, report: StudyReport) -> None:
    if report.faithfulness is None:
        return
    joint = report.faithfulness.joint if len(report.dictionaries) > 1 else None
    found = [*report.faithfulness.single, *([joint] if joint else [])]
    measured = [row for row in found if not math.isnan(row.ce_clean.value)]
    if not measured:
        return
    rows: list[_Row] = []
    for row in measured:
        cells = [
            short(row.ce_clean.value),
            short(row.ce_patched.value),
            signed(row.delta_ce.value),
            interval(row.delta_ce.interval, sign=True),
            percent(row.recovered_mean.value, 3),
        ]
        rows.append(("all sites jointly" if row.joint else row.site, cells, "bold" if row.joint else ""))
    title = "Faithfulness (nats/token; recovered: over mean ablation)"
    write.table(title, _plain("clean", "patched", "ΔCE", "95% interval", "recovered"), rows)
    for note in report.faithfulness.notes:
        write.line(note)


def _controls(write: _Writer, report: StudyReport) -> None:
    for control in report.summary.controls:
        if control.note:
            write.line()
            write.line(f"{control.name}: {control.note}.")
    frozen = {control.name for control in report.summary.controls if control.targets == "dictionary"}
    # Patching the only site is patching every site: what is joint would be the same figures once more.
    several = len(report.dictionaries) > 1
    for metric in _shown_metrics(compared=True):
        rows = [c for c in report.comparisons if c.trained.name == metric.name and c.controls and _shown(c)]
        rows = [c for c in rows if several or c.site != "joint"]
        if all(math.isnan(c.trained.value) for c in rows):
            continue
        better = f", {rows[0].trained.better} is better" if rows[0].trained.better != "neither" else ""
        over = " over mean-ablation" if rows[0].trained.scope.get("ablation") else ""
        lines: list[_Row] = []
        for row in rows:
            lines.append(
                ("all sites jointly" if row.site == "joint" else row.site, [value_of(row.trained), "", ""], "")
            )
            for value in row.controls:
                gap = [gap_of(value.gap, row.trained), gap_bounds(value.gap_interval, row.trained)]
                preposition = "with" if value.control in frozen else "on"
                lines.append((f"  {preposition} {value.control}", [value_of(value.record), *gap], ""))
        write.table(f"{metric.title}{over}{better}", _plain("value", "gap", "95% interval"), lines)
    _of_all(write, report)


def _of_all(write: _Writer, report: StudyReport) -> None:
    """What of the comparisons with the controls stands above."""
    every = {(c.trained.name, str(c.trained.scope.get("ablation", ""))) for c in report.comparisons if c.controls}
    shown = {(c.trained.name, str(c.trained.scope.get("ablation", ""))) for c in report.comparisons if _shown(c)}
    n = sum(METRICS[name].in_terminal for name, _ in every & shown if name in METRICS)
    if n < len(every):
        write.line(f"{n} of {len(every)} metrics that are compared with the controls are shown; the report has all.")


def _shown(comparison: Comparison) -> bool:
    return comparison.trained.scope.get("ablation") in (None, "mean")


def _stability(write: _Writer, report: StudyReport) -> None:
    if len(report.summary.seeds) < 2:
        write.line()
        write.line("Stability over seeds: not measured, the study has one seed.")
        return
    for metric in _shown_metrics(compared=False):
        rows: list[_Row] = []
        for dictionary in report.dictionaries:
            for record in dictionary.metrics:
                if record.name == metric.name:
                    chance = record.details.get("chance")
                    known = "–"
                    if isinstance(chance, int | float):
                        known = value_of(record.model_copy(update={"value": float(chance)}))
                    rows.append((dictionary.name, [value_of(record), bounds_of(record), known], ""))
        if rows:
            write.table(metric.title, _plain("value", "95% interval", "by chance"), rows)


def _learning(write: _Writer, report: StudyReport) -> None:
    """What recurred at each moment of the training, and what the last doubling changed."""
    known = [dictionary for dictionary in report.dictionaries if dictionary.learning]
    for name in (learning.SHARE, learning.MATCH) if known else ():
        heads = [f"{short(float(record.scope['tokens']))}\ntokens" for record in learning.moments(known[0], name)]
        rows: list[_Row] = []
        for dictionary in known:
            change = learning.change(dictionary, name)
            cells = [value_of(record) for record in learning.moments(dictionary, name)]
            cells += [gap_of(change.value, change), gap_bounds(change.interval, change), change.details["outcome"]]
            rows.append((dictionary.name, cells, ""))
        title = f"{metric_name(name)}, before the learning rate falls"
        write.table(title, _plain(*heads, "last\ndoubling", "95% interval", ""), rows)


def _shown_metrics(*, compared: bool) -> Iterator[Metric]:
    return (metric for metric in METRICS.values() if metric.in_terminal and metric.compared == compared)


def _plain(*columns: str) -> list[tuple[str, str]]:
    return [(column, "") for column in columns]
