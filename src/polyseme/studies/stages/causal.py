"""The causal stage: what every latent of one site's judged dictionary does to the network's predictions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyseme.activations.firings import Firings, collect_firings
from polyseme.causal import CausalEffects, Meanings, array_names, causal_effects, n_predicted
from polyseme.core.config import identity
from polyseme.core.seeds import derive_seed
from polyseme.corpora import Windows
from polyseme.dictionaries import Dictionary
from polyseme.store import Artifact, save_array
from polyseme.studies.measures import Finding, Outline
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.stages.readings import ReadingsStage
from polyseme.studies.subject import Role, on

_BOUNDS_MEMORY = {"max_ghosts", "tokens_per_pass", "logit_bytes"}


@dataclass(frozen=True, eq=False)
class CausalStage(Finding[CausalEffects]):
    """One site's effects, an artifact of its own: a study that is killed keeps the sites it has finished.

    Attributes:
        role: whose network is intervened on.
        site: name of the site.
    """

    name = "causal"
    version = 8
    """5 compared sizes of effects with a direction that was drawn again at every token."""

    role: Role
    dictionaries: DictionariesStage
    readings: ReadingsStage
    site: str

    @classmethod
    def among(cls, study: Outline) -> Iterable["CausalStage"]:
        several = len(study.config.bindings) > 1
        for site in study.config.bindings:
            label = f"{study.real.role.label}, {site}" if several else study.real.role.label
            yield cls(label, study.real.role, study.real.dictionaries, study.real.readings, site)

    def why_not(self, at: Worker) -> str:
        """Why there are no effects; empty where there are."""
        return "" if at.network.predicts_tokens else "the network does not predict the next token"

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {
            "network": at.base,
            "train": self._train(at).fingerprint,
            "heldout": self.role.subject(at).tokens.heldout_key,
            "readings": at.artifact(self.readings).key,
            "ordinary": at.of(self.dictionaries.statistics).ordinary_key,
        }

    def identity(self, at: Worker) -> dict[str, Any]:
        decides: dict[str, Any] = {
            **self.role.subject(at).identity,
            "site": self.site,
            "seed": self.role.seeds[0],
            "min_documents": at.config.verdicts.min_documents,
            "causal": identity(at.config.causal, exclude=_BOUNDS_MEMORY),
        }
        return decides | at.draw

    def work(self, at: Worker) -> Work:
        n_tokens, width = at.config.evaluation.lookup_tokens, at.read_widths[self.site] + at.write_widths[self.site]
        latents = at.latents[self.site]
        return Work(
            read=n_tokens,
            passed=float(latents) * at.config.causal.edited,
            # Encoding is a third of a training step.
            trained=n_tokens * latents * width / 2 / 3,
        )

    def make(self, folder: Path, at: Worker) -> None:
        subject, seed = self.role.subject(at), self.role.seeds[0]
        network, trained = subject.network, at.of(self.dictionaries)
        dictionary = on(network.device, trained.dictionaries)[self.site, seed]
        train = self._train(at)
        meanings = Meanings.learn(self._firings(dictionary, train, at), train, n_predicted(network, train))
        effects = causal_effects(
            network,
            subject.tokens.heldout,
            subject.bindings[self.site],
            dictionary,
            at.of(self.readings).firings[self.site, seed],
            meanings,
            config=at.config.causal,
            min_documents=at.config.verdicts.min_documents,
            seed=derive_seed(at.seed(seed), "causal", self.site),
            ordinary=at.of(self.dictionaries.statistics).ordinary,
            reporter=at.reporter,
        )
        for name, array in effects.arrays().items():
            save_array(folder / f"{name}.npy", array)

    def load(self, artifact: Artifact, at: Worker) -> CausalEffects:
        nulls = at.config.causal.nulls
        return CausalEffects.of({name: artifact.array(f"{name}.npy") for name in array_names(nulls)}, nulls)

    def _train(self, at: Worker) -> Windows:
        """The train windows on which it is counted what latents stand for."""
        return self.role.subject(at).learned_on(at.config.evaluation.lookup_tokens)

    def _firings(self, dictionary: Dictionary, windows: Windows, at: Worker) -> Firings:
        """The dictionary's firings there; it does not fire at tokens that its training left out."""
        subject = self.role.subject(at)
        return collect_firings(
            subject.network,
            windows,
            {self.site: (subject.bindings[self.site], dictionary)},
            trained_on=at.of(self.dictionaries).statistics.trained_on,
            batch_windows=at.config.evaluation.batch_windows,
            reporter=at.reporter,
        )[self.site]
