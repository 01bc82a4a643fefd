"""JSON Lines: one object a line, one of its fields the text."""

import json
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from polyseme.core.config import Config
from polyseme.core.errors import InputError
from polyseme.corpora.document import Document, content_key, missing_field
from polyseme.corpora.files import FoundFile, LeftOut, OnError, check_text, files_fingerprint, find_files, not_utf8

MAX_LINE_BYTES = 64 * 2**20


class JsonlCorpus:
    """JSON Lines files in path order, read a line at a time; empty lines and blank texts are left out."""

    def __init__(self, config: "JsonlCorpusConfig"):
        self.config = config
        self.left_out = LeftOut()

    @cached_property
    def files(self) -> list[FoundFile]:
        return find_files(self.config.paths, self.config.glob)

    @cached_property
    def fingerprint(self) -> str:
        config = self.config
        return files_fingerprint(self.files, f"jsonl {config.field} {config.max_documents} {config.errors}")

    def documents(self) -> Iterator[Document]:
        self.left_out.clear()
        return islice(self._all(), self.config.max_documents)

    def _all(self) -> Iterator[Document]:
        for file in self.files:
            for number, line in _lines(file):
                where = f"{file.path}, line {number}"
                try:
                    text = check_text(_field(line, self.config.field, where), self.config.field, where)
                except InputError as error:
                    self.left_out.take(error, self.config.errors)
                    continue
                if text.strip():
                    yield Document(name=f"{file.name}:{number}", key=content_key(text), text=text)


def _lines(file: FoundFile) -> Iterator[tuple[int, bytes]]:
    number = 0
    with file.path.open("rb") as opened:
        while line := opened.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InputError(
                    f"a line is longer than {MAX_LINE_BYTES} bytes",
                    where=f"{file.path}, line {number}",
                    fix="check that the file is JSON Lines: one object a line",
                )
            if line.strip():
                yield number, line


def _field(line: bytes, field: str, where: str) -> object:
    try:
        value: object = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise not_utf8(where, error.start, line[error.start]) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON: {error.msg} at column {error.colno}",
            where=where,
            fix='mend the line, or set `errors = "skip"` to leave such lines out',
        ) from None
    except RecursionError:
        raise InputError("JSON nested too deep", where=where, fix='set `errors = "skip"` to leave it out') from None
    if not isinstance(value, dict):
        raise InputError(
            f"a line holds {type(value).__name__}, not an object", where=where, fix="write one JSON object a line"
        )
    record = cast(dict[str, Any], value)
    if field not in record:
        raise missing_field(field, list(record), where=where, what="field")
    return record[field]


class JsonlCorpusConfig(Config):
    """JSON Lines files, and folders of them."""

    kind: Literal["jsonl"] = "jsonl"
    paths: tuple[Path, ...]
    """Files and folders."""
    field: str = "text"
    """The field of each object that holds the text."""
    glob: str = "**/*.jsonl"
    """Which files of a folder to read."""
    max_documents: int | None = Field(default=None, ge=1)
    """Read at most this many documents, from the start; None for all."""
    errors: OnError = "strict"
    """What a bad line does: `strict` stops with its number, `skip` leaves it out and counts it."""

    def build(self) -> JsonlCorpus:
        """The corpus."""
        return JsonlCorpus(self)
