"""How far the work is: bars on a terminal and in a notebook, a plain line every few seconds anywhere else."""

import atexit
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID
from rich.progress import Progress as RichProgress
from rich.text import Text

from polyseme.core.numbers import duration, short
from polyseme.core.progress import Progress, Reporter, Silent
from polyseme.core.text import visible
from polyseme.screen.console import make_console
from polyseme.screen.notebook import NotebookReporter, in_notebook
from polyseme.screen.streams import wrap_streams

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
        self._open: list[_LineTask] = []
        self._said = clock()
        self._closed = threading.Event()

    def task(self, name: str, total: float, unit: str = "") -> Progress:
        self.message(f"{name} ({short(total)} {unit})" if total else name)
        task = _LineTask(self.message, self._clock, name, total, unit)
        self._open.append(task)
        return task

    def message(self, text: str) -> None:
        self._said = self._clock()
        self._console.print(Text(_clean(text)), soft_wrap=True)

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
            self.message(self._open[-1].standing())

    def close(self) -> None:
        self._closed.set()


class _LineTask:
    def __init__(self, say: Callable[[str], None], clock: Callable[[], float], name: str, total: float, unit: str):
        self._say, self._clock, self._name, self._total, self._unit = say, clock, name, total, unit
        self._start = self._last = clock()
        self._first: float | None = None
        self._done = 0.0
        self.ended = False

    def standing(self) -> str:
        """Since when it is at work, and how much of it is done."""
        amount = f", {short(self._done)} of {short(self._total)} {self._unit}".rstrip() if self._total else ""
        return f"{self._name}: at work for {duration(self._clock() - self._start)}{amount}"

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._total = self._total if total is None else total
        self._done = done
        if self._first is None:
            self._first = done  # what an earlier run had done says nothing about this one's speed
        now = self._clock()
        ends = done >= self._total
        if self.ended or (now - self._last < EVERY and not ends):
            return
        self._last, self.ended = now, ends
        seconds = now - self._start
        if ends:
            self._say(_joined(f"{self._name}: done in {duration(seconds)}", note))
            return
        rate = (done - self._first) / seconds if seconds > 0 else 0.0
        parts = [f"{short(done)} of {short(self._total)} {self._unit}".rstrip()]
        if rate > 0:
            parts += [f"{short(rate, 2)}/s", f"{duration((self._total - done) / rate)} left"]
        self._say(_joined(f"{self._name}: {done / self._total:.0%} ({', '.join(parts)})", note))


class BarReporter:
    """One live bar for each running task; a finished task leaves one line behind.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console):
        self._console = console
        self._live: RichProgress | None = None
        self._wide = console.width >= 110
        atexit.register(self.close)

    def task(self, name: str, total: float, unit: str = "") -> Progress:
        if self._live is None:
            columns = [_Name(), BarColumn(18 if self._wide else 12), _Amount(), _Left()]
            self._live = RichProgress(*columns, console=self._console, transient=True, refresh_per_second=5)
            self._live.start()
            wrap_streams()  # the live display put its own in their place, which would pass escapes on
        return _BarTask(self, self._live.add_task(_clean(name), total=total or None, unit=unit, note=""), name, total)

    def message(self, text: str) -> None:
        self._console.print(Text(_clean(text)), soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, task: TaskID, done: float, total: float, note: str) -> None:
        """Move a task's bar."""
        if self._live is not None and task in self._live.task_ids:
            self._live.update(task, completed=done, total=total or None, note=_clean(note) if self._wide else "")

    def finish(self, task: TaskID, line: str) -> None:
        """Take a task's bar away and leave a line; the last one takes the live display with it."""
        if self._live is not None and task in self._live.task_ids:
            self._live.remove_task(task)
            if not self._live.task_ids:
                self.close()
        self.message(line)


class _BarTask:
    def __init__(self, owner: BarReporter, task: TaskID, name: str, total: float):
        self._owner, self._task, self._name, self._total = owner, task, name, total
        self._start = time.monotonic()
        self._ended = False

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        if self._ended:
            return
        self._total = self._total if total is None else total
        self._owner.update(self._task, done, self._total, note)
        if done >= self._total:
            self._ended = True
            seconds = time.monotonic() - self._start
            self._owner.finish(self._task, _joined(f"✓ {self._name} in {duration(seconds)}", note))


class _Name(ProgressColumn):
    def render(self, task: Task) -> Text:
        note = task.fields["note"]
        return Text(f"{task.description}  {note}" if note else task.description, overflow="ellipsis", no_wrap=True)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(short(task.completed))
        return Text(f"{short(task.completed)}/{short(task.total)} {task.fields['unit']}".rstrip(), style="dim")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed or task.total is None:
            return Text("")
        return Text(f"{short(speed, 2)}/s {duration((task.total - task.completed) / speed)} left")


def _joined(line: str, note: str) -> str:
    return f"{line}; {note}" if note else line


def _clean(text: str) -> str:
    """One line without control characters: names may hold what a user or a corpus wrote."""
    return visible(text)
