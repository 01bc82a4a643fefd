"""The main job: a study, the same study on every control, the evidence and the verdicts."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed
from polyseme.core.validation import validate_config
from polyseme.evaluation.token_share import TokenShare, token_share
from polyseme.store import Artifact, Run, Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.findings import Findings, Measured
from polyseme.studies.launchers.local import run_units
from polyseme.studies.measured import Readings
from polyseme.studies.plan import Measures, Plan
from polyseme.studies.prepare import prepare
from polyseme.studies.result import StudyResult
from polyseme.studies.stage import Worker
from polyseme.studies.toml import load_config
from polyseme.verdicts.judge import SiteVerdicts, judge


@contextmanager
def running(
    config: StudyConfig | Mapping[str, Any] | str | Path,
    *,
    root: str | Path = "runs",
    resume: bool = True,
    jobs: int = 1,
    reporter: Reporter | None = None,
) -> Generator[StudyResult, None, None]:
    """Run a study with its controls, or resume one that was stopped; what the block does is part of the run.

    Args:
        config: a config, a mapping of its fields, or the path of a TOML file.
        root: folder of runs and of the artifacts they share.
        resume: take finished stages as they are; False computes every one again, in this process alone.
        jobs: processes that run the study and its controls side by side, with the machine's threads divided.
        reporter: receives the progress; silent by default.

    Raises:
        InputError: anything wrong with config, network, corpus or disk, before long work where possible.
        Diverged: a training that went wrong.
    """
    if jobs > 1 and not resume:
        raise InputError(
            "a study that computes every stage again runs in one process, for several find each other's stages",
            where="resume and jobs",
            fix="leave one of the two out, or name an empty folder as the root: nothing is finished there",
        )
    config = as_config(config)
    reporter = reporter or Silent()
    store = Store(Path(root))
    run = Run.open(store.runs, config.name, config.model_dump(mode="json"))
    with run.working(reporter):
        worker = Worker(config, store, reporter, run, fresh=not resume)
        yield StudyResult(run, find(worker, jobs), tuple(worker.records), reporter)


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


def find(worker: Worker, jobs: int = 1) -> Findings:
    """Every stage of a study, found or made, by `jobs` processes side by side, and what they say together."""
    config, plan = worker.config, Plan.of(worker.config)
    if worker.recorded is None:
        prepare(plan, worker)
        if jobs > 1:
            plan.save(worker.store)
            run_units(plan, worker.store.root, jobs, worker.reporter)
    else:
        for stage in filter(worker.is_used, plan.stages):
            worker.of(stage)
    real = _measure(plan.real, worker)
    baselines = worker.of(plan.baselines)
    continuations = worker.of(plan.continuations) if worker.is_used(plan.continuations) else []
    effects = {site: worker.of(stage) for site, stage in plan.causal.items() if worker.is_used(stage)}
    controls: dict[str, Measured] = {}
    for name, measures in plan.controls.items():
        controls[name] = _measure(measures, worker)
        controls[name].subject.forget_network()
    specific = worker.of(plan.specificity) if plan.specificity else {}
    seed = config.seeds[0]
    shares = _token_shares(real.readings, tuple(config.bindings), seed, worker.reporter)
    judging = worker.reporter.task("verdicts", len(config.bindings), "sites")
    verdicts: dict[str, SiteVerdicts] = {}
    for site in config.bindings:
        verdicts[site] = judge(
            real.readings.firings[site, seed],
            effects.get(site),
            specific.get(site),
            config=config.verdicts,
            statistic=config.causal.statistic,
            lacks=config.lacks,
            scope={"site": site, "seed": seed, "study": real.subject.label},
        )
        judging.update(len(verdicts))
    stable = worker.of(plan.stability) if plan.stability else {}
    return Findings(config, real, controls, baselines, stable, continuations, effects, specific, shares, verdicts)


def _measure(measures: Measures, worker: Worker) -> Measured:
    for stage in measures.stages:
        worker.of(stage)
    return Measured(
        measures.role.subject(worker),
        worker.of(measures.dictionaries),
        worker.of(measures.readings),
        worker.of(measures.shared),
        worker.of(measures.splice),
    )


def _token_shares(readings: Readings, sites: tuple[str, ...], seed: int, reporter: Reporter) -> dict[str, TokenShare]:
    """Token share of every latent of one seed's dictionaries."""
    progress = reporter.task("token share", len(sites), "sites")
    found: dict[str, TokenShare] = {}
    for site in sites:
        found[site] = token_share(readings.firings[site, seed], seed=derive_seed(seed, "token", site))
        progress.update(len(found))
    return found
