"""`polyseme zoo`: networks with known answers, trained, checked and drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from polyseme.core.config import Config, FilePath, Name
from polyseme.core.errors import InputError, nearest_names

USAGE = """usage: polyseme zoo ACTION [ARGUMENTS]

  list                 the toys, their experiments and what each costs
  train NAME           train a toy's networks and keep them under runs/zoo
  check NAME           compare a toy with what is known of it; --only EXPERIMENT, --cost fast
  check --all          every toy, the fast experiments unless --cost says otherwise; --table FILE writes them down
  figures NAME         draw the paper's figures from our own networks; --which FIGURE, --out FILE
  recovery             every architecture over L0 on planted data: two Pareto fronts
  confusion            how often `polyseme diagnose` is right, wrong or silent, over toys whose cause is known
  dose                 whether its answer follows the density, the angle or the mixing that makes the cause

Every action but list takes the toy's own settings as flags: polyseme zoo check NAME --help."""


_SUFFIXES = (".svg", ".png", ".pdf")


class TrainOptions(Config):
    """Where networks go."""

    out: FilePath = Path("runs/zoo")
    """A folder; each network gets one in it."""


class CheckOptions(Config):
    """Which checks to run, and where their results go."""

    only: tuple[Name, ...] = Field(default=(), max_length=100)
    """Experiments to run, by name; all by default."""
    cost: tuple[Literal["fast", "slow", "long"], ...] = Field(default=(), max_length=3)
    """Costs to run: fast (under a minute on two cores), slow (under ten), long; all by default, fast with --all."""
    root: FilePath = Path("runs")
    """Folder that keeps results; a killed run continues from there."""
    resume: bool = True
    """Reuse results of the same settings and version; --no-resume measures them again."""
    table: FilePath | None = None
    """Write the results there as Markdown, too."""


class FigureOptions(Config):
    """Which figure, and where it goes."""

    which: Name | None = None
    """A figure by name; the toy's first by default."""
    out: FilePath | None = None
    """A file ending in .svg, .png or .pdf; NAME-FIGURE.svg in the working folder by default."""


class TrialOptions(Config):
    """Where the result of a trial goes."""

    out: FilePath | None = None
    """A folder for its numbers, its table and its figure; runs/zoo/TRIAL by default."""
    root: FilePath = Path("runs")
    """Folder that keeps finished parts; a killed run continues from there."""


def zoo(args: list[str]) -> int:
    """`polyseme zoo list | train NAME | check NAME | check --all | figures NAME | recovery | confusion | dose`."""
    actions: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "train": _train,
        "check": _check,
        "figures": _figures,
        "recovery": _recovery,
        "confusion": _confusion,
        "dose": _dose,
    }
    action = args[0] if args else ""
    if action in {"-h", "--help"}:
        print(USAGE)
        return 0
    if action not in actions:
        near = ", ".join(nearest_names(action, list(actions)) or actions)
        what = f"zoo has no action {action!r}" if action else "zoo needs an action"
        raise InputError(what, where="the first argument", fix=f"{near}; see polyseme zoo --help")
    return actions[action](args[1:])


