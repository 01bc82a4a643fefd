"""`polyseme zoo`: networks with known answers, trained, checked and drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_core import to_jsonable_python
from rich.table import Table

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.cli.runs import RootOptions
from polyseme.core.config import Config, FilePath, Name
from polyseme.core.errors import InputError
from polyseme.screen.console import make_console
from polyseme.screen.progress import make_reporter
from polyseme.store import atomic_path, check_writable, save_json, save_text
from polyseme.zoo import TOYS, running

_SUFFIXES = (".svg", ".png", ".pdf")


class TrainOptions(Config):
    """Where networks go."""

    out: FilePath = Path("runs/zoo")
    """A folder; each network gets one in it."""


class CheckOptions(RootOptions):
    """Which checks to run, and where their results go."""

    all: bool = False
    """Check every toy, by its fast experiments unless --cost says otherwise."""
    only: tuple[Name, ...] = Field(default=(), max_length=100)
    """Experiments to run, by name; all by default."""
    cost: tuple[Literal["fast", "slow", "long"], ...] = Field(default=(), max_length=3)
    """Costs to run: fast (under a minute on two cores), slow (under ten minutes), long; all by default."""
    resume: bool = True
    """Reuse results of the same settings and version; --no-resume measures them again."""
    table: FilePath | None = None
    """A file that the results are also written to, as Markdown."""


class FigureOptions(Config):
    """Which figure, and where it goes."""

    which: Name | None = None
    """A figure by name; the toy's first by default."""
    out: FilePath | None = None
    """A file ending in .svg, .png or .pdf; NAME-FIGURE.svg in the current folder by default."""


class TrialOptions(RootOptions):
    """Where the result of a trial goes."""

    out: FilePath | None = None
    """A folder for its numbers, its table and its figure; runs/zoo/TRIAL by default."""


