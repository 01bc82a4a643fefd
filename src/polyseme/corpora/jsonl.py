"""JSON Lines: one object a line, one of its fields the text."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, cast

from polyseme.core.config import Config, Count, FilePaths, Name
from polyseme.core.errors import InputError
from polyseme.corpora.document import Document, missing_field
from polyseme.corpora.files import FileCorpus, FoundFile, not_utf8
from polyseme.corpora.records import LeftOut, OnError, check_text, documents_of

MAX_LINE_BYTES = 64 * 2**20


def _documents(config: "JsonlCorpusConfig", file: FoundFile, left_out: LeftOut) -> Iterator[Document]:
    """A document for every line, one line in memory at a time; empty lines and blank texts are passed over."""
    records = (
        (f"{file.name}:{number}", partial(_text, line, config.field, f"{file.path}, line {number}"))
        for number, line in _lines(file)
    )
    return documents_of(records, left_out, config.errors)


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


def _text(line: bytes, field: str, where: str) -> str:
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
    return check_text(record[field], field, where)


class JsonlCorpusConfig(Config):
    """JSON Lines files, and folders of them."""

    kind: Literal["jsonl"] = "jsonl"
    paths: FilePaths
    """Files and folders."""
    field: Name = "text"
    """The field of each object that holds the text."""
    glob: Name = "**/*.jsonl"
    """Which files of a folder to read."""
    max_documents: Count | None = None
    """Read at most this many documents, from the start; None for all."""
    errors: OnError = "strict"
    """What a bad line does: `strict` stops with its number, `skip` leaves it out and counts it."""

    def build(self) -> FileCorpus:
        """The corpus."""
        options = f"jsonl {self.field} {self.max_documents} {self.errors}"
        return FileCorpus(self.paths, self.glob, partial(_documents, self), options, self.max_documents)