def _list(args: list[str]) -> int:
    from rich.table import Table

    from polyseme.screen.console import make_console
    from polyseme.zoo import TOYS

    if args:
        raise InputError("zoo list takes no arguments", where=args[0])
    table = Table(box=None, pad_edge=False)
    for column in ("toy", "experiment", "cost"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it shows", overflow="fold")
    for name, toy in TOYS.items():
        for i, experiment in enumerate(toy.experiments):
            table.add_row("" if i else name, experiment.name, experiment.cost, experiment.about)
    make_console().print(table)
    return 0


def _train(args: list[str]) -> int:
    from polyseme.cli.commands import make_reporter
    from polyseme.store import check_writable
    from polyseme.zoo.running import save_toy

    name, config, options = _named("train", TrainOptions, args)
    folder = options.out / f"{name}-{config.fingerprint()[:8]}"
    check_writable(folder / "0" / "toy.json")
    trained = config.train(make_reporter())
    for i, toy in enumerate(trained):
        (folder / str(i)).mkdir(parents=True, exist_ok=True)
        save_toy(folder / str(i), name, config, toy)
    failed = sum(not toy.trained for toy in trained)
    print(f"{len(trained)} networks in {folder}")
    if failed:
        print(f"{failed} of them did not train: their loss is above its known floor")
    return 0


def _check(args: list[str]) -> int:
    from polyseme.cli.commands import make_reporter
    from polyseme.store import check_writable, save_text
    from polyseme.zoo import TOYS
    from polyseme.zoo.running import Result, chosen, markdown, run_experiment

    options: CheckOptions
    if "--all" in args:
        options = _parsed(CheckOptions, None, [a for a in args if a != "--all"], "check --all")[0]
        cost = options.cost or ("fast",)
        jobs = [(n, toy.config(), e) for n, toy in TOYS.items() for e in _of_any(chosen, n, options.only, cost)]
        if not jobs:
            raise InputError("no toy has such an experiment", where="--only", fix="see polyseme zoo list")
    else:
        name, config, options = _named("check", CheckOptions, args)
        jobs = [(name, config, e) for e in chosen(name, options.only, options.cost)]
    if options.table is not None:
        check_writable(options.table)
    reporter = make_reporter()
    results: list[Result] = []
    for i, (name, config, experiment) in enumerate(jobs):
        reporter.message(f"[{i + 1}/{len(jobs)}] {name}: {experiment.about}")
        result = run_experiment(name, config, experiment, root=options.root, resume=options.resume, reporter=reporter)
        results.append(result)
        _print(result)
    if options.table is not None:
        save_text(options.table, markdown(results))
    outcomes = [c.outcome for r in results for c in r.checks]
    passed, missing = outcomes.count("pass"), outcomes.count("not_measured")
    failed = outcomes.count("fail")
    print(f"{passed} passed, {failed} failed, {missing} not measured")
    return 0 if passed == len(outcomes) else 1


def _figures(args: list[str]) -> int:
    from polyseme.cli.commands import make_reporter
    from polyseme.zoo.running import toy_named

    name, config, options = _named("figures", FigureOptions, args)
    figures = toy_named(name).figures
    if not figures:
        raise InputError(f"toy {name!r} has no figure", fix="see polyseme zoo list")
    which = options.which or next(iter(figures))
    if which not in figures:
        raise InputError(f"toy {name!r} has no figure {which!r}", where="--which", fix=f"it has {', '.join(figures)}")
    out = options.out or Path(f"{name}-{which}.svg")
    _check_figure(out)
    _save_figure(figures[which](config, make_reporter()), out)
    return 0


def _recovery(args: list[str]) -> int:
    from polyseme.cli.commands import make_reporter
    from polyseme.zoo.planted_sparse.figures import recovery_figure
    from polyseme.zoo.planted_sparse.sweep import RecoverySweep, recovery_sweep

    out, root, config = _trial("recovery", RecoverySweep, args, ("recovery.json", "recovery.md", "recovery.svg"))
    report = recovery_sweep(config, make_reporter(), root=root)
    _write(out / "recovery", report.model_dump(mode="json"), report.markdown())
    print(report.markdown())
    _save_figure(recovery_figure(report), out / "recovery.svg")
    return 0


def _confusion(args: list[str]) -> int:
    from polyseme.cli.commands import make_reporter
    from polyseme.store import check_writable
    from polyseme.trials.diagnosis import ConfusionConfig, Row, as_markdown, confusion

    out, root, config = _trial("confusion", ConfusionConfig, args, ())
    for suffix in ("json", "md"):
        check_writable(out / f"{config.split}.{suffix}")
    rows: list[Row] = []
    reporter = make_reporter()
    for row in confusion(config, reporter, root=root):
        rows.append(row)
        reporter.message(f"{row.name}: {', '.join(f'{answer} {n}' for answer, n in row.answers.most_common())}")
        _write(out / config.split, [r.model_dump(mode="json") for r in rows], as_markdown(rows))
    print(as_markdown(rows))
    return 0


def _dose(args: list[str]) -> int:
    from polyseme.cli.commands import make_reporter
    from polyseme.trials.dose import DoseConfig, as_markdown, dose_figure, dose_response

    out, root, config = _trial("dose", DoseConfig, args, ("dose.json", "dose.md", "dose.svg"))
    curves = dose_response(config, make_reporter(), root=root)
    _write(out / "dose", [curve.model_dump(mode="json") for curve in curves], as_markdown(curves))
    print(as_markdown(curves))
    _save_figure(dose_figure(curves), out / "dose.svg")
    return 0


def _trial(name: str, config: type[Config], args: list[str], files: tuple[str, ...]) -> tuple[Path, Path, Any]:
    """The folder of a trial's result, the folder of its finished parts, and its config."""
    from polyseme.store import check_writable

    options, chosen = _parsed(TrialOptions, config, args, name)
    out = options.out or Path("runs/zoo") / name
    for file in files:
        check_writable(out / file)
    return out, options.root, chosen


def _write(path: Path, numbers: Any, table: str) -> None:
    from polyseme.store import save_json, save_text

    save_json(path.with_suffix(".json"), numbers)
    save_text(path.with_suffix(".md"), table)


def _of_any(chosen: Callable[..., Any], name: str, only: tuple[str, ...], cost: tuple[str, ...]) -> list[Any]:
    """A toy's experiments, where some toy has those named by `only`."""
    return [e for e in chosen(name, (), () if only else cost) if not only or e.name in only]


def _check_figure(out: Path) -> None:
    """Refuse, before anything is trained, a file that no figure can be written to."""
    from polyseme.store import check_writable

    if out.suffix not in _SUFFIXES:
        raise InputError(f"cannot draw a {out.suffix or 'nameless'} file", where=str(out), fix=", ".join(_SUFFIXES))
    check_writable(out)


def _save_figure(figure: Any, out: Path) -> None:
    from polyseme.store import atomic_path

    _check_figure(out)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format=out.suffix.removeprefix("."), bbox_inches="tight", dpi=160)
    print(f"drawn: {out}")


