"""Parquet files: one column is the text."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from polyseme.core.config import Config, Count, FilePaths, Name
from polyseme.core.errors import InputError
from polyseme.corpora.document import Document, missing_extra, missing_field
from polyseme.corpora.files import FileCorpus, FoundFile
from polyseme.corpora.records import LeftOut, OnError, check_text, documents_of

_ROWS = 256


def _documents(config: "ParquetCorpusConfig", file: FoundFile, left_out: LeftOut) -> Iterator[Document]:
    """A document for every row, a few rows in memory at a time; nulls and blank texts are passed over."""
    records = (
        (f"{file.name}:{row}", partial(check_text, value, config.column, f"{file.path}, row {row}"))
        for row, value in _column(file, config.column)
    )
    return documents_of(records, left_out, config.errors)


def _column(file: FoundFile, column: str) -> Iterator[tuple[int, object]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise missing_extra("pyarrow", "Parquet files") from None
    row = 0
    try:
        with pq.ParquetFile(file.path) as opened:
            names: list[str] = opened.schema_arrow.names
            if column not in names:
                raise missing_field(column, names, where=str(file.path), what="column")
            kind: Any = opened.schema_arrow.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
                raise InputError(
                    f"column {column!r} holds {kind}, not text",
                    where=str(file.path),
                    fix=f"set `column` to one that holds text (there are {', '.join(names)})",
                )
            for batch in opened.iter_batches(batch_size=_ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    if value is not None:
                        yield row, value
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"this is not a Parquet file, or it is damaged ({error})",
            where=f"{file.path}, after row {row}",
            fix="fetch or write the file again",
        ) from error


class ParquetCorpusConfig(Config):
    """Parquet files, and folders of them (needs the `data` extra)."""

    kind: Literal["parquet"] = "parquet"
    paths: FilePaths
    """Files and folders."""
    column: Name = "text"
    """The column that holds the text."""
    glob: Name = "**/*.parquet"
    """Which files of a folder to read."""
    max_documents: Count | None = None
    """Read at most this many documents, from the start; None for all."""
    errors: OnError = "strict"
    """What a bad value does: `strict` stops with its row, `skip` leaves it out and counts it."""

    def build(self) -> FileCorpus:
        """The corpus."""
        options = f"parquet {self.column} {self.max_documents} {self.errors}"
        return FileCorpus(self.paths, self.glob, partial(_documents, self), options, self.max_documents)
