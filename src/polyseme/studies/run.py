"""The main job: a study, the same study on every control, the evidence and the verdicts."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.validation import check_count, path_of, validate_config
from polyseme.kernels.backend import backend_in_use
from polyseme.networks.entry import is_entry_point
from polyseme.store import Artifact, Run, Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.findings import Findings
from polyseme.studies.launchers.local import check_launch, run_units
from polyseme.studies.plan import Plan
from polyseme.studies.prepare import prepare
from polyseme.studies.result import StudyResult
from polyseme.studies.stage import Worker
from polyseme.studies.toml import load_config


@contextmanager
def running(
    config: StudyConfig | Mapping[str, Any] | str | Path,
    *,
    root: str | Path = "runs",
    resume: bool = True,
    jobs: int = 1,
    launch: str = "",
    reporter: Reporter | None = None,
) -> Generator[StudyResult, None, None]:
    """Run a study with its controls, or resume one that was stopped; what the block does is part of the run.

    Args:
        config: a config, a mapping of its fields, or the path of a TOML file.
        root: folder of runs and of the artifacts they share.
        resume: take finished stages as they are; False computes every one again, in this process alone.
        jobs: processes that run the study and its controls side by side, with the machine's threads divided.
        launch: command line that starts each of these processes elsewhere and waits for it: `srun -c 4`.
        reporter: receives the progress; silent by default.

    Raises:
        InputError: anything wrong with config, network, corpus or disk, before long work where possible.
        Diverged: a training that went wrong.
    """
    check_count(jobs, "jobs")
    check_launch(launch)
    root = path_of(root)
    if (jobs > 1 or launch) and not resume:
        raise InputError(
            "a study that computes every stage again runs in one process, for several find each other's stages",
            where="resume and jobs or launch",
            fix="leave one of the two out, or name an empty folder as the root: nothing is finished there",
        )
    config = as_config(config)
    reporter = reporter or Silent()
    store = Store(root)
    run = Run.open(store.runs, config.name, config.model_dump(mode="json"))
    with run.working(reporter):
        worker = Worker(config, store, reporter, run, fresh=not resume)
        yield StudyResult(run, find(worker, jobs, launch), reporter)


def run_until(config: StudyConfig, stage: str, *, root: Path, resume: bool, reporter: Reporter) -> tuple[Artifact, ...]:
    """The artifacts of the stages of a name, and of no stage that these do not need.

    Raises:
        InputError: as for `running`, and where the study has no such stage.
    """
    plan = Plan.of(config)
    ends = plan.until(stage)
    worker = Worker(config, Store(root), reporter, fresh=not resume)
    prepare(plan, worker)
    return tuple(worker.artifact(one) for one in ends if stage in (one.name, one.shown) and worker.is_used(one))


def as_config(config: StudyConfig | Mapping[str, Any] | str | Path) -> StudyConfig:
    """The config that a path, a mapping or a config means."""
    if isinstance(config, StudyConfig):
        config = config.model_dump()  # what `model_copy` changed was not validated
    if isinstance(config, str | Path):
        return load_config(Path(config), StudyConfig)
    return validate_config(config, StudyConfig, where="the study's config")


def find(worker: Worker, jobs: int = 1, launch: str = "") -> Findings:
    """Every stage of a study, found or made, by `jobs` processes side by side, and the verdicts."""
    findings = Findings(Plan.of(worker.config), worker)
    plan = findings.plan
    prepare(plan, worker)
    if worker.run is not None:
        worker.run.record_backend(backend_in_use(worker.network.device))
    if jobs > 1 or launch:
        if is_entry_point(worker.config.network.source):  # every process loads it
            worker.check_same(worker.load_network(), worker.base)
        plan.save(worker.store, network=worker.base)
        run_units(plan, worker.store.root, jobs, launch, worker.reporter)
    for stage in filter(worker.is_used, plan.stages):
        worker.of(stage)
        for null in plan.nulls:
            if stage is null.stages[-1]:
                null.role.subject(worker).forget()
                worker.let_go(*null.stages)
    _ = findings.shares, findings.verdicts
    return findings