def list_toys(line: Line) -> int:
    """Print every toy's experiments."""
    line.configs()
    table = Table(box=None, pad_edge=False)
    for column in ("toy", "experiment", "cost"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it shows", overflow="fold")
    for name, toy in TOYS.items():
        for i, experiment in enumerate(toy.experiments):
            table.add_row("" if i else name, experiment.name, experiment.cost, experiment.about)
    make_console().print(table)
    return 0


def train(line: Line) -> int:
    """Train a toy's networks, each into a folder."""
    options, config = line.configs(Group(TrainOptions), *_toy(line))
    folder = options.out / f"{line.first}-{config.fingerprint()[:8]}"
    check_writable(folder / "0" / "toy.json")
    trained = config.train(make_reporter())
    for i, toy in enumerate(trained):
        (folder / str(i)).mkdir(parents=True, exist_ok=True)
        running.save_toy(folder / str(i), line.first, config, toy)
    print(f"{len(trained)} networks in {folder}")
    if failed := sum(not toy.trained for toy in trained):
        print(f"{failed} of them did not train: their loss is above its known floor")
    return 0


def check(line: Line) -> int:
    """Run experiments, and print what they measured beside what is known; the status is 1 unless all of them pass."""
    options, *of_toy = line.configs(Group(CheckOptions), *_toy(line))
    if options.all == bool(line.first):
        what = "NAME and --all exclude each other" if line.first else "NAME is missing, and so is --all"
        raise InputError(what, where="polyseme zoo check", fix="name one toy, or give --all for every toy")
    only, cost = options.only, options.cost
    if options.all:
        cost = cost or ("fast",)
        jobs = [
            (name, toy.config(), experiment)
            for name, toy in TOYS.items()
            for experiment in toy.experiments
            if (experiment.name in only if only else experiment.cost in cost)
        ]
        if not jobs:
            raise InputError("no toy has such an experiment", where="--only", fix="see polyseme zoo list")
    else:
        jobs = [(line.first, of_toy[0], experiment) for experiment in running.chosen(line.first, only, cost)]
    if options.table is not None:
        check_writable(options.table)
    reporter = make_reporter()
    results: list[running.Result] = []
    for i, (name, config, experiment) in enumerate(jobs):
        reporter.message(f"[{i + 1}/{len(jobs)}] {name}: {experiment.about}")
        results.append(
            running.run_experiment(
                name, config, experiment, root=options.root, resume=options.resume, reporter=reporter
            )
        )
        _print(results[-1])
    if options.table is not None:
        save_text(options.table, running.markdown(results))
    outcomes = [check.outcome for result in results for check in result.checks]
    passed, failed, missing = (outcomes.count(outcome) for outcome in ("pass", "fail", "not_measured"))
    print(f"{passed} passed, {failed} failed, {missing} not measured")
    return 0 if passed == len(outcomes) else 1


def figures(line: Line) -> int:
    """Draw one of a toy's figures."""
    options, *of_toy = line.configs(Group(FigureOptions), *_toy(line))
    drawn = running.toy_named(line.first).figures
    if not drawn:
        raise InputError(f"toy {line.first!r} has no figure", fix="see polyseme zoo list")
    which = options.which or next(iter(drawn))
    if which not in drawn:
        what = f"toy {line.first!r} has no figure {which!r}"
        raise InputError(what, where="--which", fix=f"it has {', '.join(drawn)}")
    out = options.out or Path(f"{line.first}-{which}.svg")
    if out.suffix not in _SUFFIXES:
        raise InputError(f"cannot draw a {out.suffix or 'nameless'} file", where=str(out), fix=", ".join(_SUFFIXES))
    check_writable(out)
    _save_figure(drawn[which](of_toy[0], make_reporter()), out)
    return 0


def recovery(line: Line) -> int:
    """Measure every architecture's recovery of planted features."""
    from polyseme.zoo.planted_sparse.figures import recovery_figure
    from polyseme.zoo.planted_sparse.sweep import RecoveryReport, RecoverySweep, recovery_sweep

    return _trial(line, RecoverySweep, recovery_sweep, RecoveryReport.markdown, recovery_figure)


def dose(line: Line) -> int:
    """Diagnose networks over what makes each cause."""
    from polyseme.trials.dose import DoseConfig, as_markdown, dose_figure, dose_response

    return _trial(line, DoseConfig, dose_response, as_markdown, dose_figure)


def confusion(line: Line) -> int:
    """Diagnose networks whose cause is known; what is finished is written after every row."""
    from polyseme.trials import diagnosis

    folder, root, config = _of_trial(line, diagnosis.ConfusionConfig)
    stem, reporter = _checked(folder / config.split, "json", "md"), make_reporter()
    rows: list[diagnosis.Row] = []
    for row in diagnosis.confusion(config, reporter, root=root):
        rows.append(row)
        reporter.message(f"{row.name}: {', '.join(f'{answer} {n}' for answer, n in row.answers.most_common())}")
        _write(stem, rows, diagnosis.as_markdown(rows))
    print(diagnosis.as_markdown(rows))
    return 0


def _trial(
    line: Line,
    kind: type[Config],
    run: Callable[..., Any],
    markdown: Callable[[Any], str],
    figure: Callable[[Any], Any],
) -> int:
    """Run a trial; write its numbers, its table and its figure."""
    folder, root, config = _of_trial(line, kind)
    stem = _checked(folder / line.action, "json", "md", "svg")
    found = run(config, make_reporter(), root=root)
    _write(stem, found, markdown(found))
    print(markdown(found))
    _save_figure(figure(found), stem.with_suffix(".svg"))
    return 0


def _of_trial(line: Line, kind: type[Config]) -> tuple[Path, Path, Any]:
    """The folder of a trial's result, the folder of its finished parts, and its config."""
    name = line.action
    options, config = line.configs(Group(TrialOptions), Group(kind, title=name))
    return options.out or Path("runs/zoo") / name, options.root, config


def _toy(line: Line) -> list[Group]:
    """The settings of the toy that is named; none where only the command's own help is asked for."""
    return [Group(running.toy_named(line.first).config, title=line.first)] if line.first else []


def _checked(stem: Path, *suffixes: str) -> Path:
    """The path, where files of these suffixes can be written."""
    for suffix in suffixes:
        check_writable(stem.with_suffix(f".{suffix}"))
    return stem


def _write(stem: Path, found: Any, table: str) -> None:
    save_json(stem.with_suffix(".json"), to_jsonable_python(found))
    save_text(stem.with_suffix(".md"), table)


def _save_figure(figure: Any, out: Path) -> None:
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format=out.suffix.removeprefix("."), bbox_inches="tight", dpi=160)
    print(f"drawn: {out}")


def _print(result: running.Result) -> None:
    signs = {"pass": "✓", "fail": "✗", "not_measured": "–"}
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "reference", "measured", "n"):
        table.add_column(column, overflow="fold")
    for c in result.checks:
        reference = f"{c.reference} ({c.source})"
        table.add_row(signs[c.outcome], c.name, reference, running.measured(c), f"{c.n} {c.n_unit}")
    console = make_console()
    console.print(table)
    for c in result.checks:
        if c.note and c.outcome != "pass":
            console.print(f"  {c.name}: {c.note}")
