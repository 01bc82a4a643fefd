"""Files that are whole or absent: atomic writes, bounded reads, checksums, and every refusal in plain words.

Every write goes to a temporary name in the same folder, is fsynced, and takes its name by rename; then the folder is
fsynced. A reader therefore sees the old file, the new file or none, whenever the power goes. No write follows a link
that stands where the file should, and no read or write waits for a pipe.
"""

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import BaseModel

from polyseme.core.config import fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.store.failures import check_space, refusals

MAX_JSON_BYTES = 256 * 2**20
MAX_JSON_DEPTH = 64
MAX_RECORD_BYTES = 64 * 2**20
"""Largest record: the manifest of an artifact of some hundred thousand files."""
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9]+-[0-9a-f]+\.tmp")
"""Names that `temporary_name` gives."""
DIGEST = "sha256"
"""Key of a record's checksum of itself."""


_BINARY = getattr(os, "O_BINARY", 0)
"""Windows would write a carriage return before every line feed without it."""
_OWN = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")) | _BINARY
_IS_WINDOWS = os.name == "nt"


class FileWriter:
    """The write end of `atomic_file`; `write` takes bytes and never writes less than all of them."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def write(self, data: "bytes | bytearray | memoryview") -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.write(self._descriptor, view[done:])
        return done


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other writer uses; leftovers are swept by `remove_temporaries`."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_temporaries(folder: Path, *, deep: bool = True, older_than: float = 0.0) -> None:
    """Delete what killed writers left in `folder`; call it only while nobody else writes there.

    Args:
        folder: where they wrote.
        deep: look in the folders below, too.
        older_than: seconds since it was last written to that a file must have been left for.
    """
    for path in sorted(folder.rglob(".*.tmp") if deep else folder.glob(".*.tmp")):
        # One in another is gone with that.
        left = TEMPORARY.fullmatch(path.name) and os.path.lexists(path)
        if left and time.time() - path.lstat().st_mtime >= older_than:
            remove(path)


def remove_temporaries_of(path: Path) -> None:
    """Delete what killed writers left of `path` itself, beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name[:100])}.*.tmp"):
        if TEMPORARY.fullmatch(left.name):
            remove(left)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, also one whose permissions were taken away; a missing one is fine.

    Raises:
        InputError: it cannot be deleted.
    """
    with refusals(path):
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
                return
            try:
                shutil.rmtree(path)
            except PermissionError:
                _open_up(path)
                shutil.rmtree(path)
        except FileNotFoundError:
            return


def _open_up(path: Path) -> None:
    path.chmod(0o700)
    for folder, inner, _ in os.walk(path):
        for name in inner:
            if not Path(folder, name).is_symlink():
                Path(folder, name).chmod(0o700)


def sync(path: Path) -> None:
    """fsync a file or a folder (which some file systems do not know how to do, and Windows has no way to ask for)."""
    if _IS_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path, needed: int = 0) -> Generator[Path, None, None]:
    """Yield a temporary path; when the block ends well it is fsynced and takes the name `path`, else it is deleted.

    A link at `path` is replaced, not followed; an empty folder there gives way.

    Args:
        path: the final name; its folder is made when missing.
        needed: bytes about to be written, checked against the free space first.
    """
    with refusals(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path, needed)
        temporary = temporary_name(path)
        try:
            yield temporary
            sync(temporary)
            _take_name(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def _take_name(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except IsADirectoryError:
        os.rmdir(path)  # which fails where it holds anything
        os.replace(temporary, path)


@contextmanager
def atomic_file(path: Path, needed: int = 0) -> Generator[FileWriter, None, None]:
    """`atomic_path` with a writer: stream bytes into a file that appears whole or not at all."""
    with atomic_path(path, needed) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            yield FileWriter(descriptor)
        finally:
            os.close(descriptor)


def check_writable(path: Path) -> None:
    """Find out, before long work, whether its result can be written to `path`; leaves nothing there.

    Args:
        path: of a file that there may be already; its folder is made when missing.

    Raises:
        InputError: a folder stands there, or the file's folder cannot be made or written.
    """
    if "\0" in str(path):
        raise InputError("a path holds no NUL", where=repr(str(path)), fix="give a file's path")
    with refusals(path):
        if path.is_dir() and not path.is_symlink():
            raise InputError("this is a folder, and a file is to be written", where=str(path), fix="give a file's path")
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = temporary_name(path)
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666))
        trial.unlink()


def open_own(path: Path, flags: int) -> int:
    """`os.open` for a file that is written in place: no link is followed, no pipe waited for, no folder opened.

    Raises:
        OSError: as the system says it; ELOOP for a link, EISDIR for a folder, EINVAL for anything else but a file.
    """
    descriptor = os.open(path, flags | _OWN, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return descriptor


def append_line(path: Path, line: str) -> None:
    """Append one line durably; a line that does not fit on the disk leaves the file as it was.

    A file that has a second name elsewhere (a hard link) is replaced by a copy of its own first.
    """
    data = line.encode() + b"\n"
    with refusals(path, len(data)):
        try:
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        except IsADirectoryError:
            os.rmdir(path)  # an empty folder gives way
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            if os.fstat(descriptor).st_nlink > 1:
                whole = _read_from(descriptor, 0, size)
                with atomic_file(path, size + len(data)) as file:
                    file.write(whole if whole.endswith(b"\n") or not whole else whole + b"\n")
                    file.write(data)
                return
            if size and _read_from(descriptor, size - 1, 1) != b"\n":
                data = b"\n" + data  # a killed writer's half line ends here, and is skipped by the reader
            try:
                FileWriter(descriptor).write(data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def _read_from(descriptor: int, start: int, size: int) -> bytes:
    """Bytes of a file from `start`; whatever is written next stands behind them."""
    os.lseek(descriptor, start, os.SEEK_SET)
    found = b""
    while len(found) < size and (part := os.read(descriptor, size - len(found))):
        found += part
    return found


def to_json(value: Any) -> Any:
    """`value` as plain JSON: configs dumped, paths and numpy scalars converted, NaN and infinities as null."""
    if isinstance(value, BaseModel):
        return to_json(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in cast(list[Any], value)]
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def save_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; what `to_json` accepts is accepted."""
    _save(path, (json.dumps(to_json(value), indent=1, allow_nan=False) + "\n").encode())


