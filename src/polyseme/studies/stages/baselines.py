"""The baselines stage: what tokens alone explain."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from polyseme.core.binding import Binding, unnamed
from polyseme.core.config import identity
from polyseme.corpora import Windows
from polyseme.evaluation import DocumentSums, LookupConfig, LookupSums, load_sums, save_sums, sweep
from polyseme.store import Artifact
from polyseme.studies.measures import Finding, Outline
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.statistics import StatisticsStage
from polyseme.studies.subject import Role


@dataclass(frozen=True, eq=False)
class BaselinesStage(Finding[dict[str, list[DocumentSums]]]):
    """FVU of the look-up tables, learned on train tokens: site name to `fvu_token` and `fvu_bigram`.

    Attributes:
        role: whose vectors.
    """

    name = "baselines"
    version = 3
    """2 was keyed with its defaults."""

    role: Role
    statistics: StatisticsStage

    @classmethod
    def among(cls, study: Outline) -> Iterable["BaselinesStage"]:
        return (cls(study.real.role.label, study.real.role, study.real.statistics),)

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {
            "network": at.base,
            "train": self._train(at).fingerprint,
            "heldout": self.role.subject(at).tokens.heldout_key,
            "ordinary": at.of(self.statistics).ordinary_key,
        }

    def identity(self, at: Worker) -> dict[str, Any]:
        return {**self.role.subject(at).identity, "lookup": identity(LookupConfig(), exclude={"batch_windows"})}

    def work(self, at: Worker) -> Work:
        return Work(read=at.config.evaluation.lookup_tokens + at.config.tokens.heldout)

    def make(self, folder: Path, at: Worker) -> None:
        subject, statistics = self.role.subject(at), at.of(self.statistics)
        network, heldout = subject.network, subject.tokens.heldout
        bindings = [Binding(b.reads, b.writes) for b in subject.bindings.values()]
        settings = LookupConfig(batch_windows=at.config.evaluation.batch_windows)
        ordinary = statistics.ordinary
        tables = settings.build(network, self._train(at), heldout, bindings, ordinary=ordinary, reporter=at.reporter)
        sums = LookupSums(tables, heldout)
        sweep(network, heldout, {}, [sums.see], sites=list(subject.sites.values()), reporter=at.reporter)
        save_sums(folder, sums.finish(scope={"study": subject.label}), heldout.names)

    def load(self, artifact: Artifact, at: Worker) -> dict[str, list[DocumentSums]]:
        sums = load_sums(artifact.path, of="lookup")
        return {
            name: [entry for entry in sums if entry.scope["site"] == unnamed(binding)]
            for name, binding in at.bindings.items()
        }

    def records(self, found: dict[str, list[DocumentSums]], /) -> Iterable[DocumentSums]:
        return chain.from_iterable(found.values())

    def _train(self, at: Worker) -> Windows:
        return self.role.subject(at).first("train", at.config.evaluation.lookup_tokens)
