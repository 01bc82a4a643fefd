"""Signals between steps only, so that what is saved on the way out is the state of a whole number of steps."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, final

_ECHO_SECONDS = 0.2
"""A signal that is repeated sooner is one request: `timeout` signals its child, and then the child's process group."""

_PROFILERS = {getattr(signal, name) for name in ("SIGPROF", "SIGVTALRM") if hasattr(signal, name)}
"""They sample what runs, and would see nothing of a step."""


@final
class Signals:
    """Within it, a signal with a handler in Python can be held back until a step is whole.

    Which signals those are is not listed: it is every one whose handler, whoever installed it, is a Python function and
    so may raise: SIGINT, a SIGTERM that the command line turns into an interrupt, a scheduler's SIGUSR1 or SIGALRM.
    Outside the main thread, which alone runs handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._holding = self._leaving = False
        self._held: dict[int, FrameType | None] = {}
        self._at: dict[int, float] = {}
        self._mine = self._arrived  # one object: each access makes a new bound method

    def __enter__(self) -> "Signals":
        if threading.current_thread() is not threading.main_thread():
            return self
        try:
            for number in signal.valid_signals() - _PROFILERS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._mine)
        except BaseException:  # a signal came meanwhile, and its handler raised
            self._restore()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is self._mine:
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold signals back until the block ends; one that is repeated a moment later gets through at once, so that a
        step that never ends can be left."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            while self._held:
                number = next(iter(self._held))
                self._handlers[number](number, self._held.pop(number))

    @contextmanager
    def leaving(self) -> Generator[None]:
        """The echo of a signal that was answered by leaving does not interrupt what is done on the way out."""
        self._leaving = True
        try:
            yield
        finally:
            self._leaving = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        is_echo = now - self._at.get(number, -math.inf) < _ECHO_SECONDS
        self._at[number] = now
        if self._holding and (number not in self._held or is_echo):
            self._held.setdefault(number, frame)
        elif not (self._leaving and is_echo):
            self._held.pop(number, None)
            self._handlers[number](number, frame)
