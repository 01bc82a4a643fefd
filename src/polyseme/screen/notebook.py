"""Progress in a notebook: one display that is updated in place, without widgets."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

from polyseme.core.numbers import duration, short
from polyseme.core.text import visible

EVERY = 0.25
"""Seconds between two updates of the display while tasks run."""
SHOWN = 4
"""Lines of what is done that stay in view; the others open with a click."""


class Shown:
    """HTML that a notebook shows; as plain text where it cannot."""

    def __init__(self, html: str, text: str):
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class NotebookReporter:
    """A bar for each running task under the lines of what is done.

    Args:
        display: IPython's `display`, which returns a handle with `update` when it is given `display_id=True`.
        clock: seconds, rising.
    """

    def __init__(self, display: Callable[..., Any] | None = None, clock: Callable[[], float] = time.monotonic):
        self._display, self._clock = display or sys.modules["IPython"].display.display, clock
        self._handle: Any = None
        self._lines: list[str] = []
        self._running: list[_Task] = []
        self._drawn = -EVERY

    def task(self, name: str, total: float, unit: str = "") -> "_Task":
        task = _Task(self, visible(name), total, visible(unit), self._clock())
        self._running.append(task)
        self.draw()
        return task

    def message(self, text: str) -> None:
        self._lines.append(visible(text))
        self.draw()

    def close(self) -> None:
        """Take the bars of unfinished tasks away; what comes later is shown under the cell that runs then."""
        if self._running:
            self._running.clear()
            self.draw()
        self._handle, self._lines = None, []

    def finish(self, task: "_Task") -> None:
        """Put a line in the place of a task's bar."""
        if task in self._running:
            self._running.remove(task)
        note = f"; {task.note}" if task.note else ""
        self.message(f"✓ {task.name} in {duration(self._clock() - task.start)}{note}")

    def draw(self) -> None:
        """Show how things stand, at most every `EVERY` seconds; at once when nothing runs, for nothing may follow."""
        now = self._clock()
        if self._running and now - self._drawn < EVERY:
            return
        self._drawn = now
        shown = Shown(self._html(now), "\n".join([*self._lines[-SHOWN:], *(t.name for t in self._running)]))
        if self._handle is None:
            self._handle = self._display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def _html(self, now: float) -> str:
        earlier, latest = self._lines[:-SHOWN], self._lines[-SHOWN:]
        parts = ['<div style="font:12px/1.5 ui-monospace,monospace;overflow-wrap:anywhere">']
        if earlier:
            parts.append(f"<details><summary>{len(earlier)} earlier lines</summary>{_lines(earlier)}</details>")
        parts += [_lines(latest), *(task.html(now) for task in self._running), "</div>"]
        return "".join(parts)


@dataclass(eq=False)
class _Task:
    owner: NotebookReporter
    name: str
    total: float
    unit: str
    start: float
    done: float = 0.0
    first: float | None = field(default=None)
    note: str = ""
    ended: bool = False

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        if self.ended:
            return
        self.total, self.done, self.note = self.total if total is None else total, done, visible(note)
        if self.first is None:
            self.first = done  # what an earlier run had done says nothing about this one's speed
        if done >= self.total:
            self.ended = True
            self.owner.finish(self)
        else:
            self.owner.draw()

    def html(self, now: float) -> str:
        amount = f"{short(self.done)} of {short(self.total)} {self.unit}".rstrip() if self.total else ""
        rate = (self.done - (self.first or 0.0)) / max(now - self.start, 1e-9)
        left = f"{duration((self.total - self.done) / rate)} left" if self.total and rate > 0 else ""
        told = escape(" · ".join(filter(None, (amount, left, self.note))))
        value = f' value="{min(max(self.done / self.total, 0.0), 1.0):.4f}"' if self.total else ""
        bar = f'<progress max="1"{value} style="width:12em;vertical-align:middle"></progress>'
        return f"<div>{bar} {escape(self.name)} <span style='opacity:.7'>{told}</span></div>"


def _lines(lines: list[str]) -> str:
    return "".join(f"<div>{escape(line)}</div>" for line in lines)
