"""The consoles of the command line: rich's, through which no stranger's control character gets."""

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from polyseme.core.text import printable
from polyseme.screen.streams import CleanStream


def make_console(*, stderr: bool = False) -> Console:
    """A console where nothing is taken for markup, and where text is cleaned, whoever wrote it; colours are ours."""
    stream = sys.stderr if stderr else sys.stdout
    behind = stream.behind if isinstance(stream, CleanStream) else stream
    return CleanConsole(file=behind, markup=False, highlight=False, emoji=False, soft_wrap=False)


class CleanConsole(Console):
    """A console of rich's whose texts all go through `printable`: before they are laid out where they are plain
    strings, and in any case before they are written."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, self.encoding), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, self.encoding), segment.style)
