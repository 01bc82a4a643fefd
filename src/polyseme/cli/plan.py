"""`polyseme plan` and `polyseme stage`: a study's graph on the terminal, and one of its stages alone."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from polyseme.cli.commands import RootOptions, make_reporter, parsed, read_file
from polyseme.core.errors import InputError

if TYPE_CHECKING:
    from polyseme.studies.plan import Plan
    from polyseme.studies.stage import Stage, Worker


class PlanOptions(RootOptions):
    """What is shown."""

    until: str = Field(default="", max_length=512)
    """Show only this stage (`splice`, or `splice (trained)` for one alone) and what it needs."""
    estimate: bool = True
    """Measure for a few seconds how long the stages will take; --no-estimate does not."""


def plan(args: list[str]) -> int:
    """`polyseme plan FILE [flags]`."""
    from polyseme.cli.flags import Group
    from polyseme.screen.console import make_console
    from polyseme.store import Store
    from polyseme.studies.config import StudyConfig
    from polyseme.studies.plan import Plan
    from polyseme.studies.prepare import look
    from polyseme.studies.rates import Rates
    from polyseme.studies.stage import Worker

    file, rest, given = read_file(args)
    about = (
        "Print the stages of a study: what is done, what is to do, and what that will take. Nothing is trained. "
        "`polyseme stage ID` runs one of them, here or on another machine that sees the same folder."
    )
    groups = [Group(PlanOptions), Group(StudyConfig, given=given, source=file, title="study")]
    options, config = parsed(rest, groups, "plan", "plan [FILE] [--FIELD VALUE …]", about)
    found = Plan.of(config)
    stages = found.until(options.until) if options.until else found.stages
    worker = Worker(config, Store(options.root), make_reporter())
    found.save(worker.store)
    look(found, worker)
    seconds = Rates.measure(worker).of(stages, worker) if options.estimate else {}
    console = make_console()
    console.print(_table(found, stages, worker, seconds))
    console.print(_total(stages, worker, seconds))
    return 0


def stage(args: list[str]) -> int:
    """`polyseme stage ID … [--root DIR]`."""
    from polyseme.cli.flags import Group
    from polyseme.screen.console import make_console
    from polyseme.store import Store
    from polyseme.studies.plan import planned
    from polyseme.studies.stage import Worker

    ids = list(_leading(args))
    about = (
        "Run stages of a study by the ids that `polyseme plan` prints, after what they need: all that a scheduler has "
        "to call. What another process makes is waited for, and what is finished is not made again."
    )
    (options,) = parsed(args[len(ids) :], [Group(RootOptions)], "stage", "stage ID … [--root PATH]", about)
    if not ids:
        raise InputError(
            "which stage?", where="polyseme stage", fix="`polyseme plan FILE` prints the ids of its stages"
        )
    store, reporter, console = Store(options.root), make_reporter(), make_console()
    for found, stages in planned(store, ids).items():
        worker = Worker(found.config, store, reporter)
        for one in filter(worker.is_used, stages):
            console.print(f"{one.shown}: {worker.artifact(one).path}", soft_wrap=True)
    return 0


def _leading(args: Sequence[str]) -> Sequence[str]:
    n = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    return args[:n]


def _table(plan: "Plan", stages: "Sequence[Stage[Any]]", worker: "Worker", seconds: "dict[Stage[Any], float]") -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("id", "stage", "needs", "state"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "state"))
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("disk", justify="right", no_wrap=True)
    place = {stage: i for i, stage in enumerate(stages, start=1)}
    for stage in stages:
        needs = ", ".join(str(place[needed]) for needed in stage.needs())
        state = _state(stage, worker)
        disk = stage.work(worker).disk if state == "to do" else 0.0
        table.add_row(
            plan.id(stage),
            Text(f"{place[stage]} {stage.shown}"),
            needs,
            state,
            _time(seconds.get(stage, math.nan)) if state == "to do" else "",
            f"{disk / 1e6:,.0f} MB" if disk >= 1e6 else "",
        )
    return table


def _state(stage: "Stage[Any]", worker: "Worker") -> str:
    if not worker.is_used(stage):
        return "not needed"
    return "done" if worker.is_done(stage) else "to do"


def _time(seconds: float) -> str:
    from polyseme.core.numbers import duration

    if math.isnan(seconds):
        return "–"
    return "< 1 s" if seconds < 1 else f"≈ {duration(seconds)}"


def _total(stages: "Sequence[Stage[Any]]", worker: "Worker", seconds: "dict[Stage[Any], float]") -> str:
    left = [stage for stage in stages if _state(stage, worker) == "to do"]
    known = [seconds[stage] for stage in left if not math.isnan(seconds.get(stage, math.nan))]
    text = f"{len(left)} of {len(stages)} stages to do"
    if not known:
        return text
    unknown = len(left) - len(known)
    more = f", without {unknown} that are not estimated (–)" if unknown else ""
    return (
        f"{text}, about {_time(sum(known)).removeprefix('≈ ')}{more}; times are estimates from rates measured just now"
    )
