"""The causal stage: what every latent of one site's judged dictionary does to the network's predictions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from polyseme.causal import CausalEffects, causal_effects
from polyseme.core.config import identity
from polyseme.core.seeds import derive_seed
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
    version = 5
    """4 was keyed with its defaults."""

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
        heldout = self.role.subject(at).tokens.heldout_key
        return {"network": at.base, "heldout": heldout, "readings": at.artifact(self.readings).key}

    def identity(self, at: Worker) -> dict[str, Any]:
        return {
            **self.role.subject(at).identity,
            "site": self.site,
            "seed": self.role.seeds[0],
            "causal": identity(at.config.causal, exclude=_BOUNDS_MEMORY),
        }

    def work(self, at: Worker) -> Work:
        # At most: each latent and its null at every sampled token.
        return Work(passed=2.0 * at.latents[self.site] * at.config.causal.n_samples)

    def make(self, folder: Path, at: Worker) -> None:
        subject, seed = self.role.subject(at), self.role.seeds[0]
        dictionaries = on(subject.network.device, at.of(self.dictionaries).dictionaries)
        effects = causal_effects(
            subject.network,
            subject.tokens.heldout,
            subject.bindings[self.site],
            dictionaries[self.site, seed],
            at.of(self.readings).firings[self.site, seed],
            config=at.config.causal,
            seed=derive_seed(seed, "causal", self.site),
            reporter=at.reporter,
        )
        for field, array in effects.arrays().items():
            save_array(folder / f"{field}.npy", array)

    def load(self, artifact: Artifact, at: Worker) -> CausalEffects:
        return CausalEffects(**{field.name: artifact.array(f"{field.name}.npy") for field in fields(CausalEffects)})
