"""How far the work is: bars on a terminal and in a notebook, a plain line every few seconds anywhere else."""

import atexit
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from polyseme.core.numbers import short
from polyseme.core.progress import Reporter, Silent
from polyseme.core.text import visible
from polyseme.screen.console import make_console
from polyseme.screen.notebook import NotebookReporter, in_notebook
from polyseme.screen.streams import wrap_streams
from polyseme.screen.task import Task

EVERY = 5.0
"""Seconds between two plain lines of one task."""
SILENCE = 20.0
"""Seconds without a plain line after which the task at work says that it is."""


class ClosableReporter(Reporter, Protocol):
    """A reporter that can be closed when nothing more comes, and leaves the terminal as it found it."""

    def close(self) -> None:
        """Take the bars away; a later task brings them back."""
        ...


def make_reporter(console: Console | None = None) -> ClosableReporter:
    """Bars where the console is a terminal that can move its cursor, plain lines elsewhere; both on standard error."""
    console = console or make_console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        return BarReporter(console)
    reporter = LineReporter(console)
    reporter.watch()
    return reporter


@contextmanager
def reporting(reporter: Reporter | None) -> Generator[Reporter, None, None]:
    """The reporter that was given, or the default one, which takes its bars away when the block ends."""
    if reporter is not None:
        yield reporter
        return
    made = default_reporter()
    try:
        yield made
    finally:
        made.close()


def default_reporter() -> ClosableReporter:
    """Bars in a notebook or on a terminal; silent elsewhere, where `make_reporter` would write plain lines."""
    if in_notebook():
        return NotebookReporter()
    return make_reporter() if sys.stderr is not None and sys.stderr.isatty() else Silent()


class LineReporter:
    """Plain lines: one when a task starts, one at most every `EVERY` seconds, one when it ends.

    A single step may take minutes and has no amount to show: `watch` says after `SILENCE` seconds that it is at work.

    Args:
        console: where to write.
        clock: seconds, rising.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self._console, self._clock = console, clock
        self._open: list[Task] = []
        self._said = clock()
        self._closed = threading.Event()

    def task(self, name: str, total: float, unit: str = "") -> Task:
        task = Task(self._move, self._finish, name, total, unit, self._clock)
        self.message(f"{name} ({short(total)} {unit})" if total else name)
        self._open.append(task)
        return task

    def _move(self, task: Task) -> None:
        now = self._clock()
        if now - task.said >= EVERY:
            task.said = now
            figures = ", ".join(filter(None, (task.amount, *task.pace())))
            self.message(task.noted(f"{task.name}: {task.done / task.total:.0%} ({figures})"))

    def _finish(self, task: Task) -> None:
        self.message(task.noted(f"{task.name}: done in {task.took}"))

    def message(self, text: str) -> None:
        self._said = self._clock()
        self._console.print(Text(visible(text)), soft_wrap=True)

    def watch(self) -> None:
        """Look now and then, in a thread that ends with the program, whether a task has been silent for long."""

        def look() -> None:
            while not self._closed.wait(SILENCE / 4):
                self.break_silence()

        threading.Thread(target=look, name="progress", daemon=True).start()

    def break_silence(self) -> None:
        """Print what the newest unfinished task is doing, where nothing has been printed for `SILENCE` seconds."""
        self._open = [task for task in self._open if not task.ended]
        if self._open and self._clock() - self._said >= SILENCE:
            task = self._open[-1]
            amount = f", {task.amount}" if task.amount else ""
            self.message(f"{task.name}: at work for {task.took}{amount}")

    def close(self) -> None:
        self._closed.set()


class BarReporter:
    """One live bar for each running task; a finished task leaves one line behind.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console):
        self._console = console
        self._live: RichProgress | None = None
        self._bars: dict[Task, TaskID] = {}
        self._wide = console.width >= 110
        atexit.register(self.close)

    def task(self, name: str, total: float, unit: str = "") -> Task:
        task = Task(self._move, self._finish, name, total, unit, time.monotonic)
        if self._live is None:
            rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # of the width, beside figures that are not cut
            columns = [
                TextColumn("{task.description}", markup=False, table_column=rest),
                BarColumn(18 if self._wide else 12),
                TextColumn("{task.fields[amount]}", style="dim", markup=False),
                TextColumn("{task.fields[pace]}", markup=False),
            ]
            self._live = RichProgress(
                *columns, console=self._console, transient=True, refresh_per_second=5, expand=True
            )
            self._live.start()
            wrap_streams()  # the live display put its own in their place, which would pass escapes on
        self._bars[task] = self._live.add_task(task.name, total=total or None, amount=task.amount, pace="")
        return task

    def message(self, text: str) -> None:
        self._console.print(Text(visible(text)), soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._bars.clear()

    def _move(self, task: Task) -> None:
        if self._live is not None and task in self._bars:
            self._live.update(
                self._bars[task],
                completed=task.done,
                total=task.total or None,
                description="  ".join(filter(None, (task.name, task.note if self._wide else ""))),
                amount=task.amount,
                pace=" ".join(task.pace()),
            )

    def _finish(self, task: Task) -> None:
        """Take the task's bar away and leave a line; the last one takes the live display with it."""
        if self._live is not None and task in self._bars:
            self._live.remove_task(self._bars.pop(task))
            if not self._bars:
                self.close()
        self.message(task.noted(f"✓ {task.name} in {task.took}"))
