"""JSON Lines: one object a line, one of its fields the text."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, cast

from polyseme.core.config import Config, Count, FilePaths, Name
from polyseme.core.errors import InputError
from polyseme.corpora.files import FileCorpus, FoundFile, Glob, reading
from polyseme.corpora.opening import not_utf8, opened_text
from polyseme.corpora.records import Content, LeftOut, Named, OnError, attempt, content_of, value_at

MAX_LINE_BYTES = 64 * 2**20
_SKIP = 'or set `errors = "skip"` to leave such lines out'


def _records(field: str, file: FoundFile) -> Iterator[Named]:
    """Every line that is not empty, one line in memory at a time."""
    number = 0
    try:
        with opened_text(file.path, records=True) as source:
            while line := source.readline(MAX_LINE_BYTES + 1):
                number += 1
                name, where = f"{file.name}:{number}", f"{file.path}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    yield name, _too_long(where)
                    while line and not line.endswith(b"\n"):
                        line = source.readline(MAX_LINE_BYTES)
                elif line.strip():
                    yield name, attempt(partial(_content, line, field, where, first=number == 1))
    except InputError as error:  # of the file: what was read of it up to here stands
        yield f"{file.name}:{number + 1}", error


def _too_long(where: str) -> InputError:
    return InputError(
        f"a line is longer than {MAX_LINE_BYTES} bytes",
        where=where,
        fix=f"check that the file is JSON Lines, one object a line, {_SKIP}",
    )


def _content(line: bytes, field: str, where: str, *, first: bool) -> Content | None:
    value = _parsed(line, where, first=first)
    if not isinstance(value, dict):
        if first and isinstance(value, list):
            raise _array(where)
        raise InputError(
            f"a line holds {type(value).__name__}, not an object",
            where=where,
            fix=f"write one JSON object a line, {_SKIP}",
        )
    record = cast(dict[str, Any], value)
    last = field.rpartition(".")[2]
    if line.count(json.dumps(last).encode()) > 1:
        _parsed(line, where, first=first, hook=partial(_only_once, last, where))
    return content_of(value_at(record, field, where=where, what="field"), field, where)


def _only_once(name: str, where: str, pairs: list[tuple[str, object]]) -> None:
    if sum(key == name for key, _ in pairs) > 1:
        raise InputError(f"an object holds {name!r} twice", where=where, fix=f"keep one of them, {_SKIP}")


def _parsed(
    line: bytes, where: str, *, first: bool, hook: Callable[[list[tuple[str, object]]], None] | None = None
) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"), object_pairs_hook=hook)
    except UnicodeDecodeError as error:
        raise not_utf8(where, error.start, line, error.start) from None
    except json.JSONDecodeError as error:
        raise _not_json(line, error, where, first=first) from None
    except RecursionError:
        raise InputError("JSON nested too deep", where=where, fix=f"write it flatter, {_SKIP}") from None
    except InputError:
        raise
    except ValueError:  # what Python says of an integer of more digits than it reads
        most = sys.get_int_max_str_digits()
        raise InputError(f"an integer of more than {most} digits", where=where, fix=f"shorten it, {_SKIP}") from None


def _not_json(line: bytes, error: json.JSONDecodeError, where: str, *, first: bool) -> InputError:
    start = line.lstrip(b"\xef\xbb\xbf \t\r\n")
    if first and start.startswith(b"["):
        return _array(where)
    if first and start.rstrip() == b"{":
        return InputError(
            "an object is written over several lines, not one object a line",
            where=where,
            fix="write each object on a line of its own (`jq -c . file.json > file.jsonl`)",
        )
    if b"\0" in line:
        return InputError(
            "NUL bytes among JSON: the file was cut off while it was written, or is no text",
            where=where,
            fix=f"write the file again, {_SKIP}",
        )
    if error.msg == "Extra data":
        return InputError(
            f"more than one JSON value, from column {error.colno}", where=where, fix=f"write one object a line, {_SKIP}"
        )
    return InputError(f"not JSON: {error.msg} at column {error.colno}", where=where, fix=f"correct the line, {_SKIP}")


def _array(where: str) -> InputError:
    return InputError(
        "the file holds one JSON array, not one object a line",
        where=where,
        fix="write each of its objects on a line of its own (`jq -c '.[]' file.json > file.jsonl`)",
    )


class JsonlCorpusConfig(Config):
    """JSON Lines files, also compressed by gzip, bzip2, xz or zstd, and folders of them."""

    kind: Literal["jsonl"] = "jsonl"
    paths: FilePaths
    """Files and folders to read."""
    field: Name = "text"
    """The field of each object that holds the text, a list of token ids, or a list of chat messages with `role` and
    `content` (written by the tokenizer's chat template); `data.text` for a field within another."""
    glob: Glob = "**/*.jsonl"
    """Which files of a folder to read; `**/*.jsonl.gz` for compressed ones."""
    max_documents: Count | None = None
    """Largest number of documents read, from the start; None for all."""
    errors: OnError = "strict"
    """What happens at a bad line: `strict` stops and gives its number, `skip` leaves the line out and counts it."""

    def build(self) -> FileCorpus:
        """The corpus."""
        options = f"jsonl {self.field} {self.max_documents} {self.errors}"
        read = reading(partial(_records, self.field))
        return FileCorpus(self.paths, self.glob, read, options, self.max_documents, LeftOut(self.errors))
