"""Opening a corpus's file: what it is by its first bytes, unpacked where it is compressed, within bounds."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from polyseme.core.errors import InputError
from polyseme.corpora.document import missing_extra
from polyseme.store.failures import refusal

UNPACKED_FREELY = 64 * 2**20
"""Bytes that any compressed file may unpack to."""
UNPACKED_RATIO = 200
"""Beyond that, how many times its own size a compressed file may unpack to; text compresses 3 to 50 times."""
ROW_BYTES = 8
"""What a row of a table counts for at least, so that rows without anything in them have an end."""
_XZ_MEMORY = 256 * 2**20
_BLOCK = 1 << 18
_HEAD = 4096

_COMPRESSED = {
    "gzip": (b"\x1f\x8b",),
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ\0", b"\x5d\0\0"),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))),
}
_SKIP = 'or set `errors = "skip"` to leave it out'
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\0\0", "UTF-32 text", f"convert it (`iconv -f utf-32 -t utf-8`), {_SKIP}"),
    (b"\0\0\xfe\xff", "UTF-32 text", f"convert it (`iconv -f utf-32 -t utf-8`), {_SKIP}"),
    (b"\xff\xfe", "UTF-16 text", f"convert it (`iconv -f utf-16 -t utf-8`), {_SKIP}"),
    (b"\xfe\xff", "UTF-16 text", f"convert it (`iconv -f utf-16 -t utf-8`), {_SKIP}"),
    (b"PAR1", "a Parquet file", 'set `kind = "parquet"`'),
    (b"ARROW1", "an Arrow file", 'set `kind = "huggingface"` and `name` to its folder'),
    (b"PK\x03\x04", "a ZIP archive", "unpack it, and name the folder it unpacks to"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and name the folder it unpacks to"),
    (b"Rar!", "a RAR archive", "unpack it, and name the folder it unpacks to"),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "unpack it (`lz4 -d`)"),
    (b"%PDF", "a PDF file", "extract its text"),
    (b"SQLite format 3\0", "a SQLite database", "export its text as JSON Lines"),
)


@contextmanager
def opened(path: Path) -> Generator[io.BufferedIOBase, None, None]:
    """A regular file for reading; whatever the system refuses meanwhile is an `InputError`.

    A path that leads to a pipe, a socket or a device is refused and not waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            check_regular(path, os.fstat(descriptor))
            yield file
    except OSError as error:
        raise refusal(error, path) from error


def check_regular(path: Path, found: os.stat_result) -> None:
    """Refuse what is no file of data: folders, pipes, sockets, devices, and the kernel's own files.

    Raises:
        InputError: it is one of them.
    """
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    kind = next((name for test, name in kinds.items() if test(found.st_mode)), None)
    if kind is None and os.path.realpath(path).startswith(("/proc/", "/sys/")):
        kind = "one of the kernel's own files"
    if kind is not None:
        raise InputError(f"this is {kind}, not a file of text", where=str(path), fix="name a regular file")


@contextmanager
def opened_text(path: Path, *, records: bool = False) -> Generator[io.BufferedIOBase, None, None]:
    """The bytes of a file that holds UTF-8 text, unpacked where gzip, bzip2, xz or zstd packed it.

    A compressed file may unpack to 64 MiB, and beyond that to 200 times its own size; it is unpacked as it is read.

    Args:
        path: the file.
        records: its lines are looked at one by one, so that NUL bytes among text are left to whoever does that.

    Raises:
        InputError: it is recognised as something else, it is damaged, or it unpacks to more than that.
    """
    with opened(path) as file:
        head = file.read(_HEAD)
        file.seek(0)
        kind = _packed(head)
        if kind is None:
            _check_head(head, path, records=records)
            yield file
            return
        size = os.fstat(file.fileno()).st_size
        with io.BufferedReader(cast(Any, _Unpacked(_unpacker(kind, file), path, kind, size)), _BLOCK) as unpacked:
            _check_head(unpacked.peek(_HEAD)[:_HEAD], path, kind, records=records)
            yield unpacked


def check_unpacked(file: io.BufferedIOBase, path: Path, wanted: str) -> None:
    """Refuse a file that is compressed or packed as a whole, where that cannot be read."""
    head = file.read(_HEAD)
    file.seek(0)
    kind = _packed(head)
    if kind is not None:
        raise InputError(f"this is {kind} data, not {wanted} by itself", where=str(path), fix="unpack it first")


def _packed(head: bytes) -> str | None:
    return next((name for name, marks in _COMPRESSED.items() if head.startswith(marks)), None)


def check_unpacks(path: Path) -> None:
    """Read a compressed file to its end, so that a library may unpack it; another one is not read."""
    with opened(path) as file:
        if _packed(file.read(_HEAD)) is None:
            return
    with opened_text(path) as unpacked:
        while unpacked.read(_BLOCK):
            pass


