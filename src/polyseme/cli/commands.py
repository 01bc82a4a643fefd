"""What each command does. Flags come from the config types: the docstring under a field is its help text."""

import os
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from polyseme.core.config import Config, FilePath
from polyseme.core.errors import InputError

if TYPE_CHECKING:
    from polyseme.cli.flags import Group
    from polyseme.store import Run


class RootOptions(Config):
    """Where runs are kept."""

    root: FilePath = Path("runs")
    """Folder of runs and of the artifacts they share."""


class StudyOptions(RootOptions):
    """Where the run goes, and what it may build on."""

    resume: bool = True
    """Take finished stages as they are; --no-resume makes every one again."""
    jobs: int = Field(default=1, ge=1, le=256)
    """Processes that run the study and its controls side by side, with the machine's threads divided among them."""
    until: str = Field(default="", max_length=512)
    """Stop after this stage: `splice`, or `splice (trained)` for one alone; `polyseme plan` lists them."""


class SitesOptions(Config):
    """What is listed."""

    modules: bool = False
    """List every module path instead of the named sites."""
    download: bool = False
    """Fetch a hub name that is not on this machine."""


class CalibrateOptions(Config):
    """Where the figures go."""

    out: FilePath = Path("calibration.json")
    """A file, JSON."""


def study(args: list[str]) -> int:
    """`polyseme study [FILE] [flags]`: a study file, flags alone, or flags over a file."""
    from polyseme.cli.flags import wants_help

    if not wants_help(args):
        if not args:
            fix = "for example: polyseme study study.toml, or polyseme study --network.source pylm --seeds 0 1"
            raise InputError("FILE is missing, and so are flags", where="polyseme study", fix=fix)
        _announce("polyseme: starting")
    source, rest, given = read_file(args)
    about = (
        "Run a study: a network and a corpus to latents with evidence beside each of them. FILE is a study file in "
        "TOML, or - for one on standard input; flags set the same fields, over what the file says or without any file."
    )
    return _study(rest, given, source, "study", "study [FILE] [--FIELD VALUE …]", about)


def read_file(args: list[str]) -> tuple[str, list[str], dict[str, Any]]:
    """The study file's name ("" without one), the flags after it, and what the file says."""
    from polyseme.cli.flags import wants_help
    from polyseme.studies.toml import read_toml

    if not args or (args[0] != "-" and args[0].startswith("-")):
        return "", args, {}
    return args[0], args[1:], {} if wants_help(args[1:]) else read_toml(Path(args[0]))


def demo(args: list[str]) -> int:
    """`polyseme demo [flags]`: the study in `demo.toml`, offline."""
    from polyseme.cli.flags import wants_help

    if not wants_help(args):
        _announce("polyseme: starting the demo (a few minutes on two cores; nothing is downloaded)")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from polyseme.studies.toml import read_toml

    about = "Run the study that comes with the package, offline; flags set the same fields as those of a study."
    with as_file(files("polyseme.cli").joinpath("demo.toml")) as path:
        return _study(args, read_toml(path), str(path), "demo", "demo [--FIELD VALUE …]", about)


def _study(args: list[str], given: dict[str, Any], source: str, command: str, usage: str, about: str) -> int:
    from polyseme.cli.flags import Group
    from polyseme.report.schema import StudyReport
    from polyseme.report.terminal import print_summary
    from polyseme.report.write import study as run_study
    from polyseme.screen.console import make_console
    from polyseme.studies.config import StudyConfig
    from polyseme.studies.run import run_until

    groups = [Group(StudyOptions), Group(StudyConfig, given=given, source=source, title="study")]
    options, config = parsed(args, groups, command, usage, about)
    if options.until:
        if options.jobs > 1:
            fix = "leave one of the two out; `polyseme stage ID` runs stages in processes of their own"
            raise InputError("--until runs its stages in one process", where="--until and --jobs", fix=fix)
        made = run_until(config, options.until, root=options.root, resume=options.resume, reporter=make_reporter())
        for artifact in made:
            make_console().print(f"{artifact.stage}: {artifact.path}", soft_wrap=True)
        return 0
    result = run_study(config, root=options.root, resume=options.resume, jobs=options.jobs, reporter=make_reporter())
    report = StudyReport.load(result.run.artifacts / "report.json")
    print_summary(report, report_path=result.report, console=make_console())
    return 0