def _print(result: Any) -> None:
    from rich.table import Table

    from polyseme.screen.console import make_console
    from polyseme.zoo.running import measured

    signs = {"pass": "✓", "fail": "✗", "not_measured": "–"}
    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "reference", "measured", "n"):
        table.add_column(column, overflow="fold")
    for c in result.checks:
        reference = f"{c.reference} ({c.source})"
        table.add_row(signs[c.outcome], c.name, reference, measured(c), f"{c.n} {c.n_unit}")
    console = make_console()
    console.print(table)
    for c in result.checks:
        if c.note and c.outcome != "pass":
            console.print(f"  {c.name}: {c.note}")


def _named(action: str, options: type[Config], args: list[str]) -> tuple[str, Any, Any]:
    """The toy's name, its config and the action's options."""
    from polyseme.cli.commands import parsed, positional
    from polyseme.cli.flags import Group
    from polyseme.zoo.running import toy_named

    name, rest = positional(args, "NAME", "a toy of `polyseme zoo list`", f"polyseme zoo {action} superposition")
    kind = toy_named(name).config if name else None
    about = (
        (kind.__doc__ or "") if kind else f"The toy's own settings follow its name: polyseme zoo {action} NAME --help."
    )
    groups = [Group(options), *([Group(kind, title=name)] if kind else [])]
    usage = f"zoo {action} {name or 'NAME'} [--FIELD VALUE …]"
    chosen, config = parsed(rest, groups, f"zoo {action} {name}", usage, " ".join(about.split("\n\n")[0].split()))
    return name, config, chosen


def _parsed(options: type[Config], config: type[Config] | None, args: list[str], action: str) -> list[Any]:
    """Flags into the action's options and, where there is one, its config."""
    from polyseme.cli.commands import parsed
    from polyseme.cli.flags import Group

    groups = [Group(options), *([Group(config, title=action)] if config else [])]
    about = " ".join(((config or options).__doc__ or "").split("\n\n")[0].split())
    return parsed(args, groups, f"zoo {action}", f"zoo {action} [--FIELD VALUE …]", about)
