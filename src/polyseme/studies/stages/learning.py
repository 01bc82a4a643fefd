"""The learning stage: how many latents recurred at several moments of the training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, permutations
from pathlib import Path
from typing import Any

import numpy as np

from polyseme.activations.firings import Firings, collect_firings
from polyseme.core.records import MetricRecord
from polyseme.core.seeds import derive_seed
from polyseme.corpora import Windows
from polyseme.evaluation.learning import LearningCurve, matches_of
from polyseme.evaluation.matches import Correlations, Sides
from polyseme.store import Artifact
from polyseme.studies.measures import Finding, Outline
from polyseme.studies.rates import active_latents
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.stages.matching import matched_on
from polyseme.studies.subject import Role, dictionary_name, file_name, on
from polyseme.training.jobs import MOMENTS

_NOTHING = Correlations(np.empty((0, 0)), np.empty((0, 0, 0)))


@dataclass(frozen=True, eq=False)
class LearningStage(Finding[dict[str, LearningCurve]]):
    """The curve of every site, from the copies of the first few seeds' dictionaries along their training.

    Attributes:
        role: of the study itself.
        dictionaries: those that were copied.
    """

    name = "learning"

    role: Role
    dictionaries: DictionariesStage

    @classmethod
    def among(cls, study: Outline) -> Iterable["LearningStage"]:
        if study.config.copied:
            yield cls(study.real.role.label, study.real.role, study.real.dictionaries)

    def inputs(self, at: Worker) -> Mapping[str, str]:
        subject, trained = self.role.subject(at), at.of(self.dictionaries)
        return {
            "network": at.base,
            "train": matched_on(subject).fingerprint,
            "heldout": subject.tokens.heldout_key,
            "dictionaries": at.artifact(self.dictionaries).key,
            "trained on": trained.statistics.trained_on_key,
        }

    def identity(self, at: Worker) -> dict[str, Any]:
        return {
            **self.role.subject(at).identity,
            "seeds": at.config.copied,
            "tokens": at.of(self.dictionaries).copied_at,
            **at.draw,
        }

    def work(self, at: Worker) -> Work:
        seeds, n_learn = at.config.copied, at.config.evaluation.match_tokens
        both = MOMENTS * float(n_learn + at.config.tokens.heldout)
        pairs = MOMENTS * len(list(permutations(seeds, 2)))
        return Work(
            read=both,
            trained=both * len(seeds) * at.multiply_adds / 3,  # encoding is a third of a training step
            correlated=pairs * len(at.bindings) * n_learn * active_latents(at) ** 2,
        )

    def make(self, folder: Path, at: Worker) -> None:
        subject, tokens = self.role.subject(at), at.of(self.dictionaries).copied_at
        progress = at.reporter.task("learning curves", max(1, len(tokens) * len(at.bindings)), "sites and moments")
        found = {site: [] if tokens else [_NOTHING] for site in at.bindings}
        for n_tokens in tokens:
            learn, heldout = (
                self._firings(n_tokens, text, at) for text in (matched_on(subject), subject.tokens.heldout)
            )
            for site, curve in found.items():
                names = [dictionary_name(site, seed) for seed in at.config.copied]
                sides = [Sides(learn.pop(name), heldout.pop(name)) for name in names]
                curve.append(matches_of(sides, seed=at.seed(derive_seed(self.role.seeds[0], "learning", site))))
                progress.update(sum(map(len, found.values())))
        for site, curve in found.items():
            parts = (np.stack([getattr(one, part) for one in curve]) for part in ("value", "without"))
            LearningCurve(tokens, *parts, bar=at.config.verdicts.recurrence).save(folder, file_name(site))

    def load(self, artifact: Artifact, at: Worker) -> dict[str, LearningCurve]:
        bar = at.config.verdicts.recurrence
        return {site: LearningCurve.load(artifact, file_name(site), bar=bar) for site in at.bindings}

    def records(self, found: dict[str, LearningCurve], /) -> Iterable[MetricRecord]:
        return chain.from_iterable(curve.records({"site": site, "study": self.label}) for site, curve in found.items())

    def _firings(self, n_tokens: int, text: Windows, at: Worker) -> dict[str, Firings]:
        """Firings of the copies of one moment at all sites, from one pass."""
        subject, trained = self.role.subject(at), at.of(self.dictionaries)
        keys = [(site, seed) for site in at.bindings for seed in at.config.copied]
        copies = on(subject.network.device, {key: trained.copy(n_tokens, *key) for key in keys})
        return collect_firings(
            subject.network,
            text,
            {dictionary_name(*key): (subject.bindings[key[0]], dictionary) for key, dictionary in copies.items()},
            trained_on=trained.statistics.trained_on,
            batch_windows=at.config.evaluation.batch_windows,
            reporter=at.reporter,
        )
