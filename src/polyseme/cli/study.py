"""`polyseme study`, `demo`, `plan` and `stage`: a study, its graph on the terminal, and stages of it alone."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.table import Table
from rich.text import Text

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.cli.runs import RootOptions
from polyseme.core.errors import InputError
from polyseme.core.numbers import duration
from polyseme.report.schema import StudyReport
from polyseme.report.terminal import print_summary
from polyseme.report.write import study as run_study
from polyseme.screen.console import make_console
from polyseme.screen.progress import make_reporter
from polyseme.store import Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.level_prices import LevelPrice, level_prices
from polyseme.studies.plan import Plan, planned
from polyseme.studies.prepare import look
from polyseme.studies.price import price
from polyseme.studies.rates import Rates
from polyseme.studies.run import run_until
from polyseme.studies.stage import Stage, Worker
from polyseme.studies.toml import read_toml


class StudyOptions(RootOptions):
    """Where the run goes, and what it may build on."""

    resume: bool = True
    """Take finished stages as they are; --no-resume makes every one again."""
    jobs: int = Field(default=1, ge=1, le=256)
    """Processes that run the study and all draws of its controls side by side, with the machine's threads divided
    among them."""
    launch: str = Field(default="", max_length=4096)
    """Command that starts each of these processes elsewhere and waits for it, for example "srun -c 4"; without it they
    run on this machine."""
    until: str = Field(default="", max_length=512)
    """Stop after this stage: `splice`, or `splice (trained)` for one alone; `polyseme plan` lists them."""


class PlanOptions(RootOptions):
    """What is shown."""

    until: str = Field(default="", max_length=512)
    """Show only this stage (`splice`, or `splice (trained)` for one alone) and what it needs."""
    estimate: bool = True
    """Measure for a few seconds how long the stages will take; --no-estimate does not."""


def study(line: Line) -> int:
    """Run a study file, flags alone, or flags over a file."""
    return _run(line, _of_file(line))


def demo(line: Line) -> int:
    """Run the study in `demo.toml`, offline."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    path = Path(__file__).with_name("demo.toml")
    return _run(line, Group(StudyConfig, given=read_toml(path), source=str(path), title="study"))


def _of_file(line: Line) -> Group:
    """The flags of a study over what its file says."""
    given = read_toml(Path(line.first)) if line.first and not line.wants_help else {}
    return Group(StudyConfig, given=given, source=line.first, title="study")


def _run(line: Line, group: Group) -> int:
    options, config = line.configs(Group(StudyOptions), group)
    reporter, console = make_reporter(), make_console()
    if options.until:
        if options.jobs > 1 or options.launch:
            fix = "leave one of the two out; `polyseme stage ID` runs stages in processes of their own"
            raise InputError("--until runs its stages in one process", where="--until and --jobs or --launch", fix=fix)
        for made in run_until(config, options.until, root=options.root, resume=options.resume, reporter=reporter):
            console.print(f"{made.stage}: {made.path}", soft_wrap=True)
        return 0
    result = run_study(
        config,
        root=options.root,
        resume=options.resume,
        jobs=options.jobs,
        launch=options.launch,
        reporter=reporter,
    )
    report = StudyReport.load(result.run.artifacts / "report.json")
    print_summary(report, report_path=result.report, console=console)
    return 0


def plan(line: Line) -> int:
    """Print the stages of a study, and keep the plan for `stage`."""
    options, config = line.configs(Group(PlanOptions), _of_file(line))
    found = Plan.of(config)
    stages = found.until(options.until) if options.until else found.stages
    worker = Worker(config, Store(options.root), make_reporter())
    sizes = look(found, worker)
    found.save(worker.store, network=worker.base)
    rates = Rates.measure(worker) if options.estimate else None
    seconds = rates.of(stages, worker) if rates else {}
    to_do = [stage for stage in stages if worker.is_used(stage) and not worker.is_done(stage)]
    console = make_console()
    console.print(_table(found, stages, to_do, worker, seconds, price(config, sizes, config.causal).stages))
    console.print(_total(stages, to_do, seconds))
    if rates and not options.until:
        console.print(_levels(config, level_prices(worker, sizes, rates)))
    return 0


def stage(line: Line) -> int:
    """Run stages by their ids."""
    (options,) = line.configs(Group(RootOptions))
    store, reporter, console = Store(options.root), make_reporter(), make_console()
    for found in planned(store, line.words):
        worker = Worker(found.plan.config, store, reporter, expected=found.network)
        for one in filter(worker.is_used, found.stages):
            console.print(f"{one.shown}: {worker.artifact(one).path}", soft_wrap=True)
    return 0


def _table(
    plan: Plan,
    stages: Sequence[Stage[Any]],
    to_do: Sequence[Stage[Any]],
    worker: Worker,
    seconds: Mapping[Stage[Any], float],
    memory: Mapping[str, float],
) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("id", "stage", "needs", "state"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "state"))
    for column in ("time", "memory", "disk"):
        table.add_column(column, justify="right", no_wrap=True)
    place = {stage: i for i, stage in enumerate(stages, start=1)}
    for stage in stages:
        state, left = "done" if worker.is_used(stage) else "not needed", ("", "", "")
        if stage in to_do:
            time = f"≈ {duration(seconds[stage])}" if seconds else ""
            state, left = "to do", (time, _megabytes(memory[stage.name]), _megabytes(stage.work(worker).disk))
        needs = ", ".join(str(place[needed]) for needed in stage.needs())
        table.add_row(plan.id(stage), Text(f"{place[stage]} {stage.shown}"), needs, state, *left)
    return table


def _levels(config: StudyConfig, prices: Iterable[LevelPrice]) -> Table:
    table = Table(box=None, pad_edge=False, title="\nThe whole study at each level of evidence", title_justify="left")
    for column in ("evidence", "dictionaries a site", "time", "memory", "disk"):
        table.add_column(column, justify="left" if column == "evidence" else "right", no_wrap=True)
    for cost in prices:
        mark = " (this study's)" if cost.level == config.evidence else ""
        sizes = (_megabytes(cost.memory), _megabytes(cost.disk))
        table.add_row(f"{cost.level}{mark}", str(cost.dictionaries), f"≈ {duration(cost.seconds)}", *sizes)
    return table


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else ""


def _total(stages: Sequence[Stage[Any]], to_do: Sequence[Stage[Any]], seconds: Mapping[Stage[Any], float]) -> str:
    text = f"{len(to_do)} of {len(stages)} stages to do"
    if not to_do or not seconds:
        return text
    total = duration(sum(seconds[stage] for stage in to_do))
    return f"{text}, about {total}. Times are estimated from rates measured just now; memory is besides the network's."
