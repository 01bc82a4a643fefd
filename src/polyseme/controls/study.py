"""The main job: a study, the same study on every control, the evidence, the verdicts and the report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from polyseme.causal import CausalConfig, CausalEffects
from polyseme.controls import ControlConfig
from polyseme.controls.evidence import causal_stage, specificity_stage, stability_stage, token_shares
from polyseme.controls.latent_table import LatentTable, latent_table
from polyseme.controls.protocol import Control
from polyseme.controls.requirements import impossible, shortfalls
from polyseme.controls.verdicts import SiteVerdicts, VerdictConfig, judge
from polyseme.core.errors import InputError
from polyseme.core.memory import peak_memory
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import MetricRecord, Status
from polyseme.core.validation import validate_config
from polyseme.evaluation import Continuation
from polyseme.evaluation.specificity import Specificity
from polyseme.evaluation.token_share import TokenShare
from polyseme.interpret.report import LatentReport, StudyReport
from polyseme.native.shield import shielded
from polyseme.networks import Network
from polyseme.store import Run, Store
from polyseme.studies.baselines import Baselines, baselines_stage
from polyseme.studies.bench import Bench
from polyseme.studies.check import check_network, study_context, tell_predictions
from polyseme.studies.config import StudyConfig
from polyseme.studies.continuations import continuations_stage
from polyseme.studies.dictionaries import dictionaries_stage
from polyseme.studies.files import load_config
from polyseme.studies.measure import Readings, Spliced, readings_stage, splice_stage
from polyseme.studies.price import Sizes, check_price
from polyseme.studies.sites import check_sites
from polyseme.studies.subject import Subject, Trained
from polyseme.studies.tokens import Tokens, tokens_stage


class ControlledStudyConfig(StudyConfig):
    """A study with its controls: what a study file says."""

    controls: tuple[ControlConfig, ...] = Field(default=(), max_length=64)
    """Nulls the whole study is repeated on; without one, no latent can be called supported."""
    causal: CausalConfig = CausalConfig()
    verdicts: VerdictConfig = VerdictConfig()
    shown: int = Field(default=50, ge=0, le=10_000)
    """Most telling latents of each verdict that the report shows."""

    @model_validator(mode="after")
    def _distinct_controls(self) -> "ControlledStudyConfig":
        names = [control.name for control in self.controls]
        if len(set(names)) < len(names):
            twice = ", ".join(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"`controls` has {twice} more than once: remove one or give another `seed`")
        return self

    @model_validator(mode="after")
    def _verdicts_possible(self) -> "ControlledStudyConfig":
        if not self.lacks:
            # Without a width of its own a dictionary takes the site's, which is not known yet.
            reason = impossible(self.causal, self.verdicts, self.dictionary.n_latents or 1)
            if reason:
                raise ValueError(reason)
        return self

    @property
    def lacks(self) -> tuple[str, ...]:
        """What model-specificity needs and the study does not have: a control, a second seed."""
        needed = {"control": bool(self.controls), "second seed": len(self.seeds) > 1}
        return tuple(what for what, there in needed.items() if not there)

    def plain(self) -> StudyConfig:
        """The study alone, which controls are applied to."""
        return StudyConfig.model_validate({name: getattr(self, name) for name in StudyConfig.model_fields})


@dataclass(frozen=True)
class Measured:
    """One subject, trained and measured.

    Attributes:
        subject: what was studied.
        trained: its dictionaries.
        readings: over its own held-out tokens.
        shared: over the real study's held-out tokens, the same object where those are its own.
        spliced: what patching costs it.
    """

    subject: Subject
    trained: Trained
    readings: Readings
    shared: Readings
    spliced: Spliced


@dataclass(frozen=True)
class Findings:
    """Everything a study found, before it is put into words.

    Attributes:
        config: config of the study.
        real: the study itself.
        controls: control name to the same study on it.
        baselines: look-up tables.
        stability: by site, between the first two seeds.
        continuations: text by the clean and by the jointly patched network.
        effects, specificity, shares, verdicts: by site, of the first seed's dictionaries.
    """

    config: ControlledStudyConfig
    real: Measured
    controls: dict[str, Measured]
    baselines: Baselines
    stability: dict[str, list[MetricRecord]]
    continuations: list[Continuation]
    effects: dict[str, CausalEffects]
    specificity: dict[str, Specificity]
    shares: dict[str, TokenShare]
    verdicts: dict[str, SiteVerdicts]


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        run: its run directory.
        data: everything the report shows.
        findings: everything it found, for what the report does not show.
    """

    run: Run
    data: StudyReport
    findings: Findings = field(repr=False, compare=False)

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.run.artifacts / "report.html"

    @property
    def verdict_counts(self) -> dict[Status, int]:
        """How many latents got each verdict."""
        return self.data.verdict_counts

    @cached_property
    def _table(self) -> LatentTable:
        return latent_table(self.findings)

    def latents(self, site: str | None = None, *, status: Status | None = None) -> LatentTable:
        """Every latent of the judged dictionaries, of one site or with one verdict where asked.

        Raises:
            InputError: the study has no such site, or there is no such verdict.
        """
        return self._table.where(site, status=status)

    def shown(self, site: str | None = None, *, status: Status | None = None) -> tuple[LatentReport, ...]:
        """The latents that the report shows, with their contexts: the most telling of each verdict, first ones first.

        A selection that flatters: at most `shown` of each verdict. `latents()` has all of them, `latent()` any one.

        Raises:
            InputError: the study has no such site, or there is no such verdict.
        """
        self._table.where(site, status=status)
        return tuple(
            latent
            for latent in self.data.latents
            if (site is None or latent.site == site) and (status is None or latent.verdict.status == status)
        )

    def latent(self, site: str, index: int) -> LatentReport:
        """One latent with its contexts, tokens and neighbours, whether the report shows it or not.

        Raises:
            InputError: the study has no such site, or its dictionary no such latent.
        """
        from polyseme.controls.report_latents import describe

        n = len(self.latents(site))
        if not 0 <= index < n:
            raise InputError(f"the dictionary at {site} has no latent {index}", fix=f"0 to {n - 1}")
        return describe(self.findings, site, index)


