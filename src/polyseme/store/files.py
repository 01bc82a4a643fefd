"""Files that are whole or absent: atomic writes, bounded reads, checksums, and a full disk told in plain words.

Every write goes to a temporary name in the same folder, is fsynced, and takes its name by rename; then the folder is
fsynced. A reader therefore sees the old file, the new file or none, whenever the power goes.
"""

import errno
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import BaseModel

from polyseme.core.errors import DamagedArtifact, InputError

if TYPE_CHECKING:
    from torch import Tensor

MAX_JSON_BYTES = 256 * 2**20
MAX_JSON_DEPTH = 64
TEMPORARY_SUFFIX = ".tmp"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MEGABYTE = 10**6
_counter = itertools.count()


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


@contextmanager
def full_disk_is_an_input_error(where: Path, needed: int = 0) -> Generator[None, None, None]:
    """Turn "no space left" (also over quota, or over the file size limit) into an `InputError` with the fix.

    Args:
        where: the file or folder being written.
        needed: bytes about to be written, where known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _disk_full(where, needed) from error


def _disk_full(where: Path, needed: int) -> InputError:
    folder = _existing(where)
    free = shutil.disk_usage(folder).free
    # A quota or a file size limit can refuse what the disk has room for; then ask for the whole size.
    short = needed - free if needed > free else max(needed, 64 * _MEGABYTE)
    return InputError(
        "the disk is full",
        where=str(where),
        fix=f"free {math.ceil(short / _MEGABYTE)} MB there or choose another folder, then run the same command again: "
        "finished work is kept",
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def check_space(where: Path, needed: int) -> None:
    """Raise `InputError` when the disk of `where` has fewer than `needed` bytes free."""
    if needed > shutil.disk_usage(_existing(where)).free:
        raise _disk_full(where, needed)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other writer uses; leftovers are swept by `remove_temporaries`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}{TEMPORARY_SUFFIX}")


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left under `folder`; call it only while holding the folder's lock."""
    for path in sorted(folder.rglob(f".*{TEMPORARY_SUFFIX}")):
        remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder; a missing one is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path, needed: int = 0) -> Generator[Path, None, None]:
    """Yield a temporary path; when the block ends well it is fsynced and takes the name `path`, else it is deleted.

    Args:
        path: the final name; its folder is made when missing.
        needed: bytes about to be written, checked against the free space first.
    """
    with full_disk_is_an_input_error(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path, needed)
        temporary = temporary_name(path)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextmanager
def atomic_file(path: Path, needed: int = 0) -> Generator[FileWriter, None, None]:
    """`atomic_path` with a writer: stream bytes into a file that appears whole or not at all."""
    with atomic_path(path, needed) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            yield FileWriter(descriptor)
        finally:
            os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Append one line durably; a line that does not fit on the disk leaves the file as it was."""
    data = line.encode() + b"\n"
    with full_disk_is_an_input_error(path, len(data)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # a killed writer's half line ends here, and is skipped by the reader
            try:
                FileWriter(descriptor).write(data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


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
    data = (json.dumps(to_json(value), indent=1, allow_nan=False) + "\n").encode()
    with atomic_file(path, len(data)) as file:
        file.write(data)


def save_lines(path: Path, values: "list[Any] | tuple[Any, ...]") -> None:
    """Write JSON Lines, atomically: the whole file is replaced."""
    data = "".join(json.dumps(to_json(value), allow_nan=False) + "\n" for value in values).encode()
    with atomic_file(path, len(data)) as file:
        file.write(data)


def load_lines(path: Path) -> list[Any]:
    """Read JSON Lines; lines that are not whole (a writer was killed) are left out. A missing file has no lines."""
    if not path.exists():
        return []
    values: list[Any] = []
    for line in _bounded(path).split(b"\n"):
        try:
            values.append(_parse(line))
        except ValueError:
            continue
    return values


def load_json(path: Path) -> Any:
    """Read JSON that a stranger may have written.

    Raises:
        DamagedArtifact: not JSON, over `MAX_JSON_BYTES`, or nested deeper than `MAX_JSON_DEPTH`.
    """
    try:
        return _parse(_bounded(path))
    except DamagedArtifact:
        raise
    except ValueError as error:
        raise DamagedArtifact(f"this is not the JSON it should be ({error})", where=str(path)) from None


def _bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        raise DamagedArtifact("a file is missing", where=str(path)) from None
    if len(data) > MAX_JSON_BYTES:
        raise DamagedArtifact(f"a JSON file is larger than {MAX_JSON_BYTES} bytes", where=str(path))
    return data


def _parse(data: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [item for item in cast(dict[str, Any], value).values() if isinstance(item, dict | list)]
    if isinstance(value, list):
        return [item for item in cast(list[Any], value) if isinstance(item, dict | list)]
    return []


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array as `.npy`, atomically; object arrays are refused."""
    array = np.asarray(array)
    with atomic_file(path, array.nbytes + 128) as file:
        np.lib.format.write_array(cast(Any, file), array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    """Map an `.npy` file read-only; pickled objects are refused.

    Raises:
        DamagedArtifact: missing, cut short or not an `.npy` file.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DamagedArtifact(f"an array cannot be read ({error})", where=str(path)) from None
    if not isinstance(array, np.ndarray):
        raise DamagedArtifact("an .npz archive stands where an .npy array should", where=str(path))
    return array


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically; tensors that share storage are written as separate copies."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    needed = sum(tensor.nbytes for tensor in plain.values()) + 1024
    with atomic_path(path, needed) as temporary:
        try:
            save_file(plain, temporary, dict(metadata or {}))
        except SafetensorError as error:
            # The library reports the system's error only in its text.
            for code in _FULL:
                if f"os error {code})" in str(error):
                    raise OSError(code, os.strerror(code), str(path)) from error
            raise


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file.

    Raises:
        DamagedArtifact: missing, cut short or not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedArtifact(f"tensors cannot be read ({error})", where=str(path)) from None


def load_tensors_metadata(path: Path) -> dict[str, str]:
    """The metadata strings of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DamagedArtifact(f"tensors cannot be read ({error})", where=str(path)) from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
