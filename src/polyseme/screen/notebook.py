"""Progress in a notebook: one display that is updated in place, without widgets."""

import sys
import time
from collections.abc import Callable
from html import escape
from typing import Any

from polyseme.core.text import visible
from polyseme.screen.task import Task

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
        self._running: list[Task] = []
        self._drawn = -EVERY

    def task(self, name: str, total: float, unit: str = "") -> Task:
        task = Task(lambda _: self._draw(), self._finish, name, total, unit, self._clock)
        self._running.append(task)
        self._draw()
        return task

    def message(self, text: str) -> None:
        self._lines.append(visible(text))
        self._draw()

    def close(self) -> None:
        """Take the bars of unfinished tasks away; what comes later is shown under the cell that runs then."""
        if self._running:
            self._running.clear()
            self._draw()
        self._handle, self._lines = None, []

    def _finish(self, task: Task) -> None:
        """Put a line in the place of a task's bar."""
        if task in self._running:
            self._running.remove(task)
        self.message(task.noted(f"✓ {task.name} in {task.took}"))

    def _draw(self) -> None:
        """Show how things stand, at most every `EVERY` seconds; at once when nothing runs, for nothing may follow."""
        now = self._clock()
        if self._running and now - self._drawn < EVERY:
            return
        self._drawn = now
        shown = Shown(self._html(), "\n".join([*self._lines[-SHOWN:], *(t.name for t in self._running)]))
        if self._handle is None:
            self._handle = self._display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def _html(self) -> str:
        earlier, latest = self._lines[:-SHOWN], self._lines[-SHOWN:]
        parts = ['<div style="font:12px/1.5 ui-monospace,monospace;overflow-wrap:anywhere">']
        if earlier:
            parts.append(f"<details><summary>{len(earlier)} earlier lines</summary>{_lines(earlier)}</details>")
        parts += [_lines(latest), *map(_bar, self._running), "</div>"]
        return "".join(parts)


def _bar(task: Task) -> str:
    figures = escape(" · ".join(filter(None, (task.amount, task.pace()[1], task.note))))
    value = f' value="{min(max(task.done / task.total, 0.0), 1.0):.4f}"' if task.total else ""
    bar = f'<progress max="1"{value} style="width:12em;vertical-align:middle"></progress>'
    return f"<div>{bar} {escape(task.name)} <span style='opacity:.7'>{figures}</span></div>"


def _lines(lines: list[str]) -> str:
    return "".join(f"<div>{escape(line)}</div>" for line in lines)
