"""What a Parquet column takes in memory, from the headers of its pages, before anything is decoded.

The sizes in a file's footer are claims that no reader checks; those in a page's header are what a reader allocates and
decodes. Both are read here, since pyarrow ends the process at some damaged footers when asked where a column is.
Format: parquet.thrift (`FileMetaData`, `PageHeader`) in Thrift's compact protocol.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polyseme.core.errors import InputError
from polyseme.corpora.opening import ROW_BYTES, UNPACKED_FREELY, UNPACKED_RATIO

MAX_PAGE = 256 * 2**20
"""Bytes that one page may hold unpacked."""
MAX_VALUES = 32 * 2**20
"""Values of a column of lists in one row group that may stand there however small the file is."""
VALUES_A_BYTE = 8
"""Beyond that, values that may stand there for every byte in the file: a token takes a byte or two."""
MAX_FOOTER = 64 * 2**20
_SLACK = 100
"""Bytes by which writers of long ago understate a column's size (PARQUET-816)."""
_FIRST_READ, _LARGEST_HEADER, _DEEPEST = 1 << 12, 1 << 24, 16

Struct = dict[int, Any]
"""A Thrift struct: field number to an integer, bytes, a list or another struct."""


@dataclass(frozen=True)
class Chunk:
    """A column's pages in one row group.

    Attributes:
        path: dotted name of the column.
        start, stop: bytes of the file that the pages are in.
        values: values that the footer claims.
    """

    path: str
    start: int
    stop: int
    values: int


@dataclass(frozen=True)
class Page:
    """One page of a column.

    Attributes:
        unpacked: bytes it takes unpacked.
        values: values in it, nulls too; those of a dictionary are not counted.
    """

    unpacked: int
    values: int


def check_column(file: io.BufferedIOBase, column: str, path: str, *, lists: bool) -> int:
    """Walk through a column's pages and refuse what unpacks to far more than the file holds.

    Args:
        file: a Parquet file.
        column: dotted path of the column, or of what holds its parts.
        path: the file's path, for errors.
        lists: whether one row holds many values.

    Returns:
        Bytes of the largest page.

    Raises:
        InputError: a page, or all of them, are too large for what they take in the file; footer or header make no
            sense.
    """
    largest = unpacked = packed = rows = 0
    size_of_file = file.seek(0, io.SEEK_END)
    for group, chunks in enumerate(_row_groups(file, path)):
        for chunk in chunks:
            if chunk.path != column and not chunk.path.startswith(f"{column}."):
                continue
            values, size = 0, chunk.stop - chunk.start
            packed += size
            for page in _pages(file, chunk, path):
                largest, unpacked, values = max(largest, page.unpacked), unpacked + page.unpacked, values + page.values
                if page.unpacked > MAX_PAGE:
                    raise _bomb(f"a page unpacks to {page.unpacked:,} bytes", path, group)
                if unpacked > max(UNPACKED_FREELY, UNPACKED_RATIO * packed):
                    raise _bomb(f"{packed:,} bytes unpack to more than {unpacked:,}", path, group)
            if lists and values > max(MAX_VALUES, VALUES_A_BYTE * size):
                raise _bomb(f"{size:,} bytes hold {values:,} values", path, group)
            rows += values
            if not lists and ROW_BYTES * rows > max(UNPACKED_FREELY, UNPACKED_RATIO * size_of_file):
                raise _bomb(f"{size_of_file:,} bytes hold more than {rows:,} rows", path, group)
    return largest


def _bomb(what: str, path: str, group: int) -> InputError:
    return InputError(
        f"the column is packed beyond what is read: {what}",
        where=f"{path}, row group {group}",
        fix="write the file again with smaller pages and row groups",
    )


def _damaged(what: str, path: str) -> InputError:
    return InputError(f"the Parquet file is damaged: {what}", where=path, fix="fetch or write the file again")


