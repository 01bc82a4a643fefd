import json
import math
import os
import subprocess
import sys
import time

import pytest

import polyseme.store.runs as runs_module
from polyseme.core.config import fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.records import MetricRecord
from polyseme.store import Run, find_run, list_runs, load_record, open_run, save_json, save_record
from polyseme.store.provenance import provenance
from tests.store.listener import Listener


def opened(runs, name, config, reporter=None):
    run = Run.open(runs, name, config)
    with run.working(reporter):
        pass
    return run


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


def test_the_run_of_another_config_with_the_same_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "fingerprint", lambda value: "abcdef12" + fingerprint(value)[8:])
    run = opened(tmp_path, "demo", CONFIG)
    with pytest.raises(InputError, match="another config"):
        Run.open(tmp_path, "demo", {**CONFIG, "k": 25})
    assert run.config == CONFIG


@pytest.mark.parametrize("text", ["", "{}", "[" * 10_000, json.dumps({**CONFIG, "k": 26}), "\0"])
def test_a_changed_config_is_never_shown_but_written_again_and_said_to_be(tmp_path, text):
    run = opened(tmp_path, "demo", CONFIG)
    (run.path / "config.json").write_text(text)
    moved = run.path.rename(tmp_path / "renamed")
    with pytest.raises(DamagedArtifact, match=r"config\.json"):
        _ = Run(moved).config
    moved.rename(run.path)
    listener = Listener()
    again = opened(tmp_path, "demo", CONFIG, listener)
    assert again.path == run.path
    assert again.config == CONFIG
    assert len(listener.messages) == 1
    assert "config.json" in listener.messages[0]


def test_a_folder_of_ours_keeps_what_a_user_put_there(tmp_path):
    run = Run.open(tmp_path, "demo", CONFIG)
    (run.path / "notes.txt").write_text("mine")
    (run.path / ".run.json.1-abcd.tmp").write_text("half")
    opened(tmp_path, "demo", CONFIG)
    assert sorted(path.name for path in run.path.iterdir()) == [
        *("artifacts", "config.json", "events.jsonl", "notes.txt", "run.json"),
    ]


def test_runs_are_looked_up_and_never_joined(tmp_path):
    runs = tmp_path / "runs"
    first, second = opened(runs, "demo", {"a": 1}), opened(runs, "demo", {"a": 2})
    other = opened(runs, "other", {"a": 1})
    outside = opened(tmp_path, "outside", {})
    (runs / "link-00000000").symlink_to(outside.path)
    assert find_run(runs, first.id).path == first.path
    assert find_run(runs, "oth").path == other.path
    assert find_run(runs, second.id[:10]).path == second.path
    longer = opened(runs, "other-bare", {"a": 1})
    assert find_run(runs, "other").path == other.path  # its name, though another's begins with it
    assert find_run(runs, "other-b").path == longer.path
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
    run = opened(tmp_path, "demo", CONFIG)
    (run.path / "run.json").write_text('{"schema_version": 99, "sha256": "x"}')
    with pytest.raises(DamagedArtifact, match="checksum"):
        _ = run.record
    save_record(run.path / "run.json", {"schema_version": 99})
    with pytest.raises(InputError, match="newer polyseme"):
        _ = run.record


RECORD_DAMAGE = {
    "empty": lambda path: path.write_text(""),
    "wrong types": lambda path: save_record(path, {"id": 3, "started": "x"}),
    "started 1e300": lambda path: save_record(path, {**load_record(path), "started": 1e300}),
    "started -1": lambda path: save_record(path, {**load_record(path), "started": -1}),
    "hostile id": lambda path: save_record(path, {**load_record(path), "id": "../../etc-00000000"}),
    "another digit": lambda path: path.write_text(path.read_text().replace('"started": 1', '"started": 2')),
    "no checksum": lambda path: save_json(path, load_record(path)),
    "deep": lambda path: path.write_text("[" * 10_000),
    "large": lambda path: os.truncate(path, 300 * 2**20),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("/no/such/file")),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", list(RECORD_DAMAGE))
def test_a_damaged_run_json_hides_nothing_and_is_written_again(tmp_path, damage):
    healthy, run = opened(tmp_path, "healthy", CONFIG), opened(tmp_path, "demo", CONFIG)
    RECORD_DAMAGE[damage](run.path / "run.json")
    with pytest.raises(DamagedArtifact, match="run the study again"):
        _ = run.record
    assert [found.path for found in list_runs(tmp_path)] == [run.path, healthy.path]
    assert find_run(tmp_path, "demo").path == run.path
    assert find_run(tmp_path, "healthy").record.status == "complete"
    listener = Listener()
    opened(tmp_path, "demo", CONFIG, listener)
    assert run.record.status == "complete"
    assert len(listener.messages) == (0 if damage == "gone" else 1)


@pytest.mark.parametrize("damage", list(RECORD_DAMAGE))
def test_the_time_worked_is_known_from_the_events_where_run_json_is_damaged(tmp_path, damage, monkeypatch):
    clock = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    run = Run.open(tmp_path, "demo", CONFIG)
    for seconds in (10, 20):
        with run.working():
            clock[0] += seconds
        clock[0] += 1000
    RECORD_DAMAGE[damage](run.path / "run.json")
    with run.working():
        clock[0] += 5
        assert run.seconds == pytest.approx(35)
    assert run.seconds == pytest.approx(35)


