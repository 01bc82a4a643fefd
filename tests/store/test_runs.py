import json
import math
import subprocess
import sys

import pytest

from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.records import MetricRecord
from polyseme.store import Run, find_run, list_runs
from polyseme.store.provenance import provenance

CONFIG = {"sites": ["blocks.0.resid_post"], "k": 24}


def test_a_run_is_a_folder_that_says_what_made_it(tmp_path):
    run = Run.open(tmp_path, "demo", CONFIG)
    with run.working():
        assert run.record.status == "running"
        run.add_parent("harvest", "ab" * 32)
        run.event("stage", name="harvest", seconds=1.5)
        run.save_metrics([MetricRecord(name="fvu", value=0.2, n=10), MetricRecord(name="ce", value=math.nan, n=0)])
    record = run.record
    assert record.status == "complete"
    assert record.finished >= record.started
    assert record.parents == {"harvest": "ab" * 32}
    assert record.made_by.packages["torch"]
    assert record.made_by.argv == sys.argv
    assert run.config == CONFIG
    assert [event["kind"] for event in run.events] == ["started", "stage", "finished"]
    assert [metric.name for metric in run.metrics] == ["fvu", "ce"]
    assert run.artifacts.is_dir()
    assert Run.open(tmp_path, "demo", CONFIG).id == run.id
    assert [other.id for other in list_runs(tmp_path)] == [run.id]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "interrupted"), (ValueError("x"), "failed")])
def test_how_a_run_ended_is_written(tmp_path, error, status):
    run = Run.open(tmp_path, "demo", CONFIG)

    def work():
        with run.working():
            raise error

    with pytest.raises(type(error)):
        work()
    assert run.record.status == status
    assert run.record.error == ("ValueError: x" if status == "failed" else None)
    with run.working():
        assert run.record.error is None
    assert run.record.status == "complete"


def test_a_killed_run_reads_as_interrupted_and_a_live_one_is_not_started_twice(tmp_path):
    run = Run.open(tmp_path, "demo", CONFIG)
    code = (
        "import sys, time; from pathlib import Path; from polyseme.store import Run\n"
        "with Run(Path(sys.argv[1])).working(): print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    assert run.record.status == "running"
    with pytest.raises(InputError, match=rf"another process \({process.pid}\)"), run.working():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert run.record.status == "interrupted"
    assert json.loads((run.path / "run.json").read_text())["status"] == "running"


@pytest.mark.parametrize("name", ["", "Demo", "a/b", "..", "a" * 65, "é", "a b", "a\n"])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot name a study"):
        Run.open(tmp_path, name, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_another_config_is_refused(tmp_path):
    run = Run.open(tmp_path, "demo", CONFIG)
    assert Run.open(tmp_path, "demo", {**CONFIG, "k": 25}).id != run.id
    with pytest.raises(InputError, match="another config"):
        Run.at(run.path, "demo", {**CONFIG, "k": 25})
    (run.path / "config.json").write_text(json.dumps({**CONFIG, "k": 26}))
    with pytest.raises(InputError, match="another config"):
        Run.open(tmp_path, "demo", CONFIG)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    with pytest.raises(InputError, match="holds no run"):
        Run.at(tmp_path / "photos", "demo", CONFIG)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_runs_are_looked_up_and_never_joined(tmp_path):
    runs = tmp_path / "runs"
    first, second = Run.open(runs, "demo", {"a": 1}), Run.open(runs, "demo", {"a": 2})
    other = Run.open(runs, "other", {"a": 1})
    outside = Run.open(tmp_path, "outside", {})
    (runs / "link-00000000").symlink_to(outside.path)
    assert find_run(runs, first.id).path == first.path
    assert find_run(runs, "oth").path == other.path
    assert find_run(runs, second.id[:10]).path == second.path
    with pytest.raises(InputError, match=f"start of 2 runs.*{min(first.id, second.id)}"):
        find_run(runs, "demo")
    with pytest.raises(InputError, match=f"did you mean .*{other.id}"):
        find_run(runs, "othre")
    for hostile in (f"../{outside.id}", str(outside.path), "", ".", "link-00000000", "\x00", "x" * 10_000):
        with pytest.raises(InputError, match="there is no run"):
            find_run(runs, hostile)
    with pytest.raises(InputError, match="lists those there are"):
        find_run(tmp_path / "nowhere", "x")


def test_damaged_and_newer_runs_are_told_apart(tmp_path):
    run = Run.open(tmp_path, "demo", CONFIG)
    (run.path / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="newer polyseme"):
        _ = run.record
    (run.path / "run.json").write_text('{"id": 3}')
    with pytest.raises(DamagedArtifact, match="run the study again"):
        _ = run.record
    with run.working():
        pass
    assert run.record.status == "complete"
    (run.path / "metrics.jsonl").write_text('{"name": 3}\n')
    with pytest.raises(DamagedArtifact, match=r"metrics\.jsonl"):
        _ = run.metrics


def test_the_commit_of_a_git_folder_is_recorded(tmp_path):
    def git(*command):
        flags = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "core.hooksPath=/dev/null",
        ]
        done = subprocess.run(["git", *flags, *command], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert provenance(tmp_path).git is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "Add a")
    made_by = provenance(tmp_path)
    assert made_by.git.commit == git("rev-parse", "HEAD")
    assert not made_by.git.dirty
    (tmp_path / "a").write_text("2")
    assert provenance(tmp_path).git.dirty
