"""Every code block of docs/notebook.md runs, in order, and prints what stands below it but for the digits.

`python -m tests.test_notebook --write` runs them and writes their outputs into the page.
"""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.studies.small import write_corpus, write_network

PAGE = Path(__file__).parent.parent / "docs" / "notebook.md"
_BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def outputs(page: str) -> Iterator[tuple[str, str, str]]:
    """Each block of code, what it gives in the current folder, and what the page says that it gives."""
    names: dict[str, Any] = {}
    for code, said in _BLOCK.findall(page):
        tree = ast.parse(code)
        *statements, last = tree.body
        exec(compile(ast.Module(statements, []), str(PAGE), "exec"), names)
        if not isinstance(last, ast.Expr):
            exec(compile(ast.Module([last], []), str(PAGE), "exec"), names)
            yield code, "", said
            continue
        value = eval(compile(ast.Expression(last.value), str(PAGE), "eval"), names)
        lines = [line.rstrip() for line in repr(value).replace(f"{os.getcwd()}/", "").splitlines()]
        yield code, "\n".join(lines) + "\n", said


def prepare(folder: Path) -> None:
    """The network and the texts that the page calls the reader's own."""
    write_network(folder / "my-gpt2")
    write_corpus(folder / "my-texts")


def skeleton(text: str) -> list[str]:
    """What does not depend on the last bits of a machine: the first line without its numbers, and how many follow.

    A run's id holds a hash of its config, which another field changes.
    """
    lines = text.splitlines()
    head = re.sub(r"(?<=-)[0-9a-f]{8}\b|[0-9][0-9.,e%−-]*|\bone\b|\bsame\b", "#", lines[0]) if lines else ""
    return [head, f"{len(lines)} lines"]


def test_every_block_runs_and_gives_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    n = 0
    for code, found, said in outputs(PAGE.read_text(encoding="utf-8")):
        assert bool(found) == bool(said), code
        if "continue_text" not in code:  # where two networks part may differ with the last bits
            assert skeleton(found) == skeleton(said), code
        n += 1
    assert n >= 15


def write() -> None:
    """Put the outputs into the page."""
    page = PAGE.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        os.chdir(folder)
        for code, found, said in outputs(page):
            before = f"```python\n{code}```\n"
            after = before + (f"\n```text\n{found}```\n" if found else "")
            page = page.replace(before + (f"\n```text\n{said}```\n" if said else ""), after)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
