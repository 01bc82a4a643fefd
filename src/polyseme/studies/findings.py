"""What a study found, part by part, before it is put into words."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from polyseme.causal import CausalEffects
from polyseme.core.records import Axis, MetricRecord
from polyseme.core.seeds import derive_seed
from polyseme.evaluation import Continuation, DocumentSums
from polyseme.evaluation.learning import LearningCurve
from polyseme.evaluation.recurrence import Recurrence
from polyseme.evaluation.token_share import TokenShare, token_share
from polyseme.studies.config import StudyConfig
from polyseme.studies.measured import Readings, Spliced, Trained
from polyseme.studies.measures import Measures, Recording
from polyseme.studies.plan import Plan
from polyseme.studies.stage import Stage, Worker
from polyseme.studies.stages.baselines import BaselinesStage
from polyseme.studies.stages.causal import CausalStage
from polyseme.studies.stages.continuations import ContinuationsStage
from polyseme.studies.stages.learning import LearningStage
from polyseme.studies.stages.recurrence import RecurrenceStage
from polyseme.studies.stages.stability import StabilityStage
from polyseme.studies.stages.tokens import Tokens
from polyseme.studies.subject import Subject
from polyseme.verdicts.evidence import SiteEvidence, site_evidence
from polyseme.verdicts.judge import SiteVerdicts, judge
from polyseme.verdicts.requirements import shortfalls, unused

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Measured:
    """One subject, trained and measured: each part is found, or made, when it is first asked for.

    Attributes:
        measures: its stages.
        at: where they are run.
    """

    measures: Measures
    at: Worker = field(repr=False)

    @property
    def subject(self) -> Subject:
        """What was studied."""
        return self.measures.role.subject(self.at)

    @property
    def trained(self) -> Trained:
        """Its dictionaries."""
        return self.at.of(self.measures.dictionaries)

    @property
    def readings(self) -> Readings:
        """What was read over its own held-out tokens."""
        return self.at.of(self.measures.readings)

    @property
    def shared(self) -> Readings:
        """What was read over the real study's held-out tokens; the same object where those are its own."""
        return self.at.of(self.measures.shared)

    @property
    def spliced(self) -> Spliced:
        """What patching costs it."""
        return self.at.of(self.measures.splice)


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything a study found, before it is put into words: each part is found, or made, when it is first asked for.

    Attributes:
        plan: the study's stages.
        at: where they are run.
    """

    plan: Plan
    at: Worker = field(repr=False)

    @property
    def config(self) -> StudyConfig:
        """Config of the study."""
        return self.plan.config

    @cached_property
    def real(self) -> Measured:
        """The study itself."""
        return Measured(self.plan.real, self.at)

    @cached_property
    def controls(self) -> dict[str, Measured]:
        """Control name to the same study on it."""
        return {name: Measured(measures, self.at) for name, measures in self.plan.controls.items()}

    @property
    def recorded(self) -> Iterator[MetricRecord | DocumentSums]:
        """The metrics of every stage beside those that the controls go through too."""
        for stage in self.plan.findings:
            if isinstance(stage, Recording) and self.at.is_used(stage):
                yield from stage.records(self.at.of(stage))

    @property
    def baselines(self) -> dict[str, list[DocumentSums]]:
        """Metrics of look-up tables, by site."""
        return self._one(BaselinesStage) or {}

    @property
    def stability(self) -> dict[str, list[MetricRecord]]:
        """By site, between the first two seeds."""
        return self._one(StabilityStage) or {}

    @property
    def learning(self) -> dict[str, LearningCurve]:
        """By site, how many latents recurred at moments of the training; empty with fewer than three seeds."""
        return self._one(LearningStage) or {}

    @property
    def continuations(self) -> list[Continuation]:
        """Text by the clean and by the jointly patched network."""
        return self._one(ContinuationsStage) or []

    @cached_property
    def effects(self) -> dict[str, CausalEffects]:
        """By site, of the first seed's dictionaries, as everything that follows."""
        return {s.site: self.at.of(s) for s in self.plan.kind(CausalStage) if self.at.is_used(s)}

    @cached_property
    def recurrence(self) -> dict[str, Recurrence]:
        """By site, what other dictionaries make of every latent; empty without a second seed."""
        return {s.site: self.at.of(s) for s in self.plan.kind(RecurrenceStage) if self.at.is_used(s)}

    @property
    def missing(self) -> dict[Axis, str]:
        """By axis, why it says nothing of any latent; empty where it can."""
        predicts = all(map(self.at.is_used, self.plan.kind(CausalStage)))
        return {**self.config.missing, "used": unused(self.config.causal, predicts=predicts)}

    @cached_property
    def shares(self) -> dict[str, TokenShare]:
        """Token share of every latent, by site."""
        seed = self.config.seeds[0]
        progress = self.at.reporter.task("token share", len(self.config.bindings), "sites")
        found: dict[str, TokenShare] = {}
        for site in self.config.bindings:
            found[site] = token_share(self.real.readings.firings[site, seed], seed=derive_seed(seed, "token", site))
            progress.update(len(found))
        return found

    @cached_property
    def evidence(self) -> dict[str, SiteEvidence]:
        """What the latents are judged on, by site."""
        config, seed = self.config, self.config.seeds[0]
        return {
            site: site_evidence(
                self.real.readings.firings[site, seed].document_counts,
                self.recurrence.get(site),
                self.effects.get(site),
                config=config.verdicts,
                missing=self.missing,
            )
            for site in config.bindings
        }

    @cached_property
    def verdicts(self) -> dict[str, SiteVerdicts]:
        """The verdict on every latent, by site, judged from the evidence of all sites together."""
        progress = self.at.reporter.task("verdicts", len(self.config.bindings), "sites")
        scope = {"seed": self.config.seeds[0], "study": self.real.subject.label}
        found = judge(self.evidence, config=self.config.verdicts, scope=scope)
        progress.update(len(found))
        return found

    def _one(self, kind: type[Stage[T]]) -> T | None:
        """The result of the only stage of a kind; None where the study has none, or the network no use for it."""
        return next((self.at.of(stage) for stage in self.plan.kind(kind) if self.at.is_used(stage)), None)


def heldout_documents(tokens: Tokens) -> int:
    """How many documents the held-out side has."""
    return len(np.unique(tokens.heldout.document[~tokens.heldout.special]))


def shortfalls_of(at: Worker, tokens: Tokens) -> list[str]:
    """What keeps the study's verdicts from saying anything, as far as it is known before anything is trained."""
    config = at.config
    return shortfalls(
        config.missing,
        config.causal,
        config.verdicts,
        n_documents=heldout_documents(tokens),
        predicts=at.network.predicts_tokens,
        n_latents=max(at.latents.values()),
        match_tokens=min(config.evaluation.match_tokens, tokens.train.n_tokens),
    )
