"""The edge to the terminal: whatever a command or a library prints, no stranger's control character gets through."""

import io
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from polyseme.core.text import printable


class CleanStream(io.TextIOBase):
    """A text stream that passes on what is written to it through `printable`.

    It is no terminal to those who ask, so that libraries send it no colours of their own. Consoles of ours, which clean
    the text and colour it afterwards, write to `behind`.
    """

    def __init__(self, behind: Any):
        self.behind = behind

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  an attribute of TextIOBase
        return getattr(self.behind, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self.behind.write(printable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        self.behind.flush()

    def fileno(self) -> int:
        return self.behind.fileno()


@contextmanager
def clean_streams() -> Generator[None, None, None]:
    """Standard output and standard error as `CleanStream`s until the block ends."""
    before = sys.stdout, sys.stderr
    wrap_streams()
    ours = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, lasting in zip(ours, (sys.__stdout__, sys.__stderr__), strict=True):
            # A logger may hold on to it for longer than the stream behind it lives.
            if isinstance(stream, CleanStream) and lasting is not None:
                stream.behind = lasting


def wrap_streams() -> None:
    """Clean standard output and standard error from here on, where they are not clean already."""
    sys.stdout, sys.stderr = (_clean(stream) for stream in (sys.stdout, sys.stderr))


def _clean(stream: Any) -> Any:
    if stream is None:  # closed by the shell: `>&-`
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  it lasts as long as the process
    return stream if isinstance(stream, CleanStream) else CleanStream(stream)
