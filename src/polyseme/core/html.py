"""Small pieces of HTML for notebooks: no script, no style sheet, colours that stand on light and on dark.

Every text goes through `text`: what a corpus, a tokenizer or a user wrote reaches the page as characters alone.
"""

from collections.abc import Iterable, Sequence
from html import escape

from polyseme.core.numbers import short
from polyseme.core.text import visible

_RULE = "1px solid rgba(128,128,128,.35)"
_FRAME = "font:13px/1.5 system-ui,sans-serif;max-width:100%"
_CELL = "padding:2px 10px;vertical-align:top;text-align:{};border:0;white-space:nowrap"


def text(value: object, *, limit: int | None = 400) -> str:
    """Any value as text: hidden characters visible, the rest escaped, and its direction kept to itself."""
    return f"<bdi>{escape(visible(str(value), limit=limit))}</bdi>"


def number(value: object) -> str:
    """A number with enough digits, – where it was not measured; anything else as text."""
    if isinstance(value, float):
        return "–" if value != value else short(value)
    return "" if value is None else text(value)


def small(html: str) -> str:
    """A side note."""
    return f'<span style="opacity:.7;font-size:12px">{html}</span>'


def frame(title: str, *parts: str) -> str:
    """A block under a title, which is text where the parts are HTML."""
    head = f'<div style="margin:2px 0 4px"><b>{text(title)}</b></div>' if title else ""
    return f'<div style="{_FRAME}">{head}{"".join(parts)}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, scroll: int = 420) -> str:
    """A table that scrolls within itself, numbers to the right.

    Args:
        columns: names of the columns.
        rows: a value for each column.
        scroll: greatest height, in pixels.
    """
    found = [list(row) for row in rows]
    sides = [
        "right" if found and all(isinstance(row[i], int | float | None) for row in found) else "left"
        for i in range(len(columns))
    ]
    head = "".join(
        f'<th style="{_CELL.format(side)};border-bottom:{_RULE};font-weight:600">{text(name)}</th>'
        for name, side in zip(columns, sides, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_CELL.format(side)};font-variant-numeric:tabular-nums">{number(value)}</td>'
            for value, side in zip(row, sides, strict=True)
        )
        + "</tr>"
        for row in found
    )
    style = "border-collapse:collapse;margin:0;font:inherit;color:inherit"
    inner = f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div style="overflow:auto;max-height:{scroll}px;max-width:100%">{inner}</div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names with values beside them, in one flowing line."""
    shown = (f'<span style="white-space:nowrap">{small(text(name))} {number(value)}</span>' for name, value in pairs)
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 16px">{"".join(shown)}</div>'


def line(value: str, figure: str, note: str) -> str:
    """A line of marked tokens between a figure and a note, all HTML."""
    aside = (
        f'<span style="flex:0 0 4.5em;text-align:right;opacity:.7;font-variant-numeric:tabular-nums">{figure}</span>'
    )
    tokens = (
        f'<bdi style="font-family:ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere">{value}</bdi>'
    )
    return f'<div style="display:flex;gap:10px;align-items:baseline;margin:1px 0">{aside}{tokens} {small(note)}</div>'


def marked(value: str, share: float, title: str, *, focus: bool = False) -> str:
    """A token on a ground as strong as its `share` of the greatest activation, outlined where it is the focus."""
    style = f"background:rgba(255,140,0,{0.1 + 0.5 * share:.2f});" if share > 0 else ""
    style += "outline:1px solid rgba(128,128,128,.8);" if focus else ""
    tip = f' title="{escape(visible(title))}"' if title else ""
    return f'<span style="border-radius:2px;{style}"{tip}>{escape(visible(value))}</span>'
