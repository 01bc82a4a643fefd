"""The main job: a study, the same study on every control, the evidence and the verdicts."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.validation import validate_config
from polyseme.networks import Network
from polyseme.nulls import Null, on_network
from polyseme.store import Run, Store
from polyseme.studies.check import check_network, study_context, tell_predictions
from polyseme.studies.config import StudyConfig
from polyseme.studies.findings import Findings, Measured, heldout_documents, shortfalls_of
from polyseme.studies.price import Sizes, check_price
from polyseme.studies.result import StudyResult
from polyseme.studies.runner import Bench
from polyseme.studies.sites import check_sites
from polyseme.studies.stages.baselines import baselines_stage
from polyseme.studies.stages.continuations import continuations_stage
from polyseme.studies.stages.dictionaries import dictionaries_stage
from polyseme.studies.stages.evidence import causal_stage, specificity_stage, stability_stage, token_shares
from polyseme.studies.stages.measure import readings_stage, splice_stage
from polyseme.studies.stages.tokens import Tokens, tokens_stage, under
from polyseme.studies.subject import Subject
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
        bench = Bench(store, reporter, run, fresh=not resume)
        findings = find(config, bench)
        yield StudyResult(run, findings, tuple(bench.records), reporter)


def as_config(config: StudyConfig | Mapping[str, Any] | str | Path) -> StudyConfig:
    """The config that a path, a mapping or a config means."""
    if isinstance(config, StudyConfig):
        config = config.model_dump()  # what `model_copy` changed was not validated
    if isinstance(config, str | Path):
        return load_config(Path(config), StudyConfig)
    return validate_config(config, StudyConfig, where="the study's config")


def find(config: StudyConfig, bench: Bench) -> Findings:
    """All stages of a study in order, each found or made."""
    bench.reporter.message(f"study {config.name}: loading {config.network.source}")
    network = on_network(config.null, config.network.build(), bench.reporter)
    sites = {name: network.site(name) for name in config.sites}
    _check_controls(config)
    looking = bench.reporter.task("look at the network", 4, "checks")
    check_network(config, network, bench.reporter)
    looking.update(1)
    context = study_context(config, network)
    looking.update(2)
    check_sites(config, network, sites, context)
    looking.update(3)
    tell_predictions(network, bench.reporter)  # last, for it takes longest and refuses nothing
    looking.update(4)
    sizes = Sizes.asked(
        config,
        network,
        context,
        n_controls=len(config.controls),
        second_network=any(control.targets == "weights" for control in config.controls),
    )
    check = partial(check_price, config, causal=config.causal, device=network.device, root=bench.store.root)
    if not config.tokens.allow_fewer:  # what is asked for is what there will be
        check(sizes, reporter=bench.reporter)
    tokens = under(config.null, tokens_stage(config, network, bench), network)
    _check_documents(config, tokens)
    for line in shortfalls_of(config, network, tokens):
        bench.reporter.message(line)
    found = sizes.found(
        n_train=tokens.train.n_tokens, n_heldout=tokens.heldout.n_tokens, n_documents=heldout_documents(tokens)
    )
    check(found, reporter=bench.reporter if config.tokens.allow_fewer else Silent())
    real = _measure(
        Subject(config, "trained", network, network.hash_weights(bench.reporter), sites, tokens), tokens, bench
    )
    baselines = baselines_stage(real.subject, real.trained.statistics, bench)
    continuations = continuations_stage(real.subject, real.trained, bench)
    effects = causal_stage(real.subject, real.trained, real.readings, config.seeds[0], config.causal, bench)
    controls = {
        control.name: _measure_control(control, config, network, sites, tokens, real, bench)
        for control in config.controls
    }
    specific = specificity_stage(
        real.readings, {name: c.shared for name, c in controls.items()}, config.sites, config.seeds, bench
    )
    shares = token_shares(real.readings, config.sites, config.seeds[0], bench.reporter)
    judging = bench.reporter.task("verdicts", len(config.sites), "sites")
    verdicts: dict[str, SiteVerdicts] = {}
    for site in config.sites:
        firings = real.readings.firings[site, config.seeds[0]]
        scope: dict[str, str | int] = {"site": site, "seed": config.seeds[0], "study": real.subject.label}
        verdicts[site] = judge(
            firings,
            effects.get(site),
            specific.get(site),
            config=config.verdicts,
            statistic=config.causal.statistic,
            lacks=config.lacks,
            scope=scope,
        )
        judging.update(len(verdicts))
    stable = stability_stage(real.readings, real.trained, config.sites, config.seeds, bench)
    return Findings(config, real, controls, baselines, stable, continuations, effects, specific, shares, verdicts)


def _measure(
    subject: Subject, shared: Tokens, bench: Bench, target_l0: Mapping[tuple[str, int], float] | None = None
) -> Measured:
    trained = dictionaries_stage(subject, bench, target_l0=target_l0)
    tokens = subject.tokens
    readings = readings_stage(subject, trained, tokens.heldout, tokens.heldout_key, bench)
    common = readings
    if tokens.heldout_key != shared.heldout_key:
        label = f"{subject.label}, on the study's own held-out tokens"
        common = readings_stage(subject, trained, shared.heldout, shared.heldout_key, bench, label=label)
    spliced = splice_stage(subject, trained, bench)
    return Measured(subject, trained, readings, common, spliced)


def _measure_control(
    control: Null,
    config: StudyConfig,
    network: Network,
    sites: dict[str, Any],
    tokens: Tokens,
    real: Measured,
    bench: Bench,
) -> Measured:
    """The control's study: one seed, the real study's L0 where sparsity is bought with a coefficient."""
    study = config.model_copy(update={"seeds": config.seeds[:1]})
    own = under(control, tokens, network)
    subject = Subject(
        study, control.name, network, network.fingerprint, sites, own, null=control, reporter=bench.reporter
    )
    targets: dict[tuple[str, int], float] | None = None
    if config.dictionary.has_coefficient:
        targets = {
            (site, seed): next(s for s in real.readings.sums[site, seed] if s.name == "l0").record().value
            for site in config.sites
            for seed in study.seeds
        }
    measured = _measure(subject, tokens, bench, targets)
    subject.forget_network()
    return measured


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
