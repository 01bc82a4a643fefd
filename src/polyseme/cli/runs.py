"""`polyseme runs` and `polyseme show`: the runs of a folder, and one of them."""

import os
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.core.config import Config, FilePath
from polyseme.core.errors import InputError
from polyseme.report.schema import StudyReport
from polyseme.screen.console import make_console
from polyseme.store import Run, find_run, list_runs, open_run


class RootOptions(Config):
    """Where runs are kept."""

    root: FilePath = Path("runs")
    """Folder of runs and of the artifacts that they share; work that was stopped continues from there."""


def runs(line: Line) -> int:
    """List the runs of a folder."""
    (options,) = line.configs(Group(RootOptions))
    found = list_runs(options.root)
    if not found:
        where = str(options.root)
        raise InputError(f"there is no run in {where}", where=where, fix="run `polyseme demo`, or give --root")
    rows, console = [_row(run) for run in found], make_console()
    table = Table(box=None, pad_edge=False)
    # An id is copied: it is broken only where it would leave the other columns no room.
    longest = min(max(len(row[0]) for row in rows), console.width // 2)
    for column in ("run", "status", "started", "network features", "report"):
        table.add_column(column, overflow="fold", min_width=longest if column == "run" else None)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return 0


def _row(run: Run) -> list[str]:
    """A run's line; one that is damaged says so, and hides no other."""
    name, started, counts = run.path.name, "–", "–"
    try:
        record = run.record
        name = record.id if record.id == name else f"{record.id} (in {name})"
        status = record.status
        started = datetime.fromtimestamp(record.started).astimezone().strftime("%Y-%m-%d %H:%M")
    except InputError as error:
        status = f"damaged: {error.what}"
    path = run.artifacts / "report.json"
    if os.path.lexists(path):
        try:
            found = StudyReport.load(path)
            counts = f"{found.verdict_counts['network_feature']:,} of {found.n_decided:,} decided"
            counts += f", {left:,} not" if (left := found.verdict_counts["undecided"]) else ""
        except InputError:
            counts = "damaged"
    return [name, status, started, counts, str(run.report) if run.report.is_file() else "–"]


def show(line: Line) -> int:
    """Print a run's summary."""
    (options,) = line.configs(Group(RootOptions))
    path, run = _report_of(options.root, line.first)
    if run is not None and not os.path.lexists(path):
        raise InputError(
            f"run {run.id} has no report yet: it is {run.record.status}",
            where=str(run.path),
            fix="run the same command again: it is resumed",
        )
    from polyseme.report.terminal import print_summary

    console, page = make_console(), path.with_name("report.html")
    print_summary(StudyReport.load(path), report_path=page if page.is_file() else None, console=console)
    if run is not None and (changed := run.changed_files()):
        console.print(f"Changed or missing since the run ended: {', '.join(changed)}. Run the study again to restore.")
    return 0


def compare(line: Line) -> int:
    """Print two runs side by side, and how far their verdicts agree."""
    (options,) = line.configs(Group(RootOptions))
    if len(line.words) != 2:
        given = f"{len(line.words)} {'is' if len(line.words) == 1 else 'are'} given"
        raise InputError(f"two runs are compared, and {given}", where="polyseme compare", fix="name two")
    from polyseme.studies.comparing import compare as side_by_side

    both, console = side_by_side(*line.words, root=options.root), make_console()
    console.print(Text(repr(both)), soft_wrap=True)
    agreement = both.agreement
    table = Table(box=None, pad_edge=False)
    for name, values in agreement.columns.items():
        table.add_column(name, justify="left" if values.dtype == object else "right")
    for row in zip(*(values.tolist() for values in agreement.columns.values()), strict=True):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    console.print(Text(f"\n{agreement.title}"))
    console.print(table)
    return 0


def _report_of(root: Path, name: str) -> tuple[Path, Run | None]:
    """The report.json that is meant, and its run: by id in `root`, else by path."""
    path, run = Path(name), None
    try:
        run = None if os.sep in name else find_run(root, name)
    except InputError:
        if not os.path.lexists(path):
            raise
    if run is None and path.is_dir() and not (path / "report.json").is_file():
        run = open_run(path)
    if run is not None:
        return run.artifacts / "report.json", run
    if not os.path.lexists(path):
        raise InputError("there is no such file or folder", where=name, fix="give a run's folder or a report.json")
    return path / "report.json" if path.is_dir() else path, None