def test_the_time_worked_is_that_of_all_processes_also_of_a_killed_one(tmp_path, monkeypatch):
    clock = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    run = Run.open(tmp_path, "demo", CONFIG)

    def interrupted():
        with run.working():
            clock[0] += 10
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    clock[0] += 1000
    with run.working():
        clock[0] += 1
    # A killed process: nothing is written, and the lock stays behind with the time of its last sign of life.
    lost = {"status": "running", "finished": None, "started": clock[0], "seconds": run.seconds}
    save_record(run.path / "run.json", {**load_record(run.path / "run.json"), **lost})
    (run.path / ".lock").write_text("999999999 somewhere")
    os.utime(run.path / ".lock", (clock[0] + 100, clock[0] + 100))
    clock[0] += 5000
    with run.working():
        clock[0] += 4
    assert run.seconds == pytest.approx(10 + 1 + 100 + 4)
    assert not (run.path / ".lock").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "artifacts/table.csv", "config.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "folder"])
def test_what_changed_since_a_run_ended_is_known(tmp_path, name, damage):
    run = Run.open(tmp_path, "demo", CONFIG)
    with run.working():
        run.save_metrics([MetricRecord(name="fvu", value=0.25, n=10)])
        (run.artifacts / "table.csv").write_text("a,1\n")
    assert run.changed_files() == []
    path = run.path / name
    data = path.read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(data.translate(bytes.maketrans(b"0123456789", b"1234567890")))
    elif damage == "cut":
        path.write_bytes(data[:-2])
    elif damage == "folder":
        path.mkdir()
    assert run.changed_files() == [name]
    if name == "metrics.jsonl":
        with pytest.raises(DamagedArtifact, match=r"metrics\.jsonl"):
            _ = run.metrics


def test_a_run_is_known_by_what_it_holds_wherever_it_was_moved(tmp_path):
    runs = tmp_path / "runs"
    run, other = opened(runs, "demo", CONFIG), opened(runs, "other", CONFIG)
    (runs / "objects").mkdir()
    (runs / "empty-00000000").mkdir()
    (runs / "file-00000000").write_text("")
    run.path.rename(runs / "my best run")
    assert [found.id for found in list_runs(runs)] == [run.path.name, other.id]
    assert find_run(runs, run.path.name).path == runs / "my best run"
    assert find_run(runs, "my be").path == runs / "my best run"
    assert find_run(runs, "demo").path == runs / "my best run"
    (runs / "my best run").rename(tmp_path / "elsewhere")
    assert open_run(tmp_path / "elsewhere").id == run.path.name
    with pytest.raises(InputError, match="no run"):
        open_run(tmp_path)
    # The same command makes the run again in its own place.
    assert opened(runs, "demo", CONFIG).id == run.path.name


TARGETS = {
    ".lock": lambda run, to: (run.path / ".lock").symlink_to(to),
    "events.jsonl": lambda run, to: (run.path / "events.jsonl").symlink_to(to),
    "run.json": lambda run, to: (run.path / "run.json").symlink_to(to),
    "config.json": lambda run, to: (run.path / "config.json").symlink_to(to),
    "metrics.jsonl": lambda run, to: (run.path / "metrics.jsonl").symlink_to(to),
    ".lock, hard": lambda run, to: os.link(to, run.path / ".lock"),
    "events.jsonl, hard": lambda run, to: os.link(to, run.path / "events.jsonl"),
    "run.json, hard": lambda run, to: os.link(to, run.path / "run.json"),
}


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("content", ["precious\n", "12345"])
def test_nothing_is_written_through_links_in_a_runs_folder(tmp_path, target, content):
    victim = tmp_path / "victim"
    victim.write_text(content)
    run = Run.open(tmp_path / "runs", "demo", CONFIG)
    TARGETS[target](run, victim)
    if target in (".lock", "events.jsonl", ".lock, hard"):
        with pytest.raises(InputError) as caught:
            opened(tmp_path / "runs", "demo", CONFIG)
        assert caught.value.fix
    else:
        opened(tmp_path / "runs", "demo", CONFIG)
        assert run.record.status == "complete"
        assert [event["kind"] for event in run.events] == ["started", "finished"]
    assert victim.read_text() == content


@pytest.mark.parametrize("name", [".lock", "events.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "folder with a file"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, name, kind):
    run = Run.open(tmp_path / "runs", "demo", CONFIG)
    if kind == "pipe":
        os.mkfifo(run.path / name)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        (run.path / name).symlink_to(tmp_path / "pipe")
    else:
        (run.path / name).mkdir()
        (run.path / name / "x").write_text("")
    with pytest.raises(InputError) as caught:
        opened(tmp_path / "runs", "demo", CONFIG)
    assert caught.value.fix
    assert name in caught.value.where


def test_folders_of_a_run_that_are_links_are_refused(tmp_path):
    (tmp_path / "victim").mkdir()
    run = opened(tmp_path / "runs", "demo", CONFIG)
    run.artifacts.rmdir()
    run.artifacts.symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="link"):
        Run.open(tmp_path / "runs", "demo", CONFIG)
    run.path.rename(tmp_path / "moved")
    for target in ("victim", "nowhere"):
        run.path.symlink_to(tmp_path / target)
        with pytest.raises(InputError, match="link"):
            Run.open(tmp_path / "runs", "demo", CONFIG)
        run.path.unlink()
    assert not (tmp_path / "nowhere").exists()
    assert list((tmp_path / "victim").iterdir()) == []


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
