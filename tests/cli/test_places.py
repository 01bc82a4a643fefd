"""Places that cannot be, may not be written, or were moved: one sentence before any work, or the right answer."""

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from polyseme.cli.main import run
from polyseme.store import Run, save_record
from polyseme.trials import verdicts as calibration
from tests.report.fixture import sample_report


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two complete runs with reports."""
    for name in ("one", "two"):
        made = Run.open(tmp_path / "runs", name, {"a": 1})
        with made.working():
            report = sample_report(per_status=0).model_copy(update={"title": f"the study {name}"})
            save_record(made.artifacts / "report.json", report.model_dump(mode="json"))
            made.report.write_text("<html>")
    return tmp_path / "runs"


def as_nobody(work: Callable[[], int]) -> int:
    """The exit status of the work done by a user whom permissions bind."""
    if os.getuid() != 0:
        return work()
    # Before the user changes: root's own installation of Python may not be readable for others.
    for name in (
        "polyseme.cli.study",
        "polyseme.screen.console",
        "polyseme.report.terminal",
        "polyseme.studies.run",
    ):
        importlib.import_module(name)
    for name in ("colorsys", "encodings.utf_8_sig", "importlib.readers", "rich.table", "tomllib"):
        importlib.import_module(name)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setgid(65534)
            os.setuid(65534)
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


ROOTS = {
    "NUL": "a\0b",
    "nothing": "",
    "half a character": "\ud800",
    "300 characters": "x" * 300,
    "a file": "file",
    "below a file": "file/below",
    "a loop": "loop",
}


@pytest.mark.parametrize("root", list(ROOTS))
@pytest.mark.parametrize("command", ["runs", "info", "show", "demo"])
def test_a_root_that_cannot_be_is_refused_before_work(
    root: str, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    args = [command, *(["x"] if command == "show" else []), "--root", ROOTS[root]]
    assert run(args) == 2
    error = capfd.readouterr().err
    assert "error: " in error
    assert "fix: " in error
    assert "Traceback" not in error


COMMANDS = [
    ["runs"],
    ["info"],
    ["show", "x"],
    ["sites", "pylm"],
    ["study", "study.toml"],
    ["demo"],
    ["diagnose", "pylm", "--site", "blocks.0.resid_post"],
]


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: args[0])
def test_a_current_directory_that_is_gone_is_said_to_be(
    args: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("PWD", str(gone))
    gone.rmdir()
    assert run(args) == 2
    error = capfd.readouterr().err
    assert "error: the current directory is gone" in error
    assert f"where: {gone}" in error
    assert "fix: " in error
    assert run(["--help"]) == 0


@pytest.mark.parametrize("damage", ["run.json", "report.json", "both"])
def test_one_damaged_run_hides_no_other(runs: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = runs.glob("one-*")
    if damage in ("run.json", "both"):
        (folder / "run.json").write_text("{")
    if damage in ("report.json", "both"):
        path = folder / "artifacts" / "report.json"
        path.write_text(path.read_text().replace("0.", "1.", 1))
    assert run(["runs", "--root", str(runs)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "damaged" in said
    assert "complete" in said
    assert run(["show", "two", "--root", str(runs)]) == 0
    assert "the study two" in capsys.readouterr().out
    status = run(["show", "one", "--root", str(runs)])
    said, error = capsys.readouterr()
    if damage == "run.json":
        assert status == 0
        assert "the study one" in said
    else:
        assert status == 2
        assert "checksum" in error
        assert "run the study again" in error


def test_a_moved_run_is_shown_from_wherever_it_lies(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = runs.glob("one-*")
    moved = tmp_path / "my papers" / "best [x]"
    moved.parent.mkdir()
    folder.rename(moved)
    shutil.copy(moved / "artifacts" / "report.json", tmp_path / "alone.json")
    monkeypatch.chdir(tmp_path)
    for path in (moved, moved / "artifacts", moved / "artifacts" / "report.json", "alone.json", "my papers/best [x]"):
        assert run(["show", str(path), "--root", str(runs)]) == 0, path
        assert "the study one" in capsys.readouterr().out
    shutil.move(moved, runs / "renamed")
    monkeypatch.setenv("COLUMNS", "250")
    assert run(["runs", "--root", str(runs)]) == 0
    assert f"{folder.name}(inrenamed)" in "".join(capsys.readouterr().out.split())
    for name in (folder.name, "one", "renamed"):
        assert run(["show", name, "--root", str(runs)]) == 0
    capsys.readouterr()
    for path in ("/no/such/folder", str(tmp_path), str(tmp_path / "file\0")):
        assert run(["show", path, "--root", str(runs)]) == 2
        assert "fix:" in capsys.readouterr().err


def test_a_page_that_changed_is_said_to_have(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = runs.glob("one-*")
    (folder / "artifacts" / "report.html").write_text("<html>other")
    assert run(["show", "one", "--root", str(runs)]) == 0
    assert "report.html" in capsys.readouterr().out.split("Changed or missing")[1]


@pytest.mark.parametrize("kind", ["read-only root", "unreadable run.json", "unreadable study", "unreadable runs"])
def test_what_may_not_be_read_or_written_is_one_sentence(
    kind: str, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(tempfile.gettempdir())
    for folder in (
        tmp_path,
        *(parent for parent in tmp_path.parents if parent.is_relative_to(base) and parent != base),
    ):
        folder.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    args, expected = ["runs", "--root", str(runs)], 0
    if kind == "read-only root":
        runs.chmod(0o555)
        args, expected = ["demo", "--root", str(runs)], 2
    elif kind == "unreadable run.json":
        next(runs.glob("one-*/run.json")).chmod(0)
    elif kind == "unreadable study":
        (tmp_path / "study.toml").write_text("")
        (tmp_path / "study.toml").chmod(0)
        args, expected = ["study", str(tmp_path / "study.toml")], 2
    else:
        runs.chmod(0)
        expected = 2
    assert as_nobody(lambda: run(args)) == expected
    said, error = capfd.readouterr()
    runs.chmod(0o755)
    assert "Traceback" not in error
    if expected:
        assert "error: " in error
        assert "fix: " in error
    else:
        assert "damaged" in said
        assert "complete" in said


@pytest.mark.parametrize("out", ["folder", "file/below.json", "a\0b", "x" * 300])
def test_where_a_result_cannot_go_is_said_before_it_is_worked_out(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")

    def worked(*_: object, **__: object) -> None:
        raise AssertionError("worked before looking")

    monkeypatch.setattr(calibration, "calibrate", worked)
    monkeypatch.setattr("polyseme.zoo.running.run_experiment", worked)
    monkeypatch.setattr("polyseme.zoo.superposition.toy.SuperpositionToy.train", worked)
    commands = [
        ["calibrate", "--out", out],
        ["zoo", "check", "superposition", "--table", out],
        ["zoo", "figures", "superposition", "--out", out + ".svg" if out == "a\0b" or len(out) > 99 else out],
    ]
    if out != "folder":
        commands.append(["zoo", "train", "superposition", "--out", out])
        commands.append(["diagnose", "toy:superposition", "--site", "hidden", "--out", out])
    for command in commands:
        assert run(command) == 2, command
        error = capsys.readouterr().err
        assert "error: " in error
        assert "fix: " in error


def test_a_result_replaces_a_link_and_leaves_what_it_led_to(tmp_path: Path) -> None:
    from polyseme.store import save_json

    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out.json").symlink_to(tmp_path / "victim")
    save_json(tmp_path / "out.json", 1)
    assert (tmp_path / "victim").read_text() == "precious"
    assert json.loads((tmp_path / "out.json").read_text()) == 1


def test_the_id_of_a_run_is_not_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = Run.open(tmp_path, "a-rather-long-name-of-a-run", {"a": 1})
    assert run(["runs", "--root", str(tmp_path)]) == 0
    assert made.id in capsys.readouterr().out
