"""Parquet files: one column is the text."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from polyseme.core.config import Config, Count, FilePaths, Name
from polyseme.core.errors import InputError
from polyseme.corpora.arrow import check_column_kind, contents
from polyseme.corpora.document import missing_extra
from polyseme.corpora.files import FileCorpus, FoundFile, Glob, reading
from polyseme.corpora.opening import check_unpacked, opened
from polyseme.corpora.parquet_pages import check_column
from polyseme.corpora.records import LeftOut, Named, OnError

_ROWS, _BATCH = 256, 64 * 2**20
"""Rows decoded at a time, fewer where that number of the largest pages would take more bytes than this."""
_CONTAINERS, _STRINGS = 200_000, 64 * 2**20
"""Elements and bytes that the parts of a footer may claim."""


def _records(column: str, file: FoundFile) -> Iterator[Named]:
    """Every row, a few rows in memory at a time."""
    row = 0
    with _table(file.path, column) as (table, rows, size), _damage(f"{file.path}, after row", lambda: row):
        for named in contents(
            table.iter_batches(batch_size=rows, columns=[column], use_threads=False),
            column,
            size=size,
            place=lambda row: f"{file.path}, row {row}",
            name=lambda row: f"{file.name}:{row}",
        ):
            row += 1
            yield named


def check_parquet(path: Path, column: str) -> None:
    """Refuse a file that unpacks to far more than it holds, or that has no such column of text.

    Raises:
        InputError: it is one of these, or no Parquet file.
    """
    with _table(path, column):
        pass


@contextmanager
def _table(path: Path, column: str) -> Generator[tuple[Any, int, int], None, None]:
    """A checked file, how many of its rows may be decoded at a time, and its size."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_extra("pyarrow", "Parquet files") from None
    with opened(path) as source:
        check_unpacked(source, path, "a Parquet file")
        with _damage(str(path)):
            table: Any = pq.ParquetFile(
                source,
                buffer_size=1 << 20,
                pre_buffer=False,
                thrift_container_size_limit=_CONTAINERS,
                thrift_string_size_limit=_STRINGS,
            )
            lists = check_column_kind(table.schema_arrow, column, str(path))
            largest = check_column(source, column, str(path), lists=lists)
        with table:
            yield table, max(1, min(_ROWS, _BATCH // max(1, largest))), os.fstat(source.fileno()).st_size


@contextmanager
def _damage(where: str, row: Callable[[], int] | None = None) -> Generator[None, None, None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, OverflowError, RecursionError) as error:
        raise InputError(
            f"this is not a Parquet file, or it is damaged ({error})",
            where=where if row is None else f"{where} {row()}",
            fix="fetch or write the file again",
        ) from error


class ParquetCorpusConfig(Config):
    """Parquet files, and folders of them (needs the `data` extra)."""

    kind: Literal["parquet"] = "parquet"
    paths: FilePaths
    """Files and folders to read."""
    column: Name = "text"
    """The column that holds the text, lists of token ids, or lists of chat messages with `role` and `content` (written
    by the tokenizer's chat template); `data.text` for one within a column of records."""
    glob: Glob = "**/*.parquet"
    """Which files of a folder to read."""
    max_documents: Count | None = None
    """Largest number of documents read, from the start; None for all."""
    errors: OnError = "strict"
    """What happens at a bad value: `strict` stops and names its row, `skip` leaves the value out and counts it."""

    def build(self) -> FileCorpus:
        """The corpus."""
        options = f"parquet {self.column} {self.max_documents} {self.errors}"
        read = reading(partial(_records, self.column))
        return FileCorpus(self.paths, self.glob, read, options, self.max_documents, LeftOut(self.errors))
