"""What people read is plain English: no phrase of a short list, and every decimal with its leading zero.

A phrase is on the list where it reads as a translation and a plain word says the same. Code is left out: blocks and
spans in pages, spans in the strings of the source.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyseme.cli.main import run
from polyseme.cli.table import COMMANDS
from polyseme.zoo import TOYS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/polyseme"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
ROOMS = ("", *sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")))
"""The package's own files, and every room."""

PHRASES = {
    r"so many": "the number, or `as many as`",
    r"anew": "again",
    r"mend(s|ed|ing)?": "fix, correct",
    r"told": "receives, shows, says",
    r"go(es)? on where": "resumes at",
    r"go(es)? round": "repeats",
    r"(has|have) (its|their) like": "has a match",
    r"held against": "compared with",
    r"by hand of": "by",
    r"\w+ (it )?forth": "produces",
    r"embedded study": "built-in study",
}
PHRASE = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
NO_ZERO = re.compile(r"(?:^|(?<=[\s(\[|<>≤≥=±~∼–−-]))\.\d+")


def faults(text: str) -> Iterator[str]:
    """What is wrong in some prose, with the words around it."""
    for pattern, what in ((PHRASE, "on the list of phrases"), (NO_ZERO, "no leading zero")):
        for match in pattern.finditer(text):
            around = text[max(0, match.start() - 30) : match.end() + 30]
            yield f"{match.group()!r} ({what}) in {' '.join(around.split())!r}"


def without_code(page: str) -> Iterator[tuple[int, str]]:
    """Each line of a page by number, without code blocks, code spans and the targets of links."""
    in_block = False
    for number, line in enumerate(page.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_block = not in_block
        elif not in_block:
            yield number, re.sub(r"`[^`]*`|(?<=\]\()[^)]*(?=\))", "·", line)


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Each string of three words or more, by line: docstrings, messages and labels, without formats and code spans."""
    tree = ast.parse(source)
    formats = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
        for part in ast.walk(node.format_spec)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in formats)
    for node in constants:
        if isinstance(node.value, str) and node.value.count(" ") > 1:
            yield node.lineno, re.sub(r"`[^`]*`", "·", node.value)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_plain_english(path: Path):
    lines = without_code(path.read_text(encoding="utf-8"))
    assert [f"line {number}: {fault}" for number, line in lines for fault in faults(line)] == []


@pytest.mark.parametrize("command", ["", *COMMANDS, *(f"zoo check {toy}" for toy in TOYS)])
def test_help_is_plain_english(command: str, capsys: pytest.CaptureFixture[str]):
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "usage: polyseme" in shown
    assert list(faults(" ".join(shown.split()))) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_s_texts_are_plain_english(room: str):
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {fault}"
        for path in sorted((SOURCE / room).rglob("*.py") if room else SOURCE.glob("*.py"))
        for line, text in strings(path.read_text(encoding="utf-8"))
        for fault in faults(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["makes it anew", "Told of progress", "under .9", "(.05)", "p ≤ .02", "brings it forth"]
)
def test_a_fault_is_found(text: str):
    assert len(list(faults(text))) == 1
    assert [line for line, _ in strings(f'x = "a b c {text}"')] == [1]


def test_code_is_left_out():
    assert list(faults("0.9, v1.2, x.5y and model.3")) == []
    assert list(without_code("a\n```\nanew\n```\n`anew` [b](anew.md)")) == [(1, "a"), (5, "· [b](·)")]
    assert list(strings("x = f'one two three {y:.3f} and `anew`, `.5`'")) == [(1, "one two three "), (1, " and ·, ·")]
