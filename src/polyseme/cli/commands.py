"""What each command does. Flags come from the config types: the docstring under a field is its help text."""

import os
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from polyseme.core.errors import InputError

if TYPE_CHECKING:
    from polyseme.store import Run

C = TypeVar("C")


def study(args: list[str]) -> int:
    """`polyseme study FILE [flags]`."""
    _announce("polyseme: starting")
    from polyseme.controls.study import ControlledStudyConfig
    from polyseme.studies.files import load_config

    path, rest = positional(args, "FILE", "the study file, TOML", "polyseme study study.toml")
    default = ControlledStudyConfig() if path is None else load_config(Path(path), ControlledStudyConfig)
    return _run_study("polyseme study FILE", default, rest)


def demo(args: list[str]) -> int:
    """`polyseme demo [flags]`: the study in `demo.toml`, offline."""
    _announce("polyseme: starting the demo (a few minutes on two cores; nothing is downloaded)")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from polyseme.controls.study import ControlledStudyConfig
    from polyseme.studies.files import load_config

    with as_file(files("polyseme.cli").joinpath("demo.toml")) as path:
        default = load_config(path, ControlledStudyConfig)
    return _run_study("polyseme demo", default, args)


def runs(args: list[str]) -> int:
    """`polyseme runs [--root DIR]`."""
    from rich.table import Table

    from polyseme.cli.console import make_console
    from polyseme.store import list_runs

    root = _parse(_Root, args, "polyseme runs", "List the runs of a folder.").root
    found = list_runs(root)
    if not found:
        raise InputError(f"there is no run in {root}", where=str(root), fix="run `polyseme demo`, or give --root")
    table = Table(box=None, pad_edge=False)
    for column in ("run", "status", "started", "supported", "report"):
        table.add_column(column, overflow="fold")
    for run in found:
        table.add_row(*_row(run))
    make_console().print(table)
    return 0


def show(args: list[str]) -> int:
    """`polyseme show RUN [--root DIR]`."""
    from polyseme.cli.console import make_console
    from polyseme.cli.summary import print_summary
    from polyseme.interpret.report import StudyReport

    meaning = "a run's id or the start of it, a run's folder wherever it lies, or a report.json"
    name, rest = positional(args, "RUN", meaning, "polyseme show demo")
    root = _parse(_Root, rest, "polyseme show RUN", "Print a run's summary.").root
    if name is None:
        return 0
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
    source, rest = positional(args, "NETWORK", "pylm, a folder, or a hub name", "polyseme sites pylm")
    options = _parse(_SitesOptions, rest, "polyseme sites NETWORK", "List the sites of a network.")
    if source is None:
        return 0
    from polyseme.networks import load_network

    network = load_network(source, download=options.download)
    for name in network.site_names(modules=options.modules):
        print(f"{name:<40} {network.width(name):>6}" if not options.modules else name)
    return 0


def calibrate(args: list[str]) -> int:
    """`polyseme calibrate [--out FILE] [flags]`."""
    import tyro

    from polyseme.controls.calibration import CalibrationConfig
    from polyseme.controls.calibration import calibrate as run_calibration
    from polyseme.store import check_writable, save_json

    default = CalibrationConfig()

    def main(
        config: Annotated[CalibrationConfig, tyro.conf.arg(name="")] = default,
        out: Path = Path("calibration.json"),
    ) -> int:
        """Measure how often the verdicts are wrong, on networks whose features are planted.

        Args:
            config: what is planted and how it is judged.
            out: where the figures go.
        """
        check_writable(out)
        report = run_calibration(config, reporter=make_reporter())
        save_json(out, report.model_dump(mode="json"))
        print(report.summary())
        print(f"written to {out}")
        return 0

    return tyro.cli(main, args=args, prog="polyseme calibrate", config=(tyro.conf.OmitArgPrefixes,))


class _Root:
    """Where runs are kept."""

    def __init__(self, root: Path = Path("runs")):
        """
        Args:
            root: folder of runs.
        """
        self.root = root


class _SitesOptions:
    """What is listed."""

    def __init__(self, modules: bool = False, download: bool = False):
        """
        Args:
            modules: list every module path instead of the named sites.
            download: fetch a hub name that is not on this machine.
        """
        self.modules, self.download = modules, download


def _run_study(prog: str, default: Any, args: list[str]) -> int:
    import tyro
    from pydantic import ValidationError

    from polyseme.cli.console import make_console
    from polyseme.cli.summary import print_summary
    from polyseme.controls.study import ControlledStudyConfig
    from polyseme.controls.study import study as run_study
    from polyseme.core.validation import input_error

    def chosen(
        config: Annotated[ControlledStudyConfig, tyro.conf.arg(name="")] = default,
        root: Path = Path("runs"),
        resume: bool = True,
    ) -> tuple[ControlledStudyConfig, Path, bool]:
        """Run a study: a network and a corpus to latents with evidence beside each of them.

        Args:
            config: the study; flags override its file.
            root: folder of runs and of the artifacts they share.
            resume: take finished stages as they are; --no-resume makes every one anew.
        """
        return config, root, resume

    try:
        config, root, resume = tyro.cli(chosen, args=args, prog=prog, config=(tyro.conf.AvoidSubcommands,))
    except ValidationError as error:
        raise input_error(error, {}, ControlledStudyConfig, where="the flags") from error
    result = run_study(config, root=root, resume=resume, reporter=make_reporter())
    print_summary(result.data, report_path=result.report, console=make_console())
    return 0


def _parse(options: type[C], args: Sequence[str], prog: str, description: str) -> C:
    import tyro

    return tyro.cli(options, args=args, prog=prog, description=description)


def positional(args: list[str], name: str, meaning: str, example: str) -> tuple[str | None, list[str]]:
    """The first argument and the rest; None when only help is asked for."""
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    if any(a in {"-h", "--help"} for a in args):
        print(f"{name}: {meaning}, the first argument: {example}\n")
        return None, args
    raise InputError(f"{name} is missing: {meaning}", where="the first argument", fix=f"for example: {example}")


def _row(run: "Run") -> list[str]:
    """A run's line: what is damaged is said to be, and hides nothing else."""
    from datetime import datetime

    from polyseme.interpret.report import StudyReport

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
    from polyseme.cli import progress

    return progress.make_reporter()
