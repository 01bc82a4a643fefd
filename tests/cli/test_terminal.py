"""What strangers wrote never reaches the terminal as anything but text, whoever prints it."""

import io
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyseme.cli.main import DEBUG, run
from polyseme.core.text import printable
from polyseme.screen.console import make_console
from polyseme.screen.progress import BarReporter
from polyseme.screen.streams import CleanStream, clean_streams

HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\x08\u202eevil\x00"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    "args",
    [
        [HOSTILE],
        ["study", HOSTILE.replace("\x00", "")],
        ["demo", f"--{HOSTILE}"],
        ["demo", f"--dictionary.{HOSTILE}", "3"],
        ["demo", "--dictionary.n-latents", HOSTILE],
        ["show", HOSTILE],
        ["show", "\udcff"],
        ["runs", "--root", HOSTILE.replace("\x00", "")],
        ["runs", f"--{HOSTILE}"],
        ["sites", "pylm", f"--{HOSTILE}"],
        ["zoo", "check", HOSTILE],
        ["diagnose", "toy:" + HOSTILE],
        ["calibrate", f"--{HOSTILE}"],
    ],
)
def test_names_and_flags_are_shown_and_never_sent(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    said = capsys.readouterr()
    assert said.err
    assert not RAW.search(said.out + said.err)


def test_what_libraries_print_log_and_warn_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with clean_streams():
        handler = logging.StreamHandler()
        handler.emit(logging.LogRecord("x", 30, "", 0, f"weights not used: {HOSTILE}", None, None))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # pytest records warnings instead of printing them: this is how Python itself does it.
            sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "a", 1))
        print(HOSTILE)
        assert not sys.stdout.isatty()
    assert sys.stdout is out
    assert sys.stderr is err
    for said in (out.getvalue(), err.getvalue()):
        assert "␛[31mred" in said
        assert not RAW.search(said)


def _recurse() -> int:
    return _recurse()


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("broken", [lambda _: int(f"tensor {HOSTILE}"), lambda _: _recurse(), lambda _: {}["x"]])
def test_what_nobody_foresaw_is_one_sentence_and_its_traceback_is_kept(
    broken: Callable[[list[str]], int],
    debug: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if debug:
        monkeypatch.setenv(DEBUG, "1")
    monkeypatch.setattr("polyseme.cli.runs.runs", broken)
    assert run(["runs"]) == 1
    said = capsys.readouterr().err
    assert "error: polyseme failed in a way nobody foresaw (" in said
    assert "this is a bug in polyseme" in said
    assert ("Traceback" in said) == debug
    assert not RAW.search(said)
    if not debug:
        (kept,) = tmp_path.iterdir()
        assert "Traceback (most recent call last)" in kept.read_text()
        assert str(kept) in said
        assert len(said.splitlines()) == 3


@pytest.mark.parametrize("redirect", ["| true", ">&-", "2>&-", ">/dev/full"])
def test_a_reader_that_is_gone_a_closed_stream_and_a_full_disk_end_quietly(redirect: str) -> None:
    command = f'"{sys.executable}" -m polyseme --help'
    done = subprocess.run(["sh", "-c", f"{command} {redirect}"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr == "" or done.stderr.startswith("error: the disk is full\n")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/some/place"), ("/some/place", "permissions")),
        (FileNotFoundError(2, "No such file or directory", f"/{HOSTILE}"), ("no such file", "correct")),
        (OSError(5, "Input/output error", "/disk"), ("Input/output error", "finished work is kept")),
        (MemoryError(), ("not enough memory", "smaller")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ("not enough memory", "smaller")),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    error: Exception, says: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: list[str]) -> int:
        raise error

    monkeypatch.setattr("polyseme.cli.runs.runs", broken)
    assert run(["runs"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert not RAW.search(said)
    for part in says:
        assert part in said


def test_a_console_of_ours_cleans_strings_texts_and_tables_and_colours_them() -> None:
    console = make_console()
    console.file = file = io.StringIO()
    console._force_terminal = True
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE, style="red"))
    console.print(HOSTILE, Text(HOSTILE, style="bold"), table)
    said = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert "␛[31mred" in said
    assert not RAW.search(said)


def test_prints_beside_a_live_bar_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", file)
    console = make_console(stderr=True)
    console._force_terminal = True
    reporter = BarReporter(console)
    task = reporter.task("training", 10)
    print("\x1b]8;;http://evil.example\x1b\\link\x1b[35mred", file=sys.stderr)
    task.update(10)
    reporter.close()
    said = file.getvalue()
    assert "link" in said
    assert "]8;;" not in said.replace("␛]8;;", "")
    assert "\x1b[35m" not in said
    assert sys.stderr is file


def test_a_task_from_before_the_bars_were_taken_away_moves_no_bar_of_a_later_one() -> None:
    file = io.StringIO()
    reporter = BarReporter(Console(file=file, force_terminal=True, width=80, color_system=None))
    early = reporter.task("early", 10)
    reporter.close()
    late = reporter.task("late", 10)
    early.update(7)
    assert reporter._live is not None
    assert [task.completed for task in reporter._live.tasks] == [0]
    early.update(10)
    late.update(3)
    assert [task.completed for task in reporter._live.tasks] == [3]
    reporter.close()
    assert "✓ early" in file.getvalue()


def test_a_long_name_is_cut_and_its_figures_are_not() -> None:
    reporter = BarReporter(Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None))
    task = reporter.task("training " + "x" * 100, 10_000_000, "tokens")
    task.clock = lambda: task.start + 4.0
    task.update(0)
    task.update(2_000_000)
    assert reporter._live is not None
    plain = Console(file=io.StringIO(), width=80)
    with plain.capture() as shown:
        plain.print(reporter._live.get_renderable())
    reporter.close()
    (line,) = shown.get().splitlines()
    assert re.match(r"training x+… ━.* 2\.00M of 10\.0M tokens 500k/s 16 s left", line)
    assert len(line) <= 80


def test_printable_keeps_lines_and_tabs_and_what_the_encoding_has_no_sign_for() -> None:
    assert printable("a\tb\r\nc\rd\n") == "a\tb\nc\nd\n"
    assert printable("é\x1b", "ascii") == "\\xe9\\u241b"
    assert CleanStream(io.StringIO()).encoding == "utf-8"
