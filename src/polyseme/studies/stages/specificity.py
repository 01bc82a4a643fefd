"""The specificity stage: whether latents recur on the same network and not on its nulls."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from polyseme.activations.firings import Firings
from polyseme.core.config import identity
from polyseme.core.seeds import derive_seed
from polyseme.evaluation.specificity import Margin, Specificity, SpecificityConfig, specificity
from polyseme.store import Artifact, save_array, save_json
from polyseme.studies.measured import Readings
from polyseme.studies.measures import Finding, Outline
from polyseme.studies.rates import correlating_work, heldout_documents_at_least
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.readings import ReadingsStage
from polyseme.studies.subject import dictionary_name


@dataclass(frozen=True, eq=False)
class SpecificityStage(Finding[dict[str, Specificity]]):
    """Model-specificity of every latent of the first seed's dictionaries, by site.

    Attributes:
        seeds: of the study itself: the first is judged against the second.
        readings: of the study itself.
        controls: control name to its readings over the same held-out tokens.
    """

    name = "specificity"
    version = 2
    """1 was keyed with its defaults."""

    seeds: tuple[int, ...]
    readings: ReadingsStage
    controls: Mapping[str, ReadingsStage]

    @classmethod
    def among(cls, study: Outline) -> Iterable["SpecificityStage"]:
        compared = {null.name: study.controls[null.name].shared for null in study.config.judging}
        if compared and len(study.config.seeds) > 1:
            yield cls("", study.config.seeds, study.real.readings, compared)

    def inputs(self, at: Worker) -> Mapping[str, str]:
        others = {name: at.artifact(stage).key for name, stage in self.controls.items()}
        return {"readings": at.artifact(self.readings).key, **others}

    def identity(self, at: Worker) -> dict[str, Any]:
        return {
            "sites": list(at.bindings),
            "seeds": self.seeds[:2],
            "controls": list(self.controls),
            "specificity": identity(SpecificityConfig(), exclude={"chunk_bytes"}),
        }

    def work(self, at: Worker) -> Work:
        n_tokens, n_documents = at.config.tokens.heldout, heldout_documents_at_least(at)
        each = (
            correlating_work(at, n, n_tokens=n_tokens, n_documents=n_documents, n_others=1 + len(self.controls))
            for n in at.latents.values()
        )
        return Work(correlated=sum(each))

    def make(self, folder: Path, at: Worker) -> None:
        real, (first, second) = at.of(self.readings), self.seeds[:2]
        others = {name: at.of(stage) for name, stage in self.controls.items()}
        for site in at.bindings:
            own = real.firings[site, first]
            found = specificity(
                own,
                real.firings[site, second],
                {name: _any_seed(readings, site) for name, readings in others.items()},
                config=SpecificityConfig(),
                seed=derive_seed(first, "specificity", site),
                progress=at.reporter.task(f"model-specificity of {site}", own.n_latents, "latents"),
            )
            to = folder / dictionary_name(site, first)
            margins = {"recurrence": found.recurrence}
            margins |= {f"control-{i}": found.controls[name] for i, name in enumerate(others)}
            margins |= {f"margin-{i}": found.margins[name] for i, name in enumerate(others)}
            for name, margin in margins.items():
                for field, array in margin.arrays().items():
                    save_array(to / f"{name}.{field}.npy", array)
            save_array(to / "noise.npy", found.noise)
            save_array(to / "n_documents.npy", found.n_documents)
            save_json(to / "controls.json", list(others))

    def load(self, artifact: Artifact, at: Worker) -> dict[str, Specificity]:
        return {site: _load(artifact, dictionary_name(site, self.seeds[0])) for site in at.bindings}


def _any_seed(readings: Readings, site: str) -> Firings:
    return next(firings for (name, _), firings in readings.firings.items() if name == site)


def _load(artifact: Artifact, at: str) -> Specificity:
    def margin(name: str) -> Margin:
        return Margin(**{field.name: artifact.array(f"{at}/{name}.{field.name}.npy") for field in fields(Margin)})

    controls = artifact.parsed(f"{at}/controls.json", TypeAdapter(list[str]).validate_python)
    return Specificity(
        recurrence=margin("recurrence"),
        controls={name: margin(f"control-{i}") for i, name in enumerate(controls)},
        margins={name: margin(f"margin-{i}") for i, name in enumerate(controls)},
        noise=artifact.array(f"{at}/noise.npy"),
        n_documents=artifact.array(f"{at}/n_documents.npy"),
    )
