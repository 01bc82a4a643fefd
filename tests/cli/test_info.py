"""`polyseme info`: plain lines on a pipe, a table on a terminal, JSON where that is asked for."""

import importlib.metadata
import json
import platform
from pathlib import Path

import pytest
import torch

from polyseme.cli import info as module
from polyseme.cli.main import run
from polyseme.kernels import library
from polyseme.store import Run


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert run(["info", *args]) == 0
    return capsys.readouterr().out


def test_it_says_what_this_installation_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run.open(tmp_path, "demo", {}).working():
        pass
    found = json.loads(asked(capsys, "--json", "--root", str(tmp_path)))
    for package in ("polyseme", "torch", "transformers", "filelock"):
        assert found["versions"][package] == importlib.metadata.version(package)
    assert found["versions"]["python"] == platform.python_version()
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["torch"]["devices"][0] == "cpu"
    assert found["runs"] == {"root": str(tmp_path), "exists": True, "n_runs": 1} | {
        "free_bytes": found["runs"]["free_bytes"]
    }
    assert found["runs"]["free_bytes"] > 0


def test_plain_lines_on_a_pipe_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "none yet"
    found = json.loads(asked(capsys, "--json", "--root", str(root)))
    assert not root.exists()
    lines = dict(line.split(" ", 1) for line in asked(capsys, "--root", str(root)).splitlines())
    assert set(lines) == {f"{section}.{name}" for section, values in found.items() for name in values}
    assert lines["versions.torch"] == found["versions"]["torch"]
    assert lines["runs.exists"] == "no"
    assert lines["runs.root"] == str(root)
    assert not any("\x1b" in line for line in lines.values())


def test_a_table_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    out = asked(capsys, "--root", str(tmp_path))
    assert "\x1b[1m" in out  # names are bold
    assert "torch.threads" in out


@pytest.mark.parametrize("case", ["not built", "broken", "no pool", "in use"])
def test_why_no_loops_are_in_use(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "_kernels_base.so"
    if case != "not built":
        place.write_text("")
    monkeypatch.setattr(library, "library", lambda level: place)
    monkeypatch.setattr(library, "loaded", lambda: None if case == "broken" else object())
    monkeypatch.setattr(library, "_fork", lambda: None if case == "no pool" else 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    loops = module.gathered(tmp_path)["loops"]
    why = {"not built": "not built", "broken": "does not load", "no pool": "pool of torch's 4 threads", "in use": None}
    assert (loops["compiled"] is None) == (case != "in use")
    assert (why[case] is None and loops["why_not"] is None) or why[case] in loops["why_not"]
    if case == "no pool":  # which one thread does not need
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        assert module.gathered(tmp_path)["loops"]["compiled"] is not None


def test_the_loops_in_use_are_those_that_compute(tmp_path: Path) -> None:
    loops = module.gathered(tmp_path)["loops"]
    assert (loops["compiled"] is not None) == library.usable(torch.ones(1))
    assert (loops["compiled"] is None) != (loops["why_not"] is None)
