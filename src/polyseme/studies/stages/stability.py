"""The stability stage: how alike the dictionaries of two seeds are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from polyseme.core.records import MetricRecord
from polyseme.evaluation import stability
from polyseme.store import Artifact, save_json
from polyseme.studies.measures import Finding, Outline
from polyseme.studies.rates import matching_work
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.stages.readings import ReadingsStage

_RECORDS = TypeAdapter(dict[str, list[MetricRecord]])


@dataclass(frozen=True, eq=False)
class StabilityStage(Finding[dict[str, list[MetricRecord]]]):
    """Matched cosines between the first two seeds' dictionaries at every site.

    Attributes:
        seeds: of the study itself.
    """

    name = "stability"
    version = 3
    """1 had chance levels without dead latents; 2 was keyed with its defaults."""

    seeds: tuple[int, ...]
    dictionaries: DictionariesStage
    readings: ReadingsStage

    @classmethod
    def among(cls, study: Outline) -> Iterable["StabilityStage"]:
        if len(study.config.seeds) > 1:
            yield cls(study.real.role.label, study.config.seeds, study.real.dictionaries, study.real.readings)

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {"readings": at.artifact(self.readings).key}

    def identity(self, at: Worker) -> dict[str, Any]:
        return {"sites": list(at.bindings), "seeds": self.seeds[:2]}

    def work(self, at: Worker) -> Work:
        return Work(matched=sum(matching_work(n, at.write_widths[name]) for name, n in at.latents.items()))

    def make(self, folder: Path, at: Worker) -> None:
        trained, read = at.of(self.dictionaries), at.of(self.readings)
        progress = at.reporter.task("seed stability", len(at.bindings), "sites")
        found: dict[str, list[MetricRecord]] = {}
        for done, site in enumerate(at.bindings, start=1):
            seeds = self.seeds[:2]
            one, other = ((trained.dictionaries[site, s].write_directions(), read.alive(site, s)) for s in seeds)
            scope = {"site": site, "seeds": f"{seeds[0]}, {seeds[1]}"}
            found[site] = stability(one[0], other[0], alive_a=one[1], alive_b=other[1], scope=scope)
            progress.update(done)
        save_json(folder / "stability.json", found)

    def load(self, artifact: Artifact, at: Worker) -> dict[str, list[MetricRecord]]:
        return artifact.parsed("stability.json", _RECORDS.validate_python)

    def records(self, found: dict[str, list[MetricRecord]], /) -> Iterable[MetricRecord]:
        return chain.from_iterable(found.values())
