"""Arrays and tensors on disk: `.npy` and safetensors, written atomically and read without trust."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from polyseme.core.errors import DamagedArtifact
from polyseme.store.files import atomic_file, atomic_path, readable

if TYPE_CHECKING:
    from torch import Tensor

_OS_ERROR = re.compile(r"os error (\d+)\)")


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
        array = np.load(readable(path), mmap_mode="r", allow_pickle=False)
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
            if found := _OS_ERROR.search(str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
            raise


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file.

    Raises:
        DamagedArtifact: missing, cut short or not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(readable(path))
    except (SafetensorError, OSError) as error:
        raise DamagedArtifact(f"tensors cannot be read ({error})", where=str(path)) from None


def load_tensors_metadata(path: Path) -> dict[str, str]:
    """The metadata strings of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(readable(path), framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DamagedArtifact(f"tensors cannot be read ({error})", where=str(path)) from None