@shielded
def study(
    config: ControlledStudyConfig | Mapping[str, Any] | str | Path,
    *,
    root: str | Path = "runs",
    resume: bool = True,
    reporter: Reporter | None = None,
) -> StudyResult:
    """Run a study with its controls, or go on with one that was stopped.

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
        return _run(config, bench, run)


def as_config(config: ControlledStudyConfig | Mapping[str, Any] | str | Path) -> ControlledStudyConfig:
    """The config that a path, a mapping or a config means."""
    if isinstance(config, ControlledStudyConfig):
        config = config.model_dump()  # what `model_copy` changed was not validated
    if isinstance(config, str | Path):
        return load_config(Path(config), ControlledStudyConfig)
    return validate_config(config, ControlledStudyConfig, where="the study's config")


def _run(config: ControlledStudyConfig, bench: Bench, run: Run) -> StudyResult:
    from polyseme.controls.reporting import report_of, write_files

    findings = find(config, bench)
    bench.reporter.message("writing the report")
    data = report_of(
        findings,
        bench,
        run,
        started=run.record.started,
        wall_seconds=run.seconds,
        peak_memory_bytes=peak_memory(),
    )
    write_files(data, findings, run)
    return StudyResult(run, data, findings)


def find(config: ControlledStudyConfig, bench: Bench) -> Findings:
    """All stages of a study in order, each found or made."""
    plain = config.plain()
    bench.reporter.message(f"study {config.name}: loading {config.network.source}")
    network = plain.network.build(bench.reporter)
    sites = {name: network.site(name) for name in plain.sites}
    _check_controls(config)
    looking = bench.reporter.task("look at the network", 4, "checks")
    check_network(plain, network, bench.reporter)
    looking.update(1)
    context = study_context(plain, network)
    looking.update(2)
    check_sites(plain, network, sites, context)
    looking.update(3)
    tell_predictions(network, bench.reporter)  # last, for it takes longest and refuses nothing
    looking.update(4)
    sizes = Sizes.asked(
        plain,
        network,
        context,
        n_controls=len(config.controls),
        second_network=any(control.targets == "weights" for control in config.controls),
    )
    check = partial(check_price, plain, causal=config.causal, device=network.device, root=bench.store.root)
    if not plain.tokens.allow_fewer:  # what is asked for is what there will be
        check(sizes, reporter=bench.reporter)
    tokens = tokens_stage(plain, network, bench)
    _check_documents(config, tokens)
    for line in shortfalls_of(config, network, tokens):
        bench.reporter.message(line)
    found = sizes.found(
        n_train=tokens.train.n_tokens, n_heldout=tokens.heldout.n_tokens, n_documents=_heldout_documents(tokens)
    )
    check(found, reporter=bench.reporter if plain.tokens.allow_fewer else Silent())
    real = _measure(
        Subject(plain, "trained", network.hash_weights(bench.reporter), sites, tokens, network), tokens, bench
    )
    baselines = baselines_stage(real.subject, real.trained.statistics, bench)
    continuations = continuations_stage(real.subject, real.trained, bench)
    effects = causal_stage(real.subject, real.trained, real.readings, plain.seeds[0], config.causal, bench)
    controls = {
        control.name: _measure_control(control, plain, network, sites, tokens, real, bench)
        for control in config.controls
    }
    specific = specificity_stage(
        real.readings, {name: c.shared for name, c in controls.items()}, plain.sites, plain.seeds, bench
    )
    shares = token_shares(real.readings, plain.sites, plain.seeds[0], bench.reporter)
    judging = bench.reporter.task("verdicts", len(plain.sites), "sites")
    verdicts: dict[str, SiteVerdicts] = {}
    for site in plain.sites:
        firings = real.readings.firings[site, plain.seeds[0]]
        scope: dict[str, str | int] = {"site": site, "seed": plain.seeds[0], "study": real.subject.label}
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
    stable = stability_stage(real.readings, real.trained, plain.sites, plain.seeds, bench)
    return Findings(config, real, controls, baselines, stable, continuations, effects, specific, shares, verdicts)


def shortfalls_of(config: ControlledStudyConfig, network: Network, tokens: Tokens) -> list[str]:
    """What keeps the study's verdicts from saying anything, as far as it is known before anything is trained."""
    return shortfalls(
        config.causal,
        config.verdicts,
        [config.dictionary.width(network.width(network.site(name))) for name in config.sites],
        n_documents=_heldout_documents(tokens),
        predicts=network.predicts_tokens,
        lacks=config.lacks,
    )


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
    control: Control,
    plain: StudyConfig,
    network: Network,
    sites: dict[str, Any],
    tokens: Tokens,
    real: Measured,
    bench: Bench,
) -> Measured:
    """The control's study: one seed, the real study's L0 where sparsity is bought with a coefficient."""
    study = control.apply(plain.model_copy(update={"seeds": plain.seeds[:1]}))
    own = tokens if study.tokens.transform is None else tokens_stage(study, network, bench)
    same = study.network.reinit is None
    subject = Subject(study, control.name, network.fingerprint, sites, own, network if same else None, bench.reporter)
    targets: dict[tuple[str, int], float] | None = None
    if plain.dictionary.has_coefficient:
        targets = {
            (site, seed): next(s for s in real.readings.sums[site, seed] if s.name == "l0").record().value
            for site in plain.sites
            for seed in study.seeds
        }
    measured = _measure(subject, tokens, bench, targets)
    subject.forget_network()
    return measured


def _heldout_documents(tokens: Tokens) -> int:
    return len(np.unique(tokens.heldout.document[~tokens.heldout.special]))


def _check_documents(config: ControlledStudyConfig, tokens: Tokens) -> None:
    """Matches are chosen on one half of the held-out documents and measured on the other."""
    if not config.lacks and _heldout_documents(tokens) < 2:
        raise InputError(
            "the held-out tokens are of one document, and model-specificity needs at least two",
            where="tokens.heldout",
            fix="raise tokens.heldout, set tokens.heldout_document_tokens to take less of each document, or leave out "
            "the controls",
        )


def _check_controls(config: ControlledStudyConfig) -> None:
    """What cannot work is said before anything is trained."""
    if config.network.reinit is not None and any(c.targets == "weights" for c in config.controls):
        raise InputError(
            "the study's own network is re-initialised already, so a control on weights is no null of it",
            where="network.reinit",
            fix="leave out network.reinit, or the controls on weights",
        )
