"""What corpora made of Arrow tables share: finding a column, and the content of its rows."""

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from polyseme.core.errors import InputError
from polyseme.corpora.opening import ROW_BYTES, UNPACKED_FREELY, UNPACKED_RATIO, not_utf8, opened
from polyseme.corpora.records import Content, Named, attempt, content_of, field_names, value_at


def check_column_kind(schema: Any, column: str, where: str) -> bool:
    """Check that a column is there and holds what documents are made of; dots lead into columns of records.

    Args:
        schema: pyarrow's.
        column: its name.
        where: the file, for errors.

    Returns:
        Whether a row holds many values: token ids, or chat messages.

    Raises:
        InputError: it is not there, or it holds something else.
    """
    import pyarrow as pa

    columns = {field.name: field.type for field in schema}
    kind = value_at(columns, column, where=where, what="column", inside=_fields)
    kind = getattr(kind, "storage_type", kind)
    types: Any = pa.types
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if _is_text(plain) or types.is_null(plain):
        return False
    inner = getattr(plain, "value_type", None)  # of lists of any kind
    if inner is not None and (types.is_integer(inner) or {"role", "content"} <= set(_fields(inner) or ())):
        return True
    raise InputError(
        f"column {column!r} holds {kind}, not text",
        where=where,
        fix="set `column` to one of texts, of lists of token ids, or of lists of chat messages with `role` and "
        f"`content` (there are {', '.join(field_names(columns, _fields)[:20])})",
    )


def check_plain_arrow(path: Path) -> None:
    """Refuse an Arrow file with compressed buffers: what they unpack to is bounded by nothing but a claim.

    Format: Message.fbs and the encapsulated message format of Apache Arrow. What `datasets` writes is not compressed.

    Raises:
        InputError: it has compressed buffers, or is no Arrow file.
    """
    import pyarrow as pa

    with opened(path) as file:
        if file.read(8)[:6] != b"ARROW1":
            file.seek(0)
        try:
            for message in pa.ipc.MessageReader.open_stream(file):
                if _has_compression(message.metadata.to_pybytes()):
                    raise InputError(
                        "the Arrow file is compressed, which is not read",
                        where=str(path),
                        fix="write it again without compression, or as Parquet",
                    )
        except (pa.ArrowException, OSError, struct.error, IndexError) as error:
            raise InputError(
                f"this is not an Arrow file, or it is damaged ({error})",
                where=str(path),
                fix="save the data set again",
            ) from error


def _has_compression(message: bytes) -> bool:
    """Whether a message is a batch, of rows or of a dictionary, whose buffers are compressed."""
    header = _table_at(message, 0, 2)
    kind = _slot(message, _table_at(message, 0, None), 1)
    if header is None or kind is None or message[kind] not in (_DICTIONARY, _RECORDS):
        return False
    batch = _table_at(message, header, 1) if message[kind] == _DICTIONARY else header
    return batch is not None and _slot(message, batch, 3) is not None


_DICTIONARY, _RECORDS = 2, 3
"""`MessageHeader` of the two kinds of message that hold buffers."""


def _slot(message: bytes, table: int | None, field: int) -> int | None:
    """Where a field of a flatbuffer's table is; None where the table does not have it."""
    if table is None:
        return None
    vtable = table - struct.unpack_from("<i", message, table)[0]
    if vtable < 0 or 4 + 2 * field >= struct.unpack_from("<H", message, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", message, vtable + 4 + 2 * field)[0]
    return table + offset if offset else None


def _table_at(message: bytes, table: int, field: int | None) -> int | None:
    """The table that a field of a table leads to; without a field, the one at the start of the message."""
    at = 0 if field is None else _slot(message, table or _table_at(message, 0, None), field)
    return None if at is None else at + struct.unpack_from("<I", message, at)[0]


def _is_text(kind: Any) -> bool:
    # Asked by name, since views of strings and bytes are younger than the oldest pyarrow that will do.
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def _fields(kind: Any) -> dict[str, Any] | None:
    """The fields of a record."""
    import pyarrow as pa

    return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else None


def contents(
    batches: Iterable[Any], column: str, *, size: int, place: Callable[[int], str], name: Callable[[int], str]
) -> Iterator[Named]:
    """Each row's name and what it holds, one row in Python's memory at a time.

    Args:
        batches: record batches or tables whose first column holds the column, or the record it is in.
        column: its name.
        size: bytes of the file; rows that hold far more than that are refused.
        place: the row, counted from 1, as errors name it.
        name: the row as a document's name.

    Raises:
        InputError: the rows hold far more than the file, which repeats something small without end.
    """
    budget = max(UNPACKED_FREELY, UNPACKED_RATIO * size)
    row = 0
    for batch in batches:
        head = batch.schema.names[0]
        for scalar in batch.column(0):
            row += 1
            found = attempt(partial(_content, scalar, head, column, place(row)))
            budget -= ROW_BYTES + (len(found.text) if isinstance(found, Content) else 0)
            if budget < 0:
                raise InputError(
                    f"the rows hold more than {UNPACKED_RATIO} times the file's own size and than "
                    f"{UNPACKED_FREELY >> 20} MiB",
                    where=place(row),
                    fix="write the file again without repeating its rows",
                )
            yield name(row), found


def _content(scalar: Any, head: str, column: str, where: str) -> Content | None:
    try:
        value: Any = scalar.as_py()
        if head != column:
            value = value_at({head: value}, column, where=where, what="column")
        if isinstance(value, bytes):
            value = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(where, error.start, error.object, error.start) from None
    return content_of(value, column, where)
