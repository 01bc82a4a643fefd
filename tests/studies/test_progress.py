"""Nothing long is silent: every stage announces itself before its work, and its work has tasks with amounts."""

import json
from pathlib import Path

import pytest
import torch

import polyseme
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis import DiagnosisConfig, diagnose
from polyseme.networks import load_network
from polyseme.networks.weights import weights_fingerprint
from polyseme.nulls import make_null
from polyseme.store import Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from polyseme.studies.stage import Worker
from tests.studies.small import small_config
from tests.tiny import tiny_gpt2


class Heard:
    """A reporter that keeps what it is given, in order: messages, tasks, and the amounts of each task."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.amounts: dict[str, list[float]] = {}
        self.totals: dict[str, float] = {}

    def message(self, text: str) -> None:
        self.order.append(text)

    def task(self, name: str, total: float, unit: str = "") -> "HeardTask":
        self.order.append(name)
        self.totals[name] = total
        return HeardTask(self, name)


class HeardTask:
    def __init__(self, heard: Heard, name: str):
        self.heard, self.name = heard, name

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self.heard.amounts.setdefault(self.name, []).append(done)
        self.heard.totals[self.name] = self.heard.totals[self.name] if total is None else total


def test_every_stage_announces_itself_before_its_work_and_has_a_task(
    small_network: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    heard = Heard()
    stage = Store.stage

    def marked(self: Store, name, config, inputs, make, *rest, **options):
        def making(folder: Path) -> None:
            heard.order.append(f"work of {name}")
            make(folder)
            heard.order.append(f"end of {name}")

        # The announcement is made by what the store is given to call, before anything else.
        return stage(self, name, config, inputs, making, *rest, **options)

    monkeypatch.setattr(Store, "stage", marked)
    controls = [{"kind": "spectrum_reinit"}, {"kind": "shuffled_tokens"}]
    config = small_config(small_network, small_corpus, controls=controls)
    result = polyseme.study(config, root=tmp_path, reporter=heard)

    events = [json.loads(line) for line in (result.run.path / "events.jsonl").read_text().splitlines()]
    made = [event["stage"] for event in events if event.get("reused") is False]
    assert len(made) > 10
    assert [text.removeprefix("stage ") for text in heard.order if text.startswith("stage ")] == made
    for name in made:
        at = heard.order.index(f"stage {name}")
        assert heard.order[at - 1] == f"work of {name.partition(' (')[0]}"
        end = next(i for i in range(at, len(heard.order)) if heard.order[i].startswith("end of "))
        assert end - at > 1, f"{name} has no task"
    assert heard.amounts["look at the network"] == [1, 2, 3, 4]
    for task in ("site statistics", "random weights (spectrum)", "token share", "verdicts", "describe latents"):
        assert task in heard.order, task
    for task, total in heard.totals.items():  # one that never ends would be said to be at work for ever
        amounts = heard.amounts[task]
        assert amounts[-1] >= total > 0, f"{task} ends at {amounts[-1]} of {total}"
        assert len(amounts) == 1 or amounts[0] < amounts[-1], task


def test_what_was_said_of_a_corpus_is_said_again_where_its_tokens_are_reused(small_network: Path, tmp_path: Path):
    good = [json.dumps({"text": f"# {i} " + "def return self import x y " * 40}) for i in range(60)]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*good, "{", *good[:1]]))
    corpus = {"kind": "jsonl", "paths": [str(tmp_path / "corpus.jsonl")], "errors": "skip"}
    tokens = {"train": 100_000, "heldout": 500, "splice": 400, "heldout_fraction": 0.3, "allow_fewer": True}
    study = StudyConfig.model_validate(
        {
            "network": {"source": str(small_network)},
            "corpus": corpus,
            "tokens": tokens,
            "sites": ["blocks.0.resid_post"],
        }
    )
    network = load_network(small_network, device="cpu")
    first, second = Heard(), Heard()
    for heard in (first, second):
        worker = Worker(study, Store(tmp_path / "store"), heard)
        worker.__dict__["network"] = network
        plan = Plan.of(study)
        for stage in (plan.real.role.train, plan.real.role.heldout, plan.real.role.train):  # as every control asks
            worker.of(stage)
    said = [text for text in first.order if not text.startswith(("stage", "tokenise"))]
    assert any(text.startswith("left out 1 from the corpus") for text in said)
    assert any("all there are, instead of 100,000" in text for text in said)
    assert second.order == said


def test_drawing_weights_and_hashing_them_show_how_far_they_are(monkeypatch: pytest.MonkeyPatch):
    heard = Heard()
    network = make_null("spectrum_reinit").network(load_network(tiny_gpt2()), heard)
    amounts = heard.amounts["random weights (spectrum)"]
    assert amounts == sorted(amounts)
    assert len(amounts) > 5
    assert amounts[-1] == sum(p.numel() for p in network.module.parameters())
    assert "hash the weights" not in heard.amounts  # so few bytes take no time

    monkeypatch.setattr("polyseme.networks.weights._SLOW_BYTES", 0)
    module = tiny_gpt2()
    plain = load_network(module)
    assert plain.hash_weights(heard) == weights_fingerprint(module) == plain.fingerprint
    shared_once = sum(parameter.nbytes for parameter in module.parameters()) / 1e6  # the head has the embedding's
    assert heard.amounts["hash the weights"][-1] == heard.totals["hash the weights"] == shared_once
    before = len(heard.amounts["hash the weights"])
    plain.hash_weights(heard)
    assert len(heard.amounts["hash the weights"]) == before  # hashed once


def test_a_diagnosis_shows_how_far_it_is():
    heard = Heard()
    W = torch.eye(6)
    network = load_network(torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU()), example_inputs=W[:2])
    inputs = torch.rand(512, 6, generator=torch.Generator().manual_seed(derive_seed(0, "progress") % 2**31))
    diagnose(network, "0", inputs, DiagnosisConfig(n_resamples=20, n_null=200), heard)
    assert heard.order == ["read the site", "switch variables off", "diagnosis"]
    assert heard.amounts["switch variables off"] == [0, 1, 2, 3, 4, 5, 6]
    assert heard.amounts["read the site"] == [512]