def runs(args: list[str]) -> int:
    """`polyseme runs [--root DIR]`."""
    from rich.table import Table

    from polyseme.screen.console import make_console
    from polyseme.store import list_runs

    root = _root(args, "runs", "runs [--root PATH]", "List the runs of a folder.")
    found = list_runs(root)
    if not found:
        raise InputError(f"there is no run in {root}", where=str(root), fix="run `polyseme demo`, or give --root")
    rows, console = [_row(run) for run in found], make_console()
    table = Table(box=None, pad_edge=False)
    # An id is copied: it is broken only where it would leave the other columns no room.
    longest = min(max(len(row[0]) for row in rows), console.width // 2)
    for column in ("run", "status", "started", "supported", "report"):
        table.add_column(column, overflow="fold", min_width=longest if column == "run" else None)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return 0


def show(args: list[str]) -> int:
    """`polyseme show RUN [--root DIR]`."""
    from polyseme.report.schema import StudyReport
    from polyseme.report.terminal import print_summary
    from polyseme.screen.console import make_console

    meaning = "a run's id or the start of it, a run's folder wherever it lies, or a report.json"
    name, rest = positional(args, "RUN", meaning, "polyseme show demo")
    root = _root(rest, "show", "show RUN [--root PATH]", "Print a run's summary, and where its report is.")
    path, run = _report_of(root, name)
    if run is not None and not os.path.lexists(path):
        raise InputError(
            f"run {run.id} has no report yet: it is {run.record.status}",
            where=str(run.path),
            fix="run the same command again: it is resumed",
        )
    console = make_console()
    page = path.with_name("report.html")
    print_summary(StudyReport.load(path), report_path=page if page.is_file() else None, console=console)
    changed = run.changed_files() if run is not None else []
    if changed:
        console.print(f"Changed or missing since the run ended: {', '.join(changed)}. Run the study again to restore.")
    return 0


def _report_of(root: Path, name: str) -> "tuple[Path, Run | None]":
    """The report.json that is meant, and its run: by id in `root`, else by path."""
    from polyseme.store import find_run, open_run

    path = Path(name)
    try:
        run = None if os.sep in name else find_run(root, name)
    except InputError:
        if not os.path.lexists(path):
            raise
        run = None
    if run is None:
        if path.is_dir() and not (path / "report.json").is_file():
            run = open_run(path)
        elif not os.path.lexists(path):
            raise InputError("there is no such file or folder", where=name, fix="give a run's folder or a report.json")
        else:
            return (path / "report.json" if path.is_dir() else path), None
    return run.artifacts / "report.json", run


def sites(args: list[str]) -> int:
    """`polyseme sites NETWORK [--modules] [--download]`."""
    from polyseme.cli.flags import Group

    source, rest = positional(args, "NETWORK", "pylm, a folder, or a hub name", "polyseme sites pylm")
    about = "List the sites of a network (pylm, a folder, or a hub name) by the names a study takes."
    (options,) = parsed(rest, [Group(SitesOptions)], "sites", "sites NETWORK [--modules] [--download]", about)
    from polyseme.networks import load_network

    network = load_network(source, download=options.download)
    names = network.site_names(modules=options.modules)
    if options.modules:
        for name in names:
            print(name)
        return 0
    if names:
        found = network.survey(names)
        broken = [name for name in names if not found[network.site(name)].finite]
        if broken:
            from polyseme.networks.survey import NOT_FINITE_FIX

            what = (
                f"the vectors of {len(broken)} of the network's {len(names)} sites are not finite, {broken[0]} for one"
            )
            raise InputError(what, where=source, fix=NOT_FINITE_FIX)
        widths = {name: found[network.site(name)].width(network.site(name)) for name in names}
    else:
        kind = type(network.module).__name__
        print(f"{kind} has no short names; these of its modules give one vector a token:", file=sys.stderr)
        widths = network.module_widths()
    for name, width in widths.items():
        print(f"{name:<40} {'–' if width is None else width:>6}")
    return 0


def calibrate(args: list[str]) -> int:
    """`polyseme calibrate [--out FILE] [flags]`."""
    from polyseme.cli.flags import Group
    from polyseme.store import check_writable, save_json
    from polyseme.trials.verdicts import CalibrationConfig
    from polyseme.trials.verdicts import calibrate as run_calibration

    about = "Measure how often the verdicts are wrong, on networks whose features are planted."
    groups = [Group(CalibrateOptions), Group(CalibrationConfig, title="calibration")]
    options, config = parsed(args, groups, "calibrate", "calibrate [--FIELD VALUE …]", about)
    check_writable(options.out)
    report = run_calibration(config, reporter=make_reporter())
    save_json(options.out, report.model_dump(mode="json"))
    print(report.summary())
    print(f"written to {options.out}")
    return 0


def parsed(args: list[str], groups: "Sequence[Group]", command: str, usage: str, about: str) -> list[Any]:
    """Flags into the groups' configs.

    Raises:
        SystemExit: help was asked for, and printed.
    """
    from polyseme.cli.flags import parse, wants_help
    from polyseme.cli.help import show_help

    if wants_help(args):
        show_help(args, groups, f"polyseme {usage}", about)
        raise SystemExit(0)
    return parse(args, groups, f"polyseme {command}")


def positional(args: list[str], name: str, meaning: str, example: str) -> tuple[str, list[str]]:
    """The first argument and the rest; "" when it is missing and only help is asked for."""
    from polyseme.cli.flags import wants_help

    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    if wants_help(args):
        return "", args
    raise InputError(f"{name} is missing: {meaning}", where="the first argument", fix=f"for example: {example}")


def _root(args: list[str], command: str, usage: str, about: str) -> Path:
    """The folder of runs that the flags name."""
    from polyseme.cli.flags import Group

    (options,) = parsed(args, [Group(RootOptions)], command, usage, about)
    return options.root


def _row(run: "Run") -> list[str]:
    """A run's line: what is damaged is said to be, and hides nothing else."""
    from datetime import datetime

    from polyseme.report.schema import StudyReport

    status, started, counts = "damaged", "–", "–"
    name = run.path.name
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
            counts = f"{found.verdict_counts['supported']:,} of {found.n_judged:,} judged"
            counts += f", {left:,} not" if (left := found.n_latents - found.n_judged) else ""
        except InputError:
            counts = "damaged"
    return [name, status, started, counts, str(run.report) if run.report.is_file() else "–"]


def _announce(text: str) -> None:
    """Say something before the imports that take seconds."""
    print(text, file=sys.stderr, flush=True)


def make_reporter() -> Any:
    """What tells of the progress, on standard error."""
    from polyseme.screen import progress

    return progress.make_reporter()