def _check_head(head: bytes, path: Path, packed: str = "", *, records: bool) -> None:
    """Refuse a file by its first bytes, with what it is and what to do with it."""
    inside = f"{packed} of " if packed else ""
    for mark, name, fix in _FOREIGN:
        if head.startswith(mark):
            raise InputError(f"this is {inside}{name}, not UTF-8 text", where=str(path), fix=fix)
    if head[257:262] == b"ustar":
        raise InputError(
            f"this is {inside}a tar archive, not UTF-8 text", where=str(path), fix="unpack it, and name its folder"
        )
    if packed and _packed(head):
        raise InputError(f"this is {inside}another compressed file", where=str(path), fix="unpack it once")
    n_zeros = head.count(0)
    if n_zeros > len(head) / 5:
        for start, encoding in ((1, "utf-16le"), (0, "utf-16be")):
            if head[start::2].count(0) > 0.9 * n_zeros and n_zeros < len(head):
                raise InputError(
                    f"this looks like {inside}UTF-16 text without a byte order mark, not UTF-8 text",
                    where=str(path),
                    fix=f"convert it (`iconv -f {encoding} -t utf-8`), {_SKIP}",
                )
        if records and not head.startswith(b"\0") and _is_utf8(head):
            return
        raise InputError(
            f"this is {inside}binary data, not UTF-8 text ({n_zeros} of its first {len(head)} bytes are NUL)",
            where=str(path),
            fix=f"name text files, {_SKIP}",
        )


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def not_utf8(where: str, offset: int, around: bytes, at: int) -> InputError:
    """The error for a byte that is not UTF-8.

    Args:
        where: the file or line.
        offset: the byte's place, counted from the start of what `where` names.
        around: bytes around it.
        at: its index in them.
    """
    near = around[max(0, at - 512) : at + 512]
    n_control = sum(byte < 9 or 13 < byte < 32 or byte == 127 for byte in near)
    binary = n_control > len(near) / 20
    return InputError(
        f"not UTF-8: byte 0x{around[at]:02x} at offset {offset}" + (", among binary data" if binary else ""),
        where=where,
        fix=f"name text files, {_SKIP}" if binary else f"convert it to UTF-8 (`iconv -f latin1 -t utf-8`), {_SKIP}",
    )


@runtime_checkable
class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Unpacked(io.RawIOBase):
    """A stream of unpacked bytes that stops at a bomb and names damage."""

    def __init__(self, inner: _Reads, path: Path, kind: str, size: int):
        super().__init__()
        self._inner, self._path, self._kind = inner, path, kind
        self._left = max(UNPACKED_FREELY, UNPACKED_RATIO * size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            found = self._inner.read(min(len(buffer), _BLOCK))
        except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            said = str(error).strip() or type(error).__name__
            raise InputError(
                f"the {self._kind} file cannot be unpacked to its end ({said})",
                where=str(self._path),
                fix=f"fetch or write it again, {_SKIP}",
            ) from error
        self._left -= len(found)
        if self._left < 0:
            raise InputError(
                f"the {self._kind} file unpacks to more than {UNPACKED_RATIO} times its own size and than "
                f"{UNPACKED_FREELY >> 20} MiB",
                where=str(self._path),
                fix="unpack it first if that is right",
            )
        buffer[: len(found)] = found
        return len(found)


def _unpacker(kind: str, file: io.BufferedIOBase) -> _Reads:
    if kind == "gzip":
        return cast(_Reads, gzip.GzipFile(fileobj=file))
    if kind == "bzip2":
        return _Streams(bz2.BZ2Decompressor, file)
    if kind == "xz":
        return _Streams(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), file)
    try:
        from compression.zstd import ZstdDecompressor  # pyright: ignore[reportMissingImports] # Python 3.14
    except ImportError:
        try:
            import pyarrow as pa
        except ImportError:
            raise missing_extra("pyarrow", "zstd files, before Python 3.14,") from None
        return cast(_Reads, pa.CompressedInputStream(file, "zstd"))
    return _Streams(cast(Any, ZstdDecompressor), file)


class _Streams:
    """One or more compressed streams after each other, unpacked a bounded piece at a time."""

    def __init__(self, make: Any, file: io.BufferedIOBase):
        self._make, self._file = make, file
        self._stream: Any = make()
        self._waiting = b""

    def read(self, size: int, /) -> bytes:
        while True:
            if self._stream.eof:
                # Zeros between and after streams are part of the xz format.
                self._waiting = self._stream.unused_data.lstrip(b"\0")
                while not self._waiting:
                    block = self._file.read(_BLOCK)
                    if not block:
                        return b""
                    self._waiting = block.lstrip(b"\0")
                self._stream = self._make()
            block = b""
            if self._stream.needs_input:
                block, self._waiting = self._waiting or self._file.read(_BLOCK), b""
                if not block:
                    raise EOFError("it ends within a stream")
            found: bytes = self._stream.decompress(block, size)
            if found:
                return found
