"""The main job: a study, the same study on every control, the evidence and the verdicts."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed
from polyseme.core.validation import validate_config
from polyseme.evaluation.token_share import TokenShare, token_share
from polyseme.store import Run, Store
from polyseme.studies.check import check_network, tell_predictions
from polyseme.studies.config import StudyConfig
from polyseme.studies.findings import Findings, Measured, heldout_documents, shortfalls_of
from polyseme.studies.measured import Readings
from polyseme.studies.plan import Measures, Plan
from polyseme.studies.price import Sizes, check_price
from polyseme.studies.result import StudyResult
from polyseme.studies.sites import check_sites
from polyseme.studies.stage import Worker
from polyseme.studies.stages.tokens import Tokens
from polyseme.studies.toml import load_config
from polyseme.verdicts.judge import SiteVerdicts, judge


@contextmanager
def running(
    config: StudyConfig | Mapping[str, Any] | str | Path,
    *,
    root: str | Path = "runs",
    resume: bool = True,
    reporter: Reporter | None = None,
) -> Generator[StudyResult, None, None]:
    """Run a study with its controls, or resume one that was stopped; what the block does is part of the run.

    Args:
        config: a config, a mapping of its fields, or the path of a TOML file.
        root: folder of runs and of the artifacts they share.
        resume: take finished stages as they are; False computes every one again.
        reporter: receives the progress; silent by default.

    Raises:
        InputError: anything wrong with config, network, corpus or disk, before long work where possible.
        Diverged: a training that went wrong.
    """
    config = as_config(config)
    reporter = reporter or Silent()
    store = Store(Path(root))
    run = Run.open(store.runs, config.name, config.model_dump(mode="json"))
    with run.working(reporter):
        worker = Worker(config, store, reporter, run, fresh=not resume)
        yield StudyResult(run, find(worker), tuple(worker.records), reporter)


def as_config(config: StudyConfig | Mapping[str, Any] | str | Path) -> StudyConfig:
    """The config that a path, a mapping or a config means."""
    if isinstance(config, StudyConfig):
        config = config.model_dump()  # what `model_copy` changed was not validated
    if isinstance(config, str | Path):
        return load_config(Path(config), StudyConfig)
    return validate_config(config, StudyConfig, where="the study's config")


def find(worker: Worker) -> Findings:
    """Every stage of a study, found or made, and what they say together."""
    config, plan = worker.config, Plan.of(worker.config)
    if worker.recorded is None:
        prepare(plan, worker)
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


def prepare(plan: Plan, worker: Worker) -> None:
    """Refuse what cannot work, and say what keeps the study from saying anything, before anything is trained."""
    config, reporter, network = plan.config, worker.reporter, worker.network
    sites, bindings = worker.sites, worker.bindings
    _check_controls(config)
    looking = reporter.task("look at the network", 4, "checks")
    check_network(config, network, reporter)
    looking.update(1)
    context = worker.context
    looking.update(2)
    check_sites(config, network, sites, bindings, context)
    looking.update(3)
    tell_predictions(network, reporter)  # last, for it takes longest and refuses nothing
    looking.update(4)
    sizes = Sizes.asked(
        config,
        network,
        context,
        n_controls=len(config.controls),
        second_network=any(control.targets == "weights" for control in config.controls),
    )
    check = partial(check_price, config, causal=config.causal, device=network.device, root=worker.store.root)
    if not config.tokens.allow_fewer:  # what is asked for is what there will be
        check(sizes, reporter=reporter)
    tokens = plan.real.role.subject(worker).tokens
    _check_documents(config, tokens)
    for line in shortfalls_of(config, network, tokens):
        reporter.message(line)
    found = sizes.found(
        n_train=tokens.train.n_tokens, n_heldout=tokens.heldout.n_tokens, n_documents=heldout_documents(tokens)
    )
    check(found, reporter=reporter if config.tokens.allow_fewer else Silent())


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


def _check_documents(config: StudyConfig, tokens: Tokens) -> None:
    """Matches are chosen on one half of the held-out documents and measured on the other."""
    if not config.lacks and heldout_documents(tokens) < 2:
        raise InputError(
            "the held-out tokens are of one document, and model-specificity needs at least two",
            where="tokens.heldout",
            fix="raise tokens.heldout, set tokens.heldout_document_tokens to take less of each document, or leave out "
            "the controls",
        )


def _check_controls(config: StudyConfig) -> None:
    """What cannot work is said before anything is trained."""
    if config.null is not None and any(c.targets == config.null.targets for c in config.controls):
        raise InputError(
            f"the study is of a null of {config.null.targets} already, so a control on them is no null of it",
            where="null",
            fix=f"leave out null, or the controls on {config.null.targets}",
        )
