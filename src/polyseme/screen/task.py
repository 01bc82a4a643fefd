"""A task as every reporter keeps it: how far it is, how fast it gets on, and how that is said."""

from collections.abc import Callable
from dataclasses import dataclass

from polyseme.core.numbers import duration, short
from polyseme.core.text import visible


@dataclass(eq=False)
class Task:
    """One task of a reporter.

    Attributes:
        move, finish: of the reporter: called after every update before the end, and at the end.
        name, unit, note: cleaned, for they may hold what a user or a corpus wrote.
        done, total: units.
        clock: seconds, rising.
    """

    move: Callable[["Task"], None]
    finish: Callable[["Task"], None]
    name: str
    total: float
    unit: str
    clock: Callable[[], float]
    done: float = 0.0
    note: str = ""
    ended: bool = False

    def __post_init__(self) -> None:
        self.name, self.unit = visible(self.name), visible(self.unit)
        self.start = self.said = self.clock()
        self._first: float | None = None

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        if self.ended:
            return
        self.total, self.done, self.note = self.total if total is None else total, done, visible(note)
        if self._first is None:
            self._first = done  # what an earlier run had done says nothing about this one's speed
        self.ended = done >= self.total
        (self.finish if self.ended else self.move)(self)

    @property
    def took(self) -> str:
        """How long it has been at work."""
        return duration(self.clock() - self.start)

    @property
    def amount(self) -> str:
        """`3 of 10 tokens`; empty where there is no amount."""
        return f"{short(self.done)} of {short(self.total)} {self.unit}".rstrip() if self.total else ""

    def pace(self) -> tuple[str, str]:
        """`12/s` and `20 s left`; empty where that is not known."""
        seconds, done = self.clock() - self.start, self.done - (self._first or 0.0)
        if seconds <= 0 or done <= 0 or not self.total:
            return "", ""
        return f"{short(done / seconds, 2)}/s", f"{duration((self.total - self.done) * seconds / done)} left"

    def noted(self, line: str) -> str:
        """A line with the note after it."""
        return f"{line}; {self.note}" if self.note else line
