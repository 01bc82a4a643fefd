"""`polyseme plan`, `polyseme stage` and `--until`, `--jobs`: a study in parts is the study."""

import dataclasses
import re
import shlex
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import polyseme
from polyseme.cli.main import run
from polyseme.core.errors import InputError
from polyseme.evaluation.metric import Metric
from polyseme.evaluation.metrics import METRICS
from polyseme.studies.levels import LEVELS
from tests.studies.small import small_config

pytestmark = pytest.mark.slow


@pytest.fixture
def flags(small_network: Path, small_corpus: Path) -> list[str]:
    return [
        "--network.source", str(small_network), "--corpus", "text", "--corpus.paths", str(small_corpus),
        "--sites", "blocks.1.resid_post", "--tokens.train", "1500", "--tokens.heldout", "500", "--tokens.splice", "100",
        "--tokens.heldout_fraction", "0.4", "--dictionary.n_latents", "16", "--dictionary.k", "4",
        "--training.n_tokens", "1024", "--training.batch_size", "128", "--controls", "gaussian_reinit",
        "--evaluation.n_resamples", "100", "--evaluation.n_continuations", "0", "--causal.n_samples", "3",
        "--seeds", "0", "1", "--draws", "1",
    ]  # fmt: skip


def planned(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, tuple[str, str]]:
    """Stage to id and state, as printed."""
    assert run(["plan", *args, "--no-estimate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.match(r"([0-9a-f]{8}-[0-9a-f]{8})\s+\d+ (.*?)\s{2,}.*?(done|to do|not needed)", line) for line in lines]
    return {row[2]: (row[1], row[3]) for row in rows if row}


def test_a_plan_says_what_is_done_and_a_stage_is_run_by_its_id(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    root = ["--root", str(tmp_path)]
    before = planned(capsys, *flags, *root)
    assert before["continuations (trained)"][1] == "not needed"
    assert {state for name, (_, state) in before.items() if "continuations" not in name} == {"to do"}
    assert run(["stage", before["statistics (trained)"][0], before["readings (trained)"][0], *root]) == 0
    printed = capsys.readouterr().out
    assert "statistics (trained): " in printed
    assert "readings (trained): " in printed
    after = planned(capsys, *flags, *root)
    done = {name for name, (_, state) in after.items() if state == "done"}
    tokens = {"tokens (train)", "tokens (heldout)"}
    assert done == {*tokens, "statistics (trained)", "dictionaries (trained)", "readings (trained)"}
    assert [id_ for id_, _ in after.values()] == [id_ for id_, _ in before.values()]
    assert run(["study", *flags, "--until", "splice (trained)", *root]) == 0
    assert "splice: " in capsys.readouterr().out
    assert planned(capsys, *flags, *root)["splice (trained)"][1] == "done"
    assert planned(capsys, *flags, *root)["splice (gaussian_reinit)"][1] == "to do"


@pytest.mark.parametrize("harm", ["a metric of another version", "a damaged file"])
def test_what_a_study_would_compute_again_is_to_do(
    harm: str,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    root = ["--root", str(tmp_path)]
    assert run(["study", *flags, *root, "--until", "causal (trained)"]) == 0
    assert run(["study", *flags, *root, "--until", "splice (trained)"]) == 0
    stages = ("readings (trained)", "causal (trained)", "splice (trained)")
    assert {planned(capsys, *flags, *root)[stage][1] for stage in stages} == {"done"}
    folders = sorted(tmp_path.glob("objects/*"))
    if harm == "a metric of another version":
        for name in ("fvu", "ce_recovered"):
            changed = dataclasses.replace(METRICS[name], version=METRICS[name].version + 1)
            monkeypatch.setitem(cast(dict[str, Metric], METRICS), name, changed)
    else:
        for stage in ("readings", "splice"):
            next(tmp_path.glob(f"objects/{stage}-*/*.npy")).write_bytes(b"")
    assert {planned(capsys, *flags, *root)[stage][1] for stage in stages} == {"to do"}
    assert sorted(tmp_path.glob("objects/*")) == folders  # a plan removes nothing
    assert run(["study", *flags, *root, "--until", "splice (trained)"]) == 0
    assert "splice: " in capsys.readouterr().err.split("computing it again")[0]
    assert planned(capsys, *flags, *root)["splice (trained)"][1] == "done"


def test_times_are_estimated_where_they_can_be(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["plan", *flags, "--root", str(tmp_path), "--until", "readings"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"dictionaries \(trained\).*(≈ \d|< 1 s)", out)
    assert "recurrence" not in out
    assert re.search(r"stages to do, about", out)
    assert "paper" not in out  # a part of a study has no level
    assert not list(tmp_path.glob("objects/*-*"))


def test_what_each_level_would_cost_is_told_beforehand(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["plan", *flags, "--root", str(tmp_path), "--evidence", "quick"]) == 0
    out = capsys.readouterr().out
    assert "The whole study at each level of evidence" in out
    rows = [re.search(rf"^{level}( \(this study's\))? +(\d+) .*MB", out, re.MULTILINE) for level in LEVELS]
    assert all(rows)
    assert [row[2] for row in rows if row] == ["5", "11", "20"]  # seeds, and draws of one control
    assert [bool(row[1]) for row in rows if row] == [True, False, False]
    assert not list(tmp_path.glob("objects/*-*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["stage"], "ID is missing"),
        (["stage", "../../etc"], "is not the id of a stage"),
        (["stage", "01234567-89abcdef"], "no plan here has the stage"),
        (["study", "--until", "slice"], "no stage 'slice'"),
        (["study", "--until", "splice", "--jobs", "2"], "--until runs its stages in one process"),
        (["demo", "--no-resume", "--jobs", "2"], "computes every stage again runs in one process"),
        (["demo", "--launch", "no-such-program -c 4"], "there is no program 'no-such-program'"),
        (["demo", "--launch", "srun 'open"], "the command line cannot be read"),
        (["study", "--until", "splice", "--launch", "true"], "--until runs its stages in one process"),
    ],
)
def test_what_is_no_stage_is_refused_in_one_sentence(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*args, "--root", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_processes_side_by_side_find_what_one_process_finds(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "sites": ["blocks.1.resid_post"],
        "training": {"n_tokens": 2048, "batch_size": 256},
        "draws": 2,
    }
    config = small_config(small_network, small_corpus, **changes)
    one, two = (polyseme.study(config, root=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert [(m.name, m.scope, str(m.value)) for m in one.run.metrics] == [
        (m.name, m.scope, str(m.value)) for m in two.run.metrics
    ]
    assert {stage.key for stage in one.stages} == {stage.key for stage in two.stages}
    alone = {stage.stage for stage in two.stages if not stage.reused}
    assert alone == {"tokens (train)", "tokens (heldout)", "recurrence"}


def test_a_command_starts_the_processes_elsewhere(
    small_network: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "started elsewhere"
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import os, subprocess, sys\n"
        "open(sys.argv[1], 'a').write(repr(sys.argv[2:]) + chr(10))\n"
        "os.chdir('/')\n"
        "sys.exit(subprocess.run(sys.argv[2:]).returncode)\n"
    )
    changes: dict[str, Any] = {
        "sites": ["blocks.1.resid_post"],
        "training": {"n_tokens": 2048, "batch_size": 256},
        "draws": 2,
    }
    config = small_config(small_network, small_corpus, **changes)
    launch = shlex.join([sys.executable, str(starter), str(log)])
    result = polyseme.study(config, root="here", launch=launch)
    started = log.read_text().splitlines()
    assert len(started) == 1 + len(result.findings.plan.nulls) == 5
    assert all("'-m', 'polyseme', 'stage'" in line for line in started)
    assert {s.stage for s in result.stages if not s.reused} == {"tokens (train)", "tokens (heldout)", "recurrence"}


def test_a_command_that_fails_says_which_stage_and_what_next(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    config = small_config(small_network, small_corpus)
    with pytest.raises(InputError, match="ended with status 1"):
        polyseme.study(config, root=tmp_path, launch="false")
