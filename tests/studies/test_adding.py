"""A stage is added to every study by one class and one line in the table of findings."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

import polyseme
from polyseme.core.records import MetricRecord
from polyseme.dictionaries import Dictionary
from polyseme.store import Artifact, save_json
from polyseme.studies import plan
from polyseme.studies.measures import Finding, Outline
from polyseme.studies.run import as_config
from polyseme.studies.stage import Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from tests.studies.small import small_config

_RECORDS = TypeAdapter(list[MetricRecord])


@dataclass(frozen=True, eq=False)
class CrowdingStage(Finding[list[MetricRecord]]):
    """How near the nearest other latent of the same dictionary is, by site, for the first seed."""

    name = "crowding"

    seed: int
    dictionaries: DictionariesStage

    @classmethod
    def among(cls, study: Outline) -> Iterable["CrowdingStage"]:
        return (cls(study.real.role.label, study.config.seeds[0], study.real.dictionaries),)

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {"dictionaries": at.artifact(self.dictionaries).key}

    def identity(self, at: Worker) -> dict[str, Any]:
        return {"sites": list(at.bindings), "seed": self.seed}

    def work(self, at: Worker) -> Work:
        return Work()

    def make(self, folder: Path, at: Worker) -> None:
        trained = at.of(self.dictionaries).dictionaries
        found = [
            MetricRecord(name="crowding", value=_nearest(trained[site, self.seed]), n=1, scope={"site": site})
            for site in at.bindings
        ]
        save_json(folder / "crowding.json", found)

    def load(self, artifact: Artifact, at: Worker) -> list[MetricRecord]:
        return artifact.parsed("crowding.json", _RECORDS.validate_python)

    def records(self, found: list[MetricRecord], /) -> Iterable[MetricRecord]:
        return found


def _nearest(dictionary: Dictionary) -> float:
    directions = torch.nn.functional.normalize(dictionary.write_directions(), dim=1)
    return float((directions @ directions.T).fill_diagonal_(-1).max(dim=1).values.mean())


@pytest.fixture
def with_crowding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FINDINGS", (*plan.FINDINGS, CrowdingStage))


@pytest.mark.usefixtures("with_crowding")
def test_a_stage_of_one_class_is_planned_run_kept_and_recorded(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    config = as_config(small_config(small_network, small_corpus, controls=[]))
    [stage] = plan.Plan.of(config).kind(CrowdingStage)
    assert stage.shown == "crowding (trained)"
    assert stage.shown in {one.shown for one in plan.Plan.of(config).alone}
    assert {s.name for s in plan.Plan.of(config).until("crowding")} == {
        "tokens",
        "statistics",
        "dictionaries",
        "crowding",
    }

    result = polyseme.study(config, root=tmp_path)
    lines = map(json.loads, (result.run.path / "metrics.jsonl").read_text().splitlines())
    written = {line["scope"]["site"]: line["value"] for line in lines if line["name"] == "crowding"}
    assert written == {site: pytest.approx(_nearest(result.dictionary(site))) for site in config.bindings}

    again = polyseme.study(config, root=tmp_path)
    assert [s.reused for s in again.stages if s.stage == stage.shown] == [True]


def test_without_its_line_there_is_no_such_stage(small_network: Path, small_corpus: Path) -> None:
    config = as_config(small_config(small_network, small_corpus, controls=[]))
    assert "crowding" not in {stage.name for stage in plan.Plan.of(config).stages}