def _row_groups(file: io.BufferedIOBase, path: str) -> Iterator[list[Chunk]]:
    """The columns of each row group, as the footer places them."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(4), "little")
    if not 0 < length <= min(MAX_FOOTER, size - 12):
        raise _damaged(f"its footer would take {length:,} bytes of {size:,}", path)
    file.seek(size - 8 - length)
    try:
        footer = _Compact(file.read(length)).struct()
        groups = [[_chunk(column[3]) for column in group[1]] for group in footer.get(4, [])]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise _damaged(f"its footer makes no sense ({type(error).__name__})", path) from None
    for chunks in groups:
        for chunk in chunks:
            if not 0 <= chunk.start <= chunk.stop <= size:
                raise _damaged(f"pages would lie at bytes {chunk.start:,} to {chunk.stop:,} of {size:,}", path)
        yield chunks


def _chunk(metadata: Struct) -> Chunk:
    start, dictionary = int(metadata[9]), int(metadata.get(11, 0))
    if 0 < dictionary < start:
        start = dictionary
    name = ".".join(part.decode("utf-8", "replace") for part in metadata[3])
    return Chunk(name, start, start + int(metadata[7]), int(metadata[5]))


def _pages(file: io.BufferedIOBase, chunk: Chunk, path: str) -> Iterator[Page]:
    position, left = chunk.start, chunk.values
    while position < chunk.stop and left > 0:
        header, length = _header(file, position, path)
        data = header.get(5) or header.get(8) or {}  # of either version; a dictionary has neither
        try:
            unpacked, packed, values = (int(n) for n in (header[2], header[3], data.get(1, 0)))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _damaged(f"a page's header at byte {position:,} makes no sense", path) from None
        if unpacked < 0 or packed < 0 or values < 0 or position + length + packed > chunk.stop + _SLACK:
            raise _damaged(f"a page's header at byte {position:,} makes no sense", path)
        yield Page(unpacked, values)
        position += length + packed
        left -= values


def _header(file: io.BufferedIOBase, position: int, path: str) -> tuple[Struct, int]:
    """The page header at `position`, and its length."""
    read = _FIRST_READ
    while True:
        file.seek(position)
        block = file.read(read)
        try:
            reader = _Compact(block)
            return reader.struct(), reader.at
        except IndexError:
            if len(block) < read or read >= _LARGEST_HEADER:
                raise _damaged(f"a page's header at byte {position:,} does not end", path) from None
            read *= 8
        except ValueError:
            raise _damaged(f"a page's header at byte {position:,} makes no sense", path) from None


class _Compact:
    """Reads a struct in Thrift's compact protocol; `IndexError` where the block ends before it."""

    def __init__(self, block: bytes):
        self.block, self.at = block, 0

    def struct(self, depth: int = 0) -> Struct:
        """The struct that begins here."""
        if depth > _DEEPEST:
            raise ValueError("too deep")
        found: Struct = {}
        field = 0
        while header := self._byte():
            field = field + (header >> 4) if header >> 4 else self._signed()
            kind = header & 15
            found[field] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 8:
            return self._bytes(self._varint())
        if kind == 12:
            return self.struct(depth + 1)
        if kind in (9, 10):
            return self._list(depth + 1)
        if kind in (1, 2, 3):  # in a list a truth value is a byte of its own
            return self._byte()
        if kind == 7:
            return self._bytes(8)
        raise ValueError("no such type")

    def _list(self, depth: int) -> list[Any]:
        if depth > _DEEPEST:
            raise ValueError("too deep")
        header = self._byte()
        n = header >> 4 if header >> 4 < 15 else self._varint()
        return [self._value(header & 15, depth) for _ in range(n)]

    def _byte(self) -> int:
        self.at += 1
        return self.block[self.at - 1]

    def _bytes(self, n: int) -> bytes:
        self.at += n
        if self.at > len(self.block):
            raise IndexError
        return self.block[self.at - n : self.at]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number too long")
        return value | byte << shift

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
