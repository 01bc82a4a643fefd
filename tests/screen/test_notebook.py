"""Progress in a notebook: one display that is updated, hostile names as text, and a last state that is the true one."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from polyseme.core.progress import Silent
from polyseme.screen.notebook import EVERY, SHOWN, NotebookReporter, in_notebook
from polyseme.screen.progress import BarReporter, default_reporter, reporting


class Cell:
    """The output of a cell: what was displayed, and what it was updated to."""

    def __init__(self) -> None:
        self.displayed, self.states = 0, []

    def display(self, shown: Any, *, display_id: bool) -> "Cell":
        assert display_id
        self.displayed += 1
        self.states.append(shown)
        return self

    def update(self, shown: Any) -> None:
        self.states.append(shown)

    @property
    def html(self) -> str:
        return self.states[-1]._repr_html_()


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """IPython as a notebook's kernel has it."""
    cell = Cell()
    shell = SimpleNamespace(kernel=object())
    fake = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=cell.display))
    monkeypatch.setitem(sys.modules, "IPython", fake)  # pyright: ignore[reportArgumentType]
    return cell


def test_one_display_is_updated_no_oftener_than_it_should_be(notebook: Cell):
    now = [0.0]
    reporter = NotebookReporter(clock=lambda: now[0])
    task = reporter.task("train", 100, "steps")
    for i in range(100):
        now[0] += EVERY / 10
        task.update(i)
    assert notebook.displayed == 1
    assert len(notebook.states) <= 1 + 11
    assert 'value="0.9' in notebook.html
    assert "of 100 steps · 0." in notebook.html
    task.update(100, note="loss 0.12")
    assert "<progress" not in notebook.html
    assert "✓ train in 2.5 s; loss 0.12" in notebook.html
    assert repr(notebook.states[-1]) == "✓ train in 2.5 s; loss 0.12"


def test_what_a_stranger_wrote_is_text(notebook: Cell):
    evil = "<img src=x onerror=alert(1)>\x1b[2J\u202e"
    reporter = NotebookReporter(clock=iter(float(i) for i in range(100)).__next__)
    reporter.message(evil)
    reporter.task(evil, 10, evil).update(5, note=evil)
    assert notebook.html.count("&lt;img src=x onerror=alert(1)&gt;␛[2J⟨U+202E⟩") == 4
    assert "<img" not in notebook.html
    assert "\x1b" not in notebook.html


def test_earlier_lines_fold_away_and_are_all_there(notebook: Cell):
    reporter = NotebookReporter()
    for i in range(SHOWN + 3):
        reporter.message(f"line {i}.")
    assert "<summary>3 earlier lines</summary>" in notebook.html
    assert all(f"line {i}." in notebook.html for i in range(SHOWN + 3))


def test_a_task_without_an_amount_has_a_bar_that_only_moves(notebook: Cell):
    NotebookReporter().task("prepare", 0)
    assert "<progress max=" in notebook.html
    assert "value=" not in notebook.html


def test_what_comes_after_the_end_is_shown_in_a_display_of_its_own(notebook: Cell):
    with reporting(None) as reporter:
        reporter.message("first")
    reporter.message("second")
    assert notebook.displayed == 2
    assert "first" not in notebook.html


def test_what_failed_leaves_no_bar_behind(notebook: Cell):
    kept = []

    def work() -> None:
        with reporting(None) as reporter:
            kept.append(reporter.task("train", 10))
            kept[0].update(3)
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        work()
    assert "<progress" not in notebook.html
    kept[0].update(10)  # of a thread that has not heard of it
    assert "✓ train" in notebook.html


def test_the_default_is_bars_where_someone_looks(monkeypatch: pytest.MonkeyPatch, notebook: Cell):
    assert in_notebook()
    assert isinstance(default_reporter(), NotebookReporter)
    monkeypatch.delitem(sys.modules, "IPython")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(default_reporter(), BarReporter)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert isinstance(default_reporter(), Silent)
    with reporting(given := Silent()) as used:
        assert used is given
