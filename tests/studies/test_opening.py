"""A finished study opened again: the same results, without the network, and one sentence for what is missing."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import polyseme
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Silent
from polyseme.networks import Network
from polyseme.store import Run, Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from polyseme.studies.stage import Worker
from tests.studies.small import small_config

SITE = "blocks.0.resid_post"


@pytest.fixture
def copied(finished: polyseme.StudyResult, tmp_path: Path) -> Path:
    """The folder of runs, to be damaged."""
    return Path(shutil.copytree(finished.run.path.parent, tmp_path / "runs"))


def artifact(root: Path, finished: polyseme.StudyResult, shown: str) -> Path:
    key = finished.run.record.parents[shown]
    return root / "objects" / f"{shown.partition(' ')[0]}-{key[:16]}"


def test_a_study_is_opened_as_it_was_without_its_network(finished: polyseme.StudyResult, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the network was loaded")

    before = {p: p.stat().st_mtime_ns for p in finished.run.path.parent.rglob("*")}
    monkeypatch.setattr(Network, "__init__", refuse)
    again = polyseme.open_study("small", finished.run.path.parent)
    assert again.run.id == finished.run.id
    assert repr(again) == repr(finished)
    for name, column in finished.latents().columns.items():
        np.testing.assert_array_equal(again.latents()[name], column, err_msg=name)
    for site in finished.sites:
        for seed in finished.seeds:
            theirs = finished.dictionary(site, seed).tensors()
            for name, tensor in again.dictionary(site, seed).tensors().items():
                assert torch.equal(tensor, theirs[name].cpu()), name
            assert (again.firings(site, seed).matrix != finished.firings(site, seed).matrix).nnz == 0
    np.testing.assert_array_equal(again.heldout.tokens, finished.heldout.tokens)
    assert len(again.metrics) == len(finished.metrics)
    assert again.findings.stability == finished.findings.stability
    assert {r.stage: r.key for r in again.stages} == finished.run.record.parents
    assert before == {p: p.stat().st_mtime_ns for p in finished.run.path.parent.rglob("*")}


def test_what_needs_the_network_loads_it(finished: polyseme.StudyResult):
    again = polyseme.open_study(finished.run.path)
    assert again.latent(SITE, 3).model_dump_json() == finished.latent(SITE, 3).model_dump_json()
    assert again.network.hash_weights(Silent()) == finished.network.hash_weights(Silent())


def test_a_run_is_found_by_id_by_name_and_by_path(finished: polyseme.StudyResult, monkeypatch):
    root = finished.run.path.parent
    for name in (finished.run.id, finished.run.id[:8], "small", str(finished.run.path), finished.run.path):
        assert polyseme.open_study(name, root).run.id == finished.run.id
    monkeypatch.chdir(root)
    assert polyseme.open_study(finished.run.id, "nowhere").run.id == finished.run.id
    with pytest.raises(InputError, match=f"no run 'smal1'.*did you mean {finished.run.id}"):
        polyseme.open_study("smal1", root)
    with pytest.raises(InputError, match="holds no run"):
        polyseme.open_study(root / "objects", root)


def test_a_run_may_be_moved_and_its_folder_may_be_read_only(finished: polyseme.StudyResult, copied: Path):
    moved = copied.parent / "kept"
    (copied / finished.run.path.name).rename(moved)
    assert repr(polyseme.open_study(moved, copied)).splitlines()[:-1] == repr(finished).splitlines()[:-1]
    with pytest.raises(InputError, match="holds no artifacts of runs"):
        polyseme.open_study(moved, copied.parent / "elsewhere")
    assert not (copied.parent / "elsewhere").exists()


Ask = Callable[[polyseme.StudyResult], object]
ASKED: dict[str, Ask] = {
    "tokens (heldout)": lambda study: study.heldout,
    "dictionaries (trained)": lambda study: study.dictionary(SITE),
    "readings (gaussian_reinit)": lambda study: study.findings.controls["gaussian_reinit"].readings,
}


@pytest.mark.parametrize("shown", ASKED)
def test_an_artifact_that_is_gone_or_changed_is_named_when_it_is_asked_for(
    finished: polyseme.StudyResult, copied: Path, shown: str
):
    folder = artifact(copied, finished, shown)
    file = max((p for p in folder.rglob("*.[ns]*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = polyseme.open_study("small", copied)
    with pytest.raises(DamagedArtifact) as refused:
        ASKED[shown](again)
    assert shown in str(refused.value)
    assert "run the study again" in str(refused.value)
    assert file.read_bytes() != whole  # nothing is put right behind one's back
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=f"no artifact {folder.name}"):
        ASKED[shown](polyseme.open_study("small", copied))


def test_what_is_not_asked_for_is_not_read(finished: polyseme.StudyResult, copied: Path):
    for stage in Plan.of(finished.findings.config).stages:
        if "reinit" in stage.shown or "shuffled" in stage.shown or stage.name in ("splice", "baselines"):
            shutil.rmtree(artifact(copied, finished, stage.shown), ignore_errors=True)
    again = polyseme.open_study("small", copied)
    assert again.findings.at.records == []
    assert again.verdict_counts == finished.verdict_counts
    assert repr(again).splitlines()[:-1] == repr(finished).splitlines()[:-1]
    assert len(again.metrics) == len(finished.metrics)
    with pytest.raises(InputError, match="no artifact"):
        _ = again.findings.controls["gaussian_reinit"].trained


def test_a_run_that_did_not_finish_is_said_to_be_unfinished(finished: polyseme.StudyResult, copied: Path):
    from polyseme.store import save_record

    path = copied / finished.run.path.name / "run.json"
    save_record(path, finished.run.record.model_copy(update={"status": "failed"}))
    with pytest.raises(InputError, match="is failed, not complete"):
        polyseme.open_study("small", copied)


def test_verdicts_that_this_version_would_not_give_are_said_to_differ(
    finished: polyseme.StudyResult, copied: Path, monkeypatch
):
    path = copied / finished.run.path.name / "artifacts" / "verdicts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["status"] = "token_level" if lines[0]["status"] != "token_level" else "undecided"
    path.write_text("".join(json.dumps(line) + os.linesep for line in lines))
    with pytest.raises(DamagedArtifact, match=r"verdicts\.jsonl is missing, or was changed"):
        polyseme.open_study("small", copied).latents()
    monkeypatch.setattr(Run, "changed_files", lambda _: [])
    with pytest.warns(UserWarning, match="judges 1 of 64 latents otherwise"):
        polyseme.open_study("small", copied).latents()


def test_another_version_of_a_stage_is_not_read(finished: polyseme.StudyResult, monkeypatch):
    from polyseme.studies.stages.splice import SpliceStage

    monkeypatch.setattr(SpliceStage, "version", SpliceStage.version + 1)
    with pytest.raises(InputError, match=r"stage splice \(trained\) was made by version"):
        _ = polyseme.open_study("small", finished.run.path.parent).findings.real.spliced


def test_another_network_in_the_place_of_the_studied_one_is_refused(
    finished: polyseme.StudyResult, monkeypatch, small_network: Path
):
    monkeypatch.setattr(Network, "hash_weights", lambda *_: "0" * 64)
    again = polyseme.open_study("small", finished.run.path.parent)
    with pytest.raises(InputError, match="no longer the one"):
        _ = again.network


def test_a_run_says_what_computed_it(finished: polyseme.StudyResult):
    backend = finished.run.record.backend
    assert backend == finished.dictionary(SITE).backend
    named = backend.loops if backend.name == "loops" else backend.name
    assert named is not None
    assert f"{named}" in finished.report.read_text()
    assert not any(
        "backend" in json.dumps(finished.findings.at.artifact(s).identity)
        for s in Plan.of(finished.findings.config).stages
        if finished.findings.at.is_used(s)
    )


def test_a_study_of_a_null_of_tokens_reads_that_nulls_tokens(small_network: Path, small_corpus: Path, tmp_path: Path):
    keys = []
    for null in (None, {"kind": "shuffled_tokens"}):
        config = StudyConfig.model_validate(small_config(small_network, small_corpus, null=null, controls=[]))
        worker = Worker(config, Store(tmp_path), Silent())
        keys.append(Plan.of(config).real.role.subject(worker).tokens.heldout_key)
    assert keys[0] != keys[1]
