"""Text of strangers, fit to be shown: nothing in it reaches the terminal or the page as anything but characters."""

import unicodedata
from functools import cache

_NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍", "\0": "␀", "\x1b": "␛", "\x7f": "␡"}
_HIDDEN = {"Cc", "Cf", "Cn", "Co", "Zl", "Zp", "Zs"}
_BLANK = {"\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u2800", "\u3164", "\uffa0"}


def visible(text: str, *, limit: int | None = None) -> str:
    """`text` with control, formatting, zero-width, bidi and unassigned characters replaced by something to see.

    Newline becomes ↵, tab ⇥; other hidden characters ⟨U+200B⟩; bytes that are not UTF-8 (surrogate escapes) ⟨e2⟩; a
    combining mark at the start gets ◌ to sit on. The ordinary space stays a space. A sign in the text that looks like
    one of these markers cannot be distinguished from it.

    Args:
        text: any string, lone surrogates allowed.
        limit: cut after this many characters, with … at the end.
    """
    out = "".join(_visible_character(c) for c in (text if limit is None else text[: limit + 1]))
    if out and unicodedata.category(out[0]).startswith("M"):
        out = "◌" + out
    return out if limit is None or len(out) <= limit else out[: limit - 1] + "…"


@cache
def _visible_character(c: str) -> str:
    if c == " ":
        return c
    if c in _NAMED:
        return _NAMED[c]
    code = ord(c)
    if 0xDC80 <= code <= 0xDCFF:
        return f"⟨{code - 0xDC00:02x}⟩"
    hidden = unicodedata.category(c) in _HIDDEN or c in _BLANK or 0xFE00 <= code <= 0xFE0F or 0xD800 <= code <= 0xDFFF
    return f"⟨U+{code:04X}⟩" if hidden else c


def printable(text: str, encoding: str = "utf-8") -> str:
    """`text` of several lines as a terminal may be sent it: lines and tabs stay, all else as `visible` shows it.

    A carriage return, which would write over the line before it, ends the line. What `encoding` has no code for is
    spelled with backslashes.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    shown = "\n".join("\t".join(visible(part) for part in line.split("\t")) for line in lines)
    return shown.encode(encoding, "backslashreplace").decode(encoding)