def save_lines(path: Path, values: "list[Any] | tuple[Any, ...]") -> None:
    """Write JSON Lines, atomically: the whole file is replaced."""
    _save(path, "".join(json.dumps(to_json(value), allow_nan=False) + "\n" for value in values).encode())


def save_text(path: Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    _save(path, text.encode("utf-8", "backslashreplace"))


def _save(path: Path, data: bytes) -> None:
    with atomic_file(path, len(data)) as file:
        file.write(data)


def save_record(path: Path, value: Any) -> None:
    """Write a JSON object together with a checksum of itself; `load_record` refuses it once it was changed."""
    record = to_json(value)
    save_json(path, {**record, DIGEST: fingerprint(record)})


def load_record(path: Path, limit: int = MAX_RECORD_BYTES) -> dict[str, Any]:
    """Read what `save_record` wrote; an object without a checksum (of an older version) is taken as it is.

    Raises:
        DamagedArtifact: it cannot be read, is no JSON object, or was changed after it was written.
    """
    value = load_json(path, limit)
    if not isinstance(value, dict):
        raise DamagedArtifact("this is not the record it should be", where=str(path))
    record = cast(dict[str, Any], value)
    digest = record.pop(DIGEST, None)
    if digest is None and record.get("schema_version", 1) == 1:
        return record  # of a version that wrote none
    if digest != fingerprint(record):
        raise DamagedArtifact("this file was changed after it was written: it fails its checksum", where=str(path))
    return record


def load_lines(path: Path) -> list[Any]:
    """Read JSON Lines; lines that are not whole (a writer was killed) are left out. A missing file has no lines."""
    if not os.path.lexists(path):
        return []
    values: list[Any] = []
    for line in read_bytes(path).split(b"\n"):
        try:
            values.append(_parse(line))
        except ValueError:
            continue
    return values


def load_json(path: Path, limit: int | None = None) -> Any:
    """Read JSON that a stranger may have written.

    Raises:
        DamagedArtifact: no file that can be read, not JSON, over `limit` bytes (by default `MAX_JSON_BYTES`), or nested
            deeper than `MAX_JSON_DEPTH`.
    """
    data = read_bytes(path, limit)
    try:
        return _parse(data)
    except ValueError as error:
        raise DamagedArtifact(f"this is not the JSON it should be ({error})", where=str(path)) from None


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """A file's bytes; a pipe or device is never waited for, and nothing over `limit` bytes is read.

    Raises:
        DamagedArtifact: no file that can be read, or a larger one.
    """
    limit = MAX_JSON_BYTES if limit is None else limit
    try:
        with readable(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size <= limit:
                data = file.read(limit + 1)
                if len(data) <= limit:
                    return data
    except OSError as error:
        raise DamagedArtifact(f"the file cannot be read ({error.strerror})", where=str(path)) from None
    raise DamagedArtifact(f"the file is larger than {limit} bytes", where=str(path))


def readable(path: Path) -> Path:
    """The same path, once it is known to lead to an ordinary file.

    Raises:
        DamagedArtifact: it is missing, or a folder, pipe or device.
        OSError: the system does not let one look.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedArtifact("this is no file but a folder, a pipe or a device", where=str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedArtifact("a file is missing", where=str(path)) from None
    return path


def _parse(data: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if is_deeper(value, MAX_JSON_DEPTH):
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")
    return value


def is_deeper(value: Any, depth: int) -> bool:
    """Whether JSON has more than `depth` levels of objects and arrays inside one another."""
    level: list[Any] = [[value]]
    for _ in range(depth + 1):
        inside = (part.values() if isinstance(part, dict) else part for part in level)
        level = [child for child in chain.from_iterable(inside) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Raises:
        DamagedArtifact: no file that can be read.
    """
    try:
        with readable(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedArtifact(f"the file cannot be read ({error.strerror})", where=str(path)) from None
