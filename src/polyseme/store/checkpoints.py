"""Checkpoints that survive a kill: a folder a step, complete only when its `COMPLETE` file says so.

`<folder>/<step>/` holds `tensors.safetensors`, `state.json` and `COMPLETE`, the checksums of both. The folder is
filled under a temporary name and renamed, so that a step is there whole or not at all; checksums catch later damage.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.store import files
from polyseme.store.arrays import load_tensors, save_tensors
from polyseme.store.failures import refusals

if TYPE_CHECKING:
    from torch import Tensor

COMPLETE = "COMPLETE"
_TENSORS = "tensors.safetensors"
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint.

    Attributes:
        step: of the work.
        path: its folder.
        tensors: as saved, bit for bit.
        state: JSON, as saved (floats exactly; NaN and infinities as None).
    """

    step: int
    path: Path
    tensors: "dict[str, Tensor]"
    state: Any


def save_checkpoint(folder: Path, step: int, tensors: "Mapping[str, Tensor]", state: Any, *, keep: int = 2) -> Path:
    """Write the checkpoint of `step` and delete all but the last `keep`; returns its folder.

    Checkpoints of later steps are deleted too: they belong to work that was given up.

    Raises:
        InputError: the disk is full; the checkpoints that were there stay.
    """
    final = folder / f"{step:010d}"
    temporary = files.temporary_name(final)
    needed = sum(tensor.nbytes for tensor in tensors.values())
    with refusals(final, needed):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_tensors(temporary / _TENSORS, tensors)
            files.save_json(temporary / _STATE, state)
            marker = {
                "step": step,
                "files": {name: files.sha256(temporary / name) for name in (_TENSORS, _STATE)},
            }
            files.save_json(temporary / COMPLETE, marker)
            if os.path.lexists(final):
                os.rename(final, files.temporary_name(final))
            os.rename(temporary, final)
            files.sync(folder)
        except BaseException:
            with suppress(InputError):
                files.remove(temporary)
            raise
    files.remove_temporaries(folder)
    earlier = [other for other in _steps(folder) if other <= step]
    for other in _steps(folder):
        if other not in earlier[-keep:]:
            files.remove(folder / f"{other:010d}")
    return final


def latest_checkpoint(folder: Path, *, reporter: Reporter | None = None) -> Checkpoint | None:
    """The newest whole checkpoint; damaged ones are named to the reporter and passed over. None when there is none."""
    reporter = reporter or Silent()
    for step in reversed(_steps(folder)):
        path = folder / f"{step:010d}"
        try:
            return load_checkpoint(folder, step)
        except DamagedArtifact as damage:
            reporter.message(f"checkpoint {path} is damaged ({damage.what}); using the one before it")
    return None


def load_checkpoint(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of one step.

    Raises:
        DamagedArtifact: there is none, or it fails its checksums.
    """
    path = folder / f"{step:010d}"
    marker = files.load_json(path / COMPLETE)
    checksums: Any = cast(dict[str, Any], marker).get("files") if isinstance(marker, dict) else None
    if not isinstance(checksums, dict) or cast(Any, marker).get("step") != step:
        raise DamagedArtifact("its COMPLETE file cannot be read", where=str(path))
    for name in (_TENSORS, _STATE):
        if not (path / name).is_file():
            raise DamagedArtifact(f"{name} is missing", where=str(path))
        if cast(dict[str, Any], checksums).get(name) != files.sha256(path / name):
            raise DamagedArtifact(f"{name} fails its checksum", where=str(path))
    return Checkpoint(step, path, load_tensors(path / _TENSORS), files.load_json(path / _STATE))


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if len(name) == 10 and name.isascii() and name.isdigit())
