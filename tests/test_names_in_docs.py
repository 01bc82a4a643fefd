"""What the pages name is there: files, modules and their functions, commands, and the targets of links."""

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from polyseme.cli.main import COMMANDS, run

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/polyseme"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
ROOMS = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
MADE = {"run.json", "config.json", "report.json", "report.html", "metrics.jsonl", "events.jsonl", "verdicts.jsonl"} | {
    "harvest.json",
    "diagnosis.json",
    "ladder.json",
}
"""Files that a run writes or a network brings."""

FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|c|h|toml|md|jsonl?|svg|html)")
DOTTED = re.compile(r"[a-z_]\w*(?:\.\w+)+")
COMMAND = re.compile(r"(?:\S*/)?polyseme ([a-z]+)\b.*")


def spans(page: Path) -> Iterator[str]:
    """Each code span of a page, without code blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def is_there(file: str) -> bool:
    """Whether the repository has a file of this path, from its root, from the package, or by name alone."""
    if file in MADE:
        return True
    if "/" not in file:
        return any(ROOT.glob(file)) or any(SOURCE.rglob(file)) or any((ROOT / "benchmarks").glob(file))
    return (ROOT / file).exists() or (SOURCE / file).exists() or (SOURCE.parent / file).exists()


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of the package, a thing in one, or a field of a study."""
    parts = name.removeprefix("polyseme.").split(".")
    for at in range(len(parts), -1, -1):
        try:
            found: Any = import_module(".".join(("polyseme", *parts[:at])))
        except ModuleNotFoundError:
            continue
        for part in parts[at:]:
            found = getattr(found, part, None) or getattr(found, "model_fields", {}).get(part)
        return found is not None
    return False


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every field of a study, of every choice, as `polyseme study --help` prints it."""
    with redirect_stdout(StringIO()) as shown:
        assert run(["study", "--help"]) == 0
    return {flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w.-]*)", shown.getvalue())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path, flags: set[str]):
    absent = [span for span in spans(page) if FILE.fullmatch(span) and not is_there(span)]
    dotted = [span for span in spans(page) if DOTTED.fullmatch(span) and not FILE.fullmatch(span)]
    named = [span for span in dotted if span.split(".")[0] in ROOMS | {"polyseme"}]
    absent += [span for span in named if not (resolves(span) or span in flags)]
    absent += [span for span in spans(page) if (m := COMMAND.fullmatch(span)) and m.group(1) not in COMMANDS]
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8"))
    absent += [link for link in links if not (page.parent / link).exists()]
    assert absent == []
