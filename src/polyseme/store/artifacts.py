"""Finished artifacts: their files with sizes and checksums, and never trusted unchecked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import ValidationError

from polyseme.core.config import Record, fingerprint
from polyseme.core.errors import DamagedArtifact
from polyseme.core.progress import Reporter, Silent
from polyseme.store import files
from polyseme.store.arrays import load_array, load_tensors

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
"""Version 1 had no checksum of the manifest itself."""

# Hashing more than this is announced: it takes seconds.
_SLOW_BYTES = 2**29


class FileRecord(Record):
    """One file of an artifact or a run."""

    size: int
    """Bytes."""
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """The record of a file as it is now."""
        return cls(size=path.stat().st_size, sha256=files.sha256(path))

    def problem(self, path: Path, *, checksum: bool = True) -> str | None:
        """What is wrong with the file at `path`, None when nothing is.

        Args:
            path: where it should be.
            checksum: read it, and do not only look at its size.
        """
        try:
            if not path.is_file() or path.stat().st_size != self.size:
                return f"{path.name} is missing or cut short"
            if checksum and files.sha256(path) != self.sha256:
                return f"{path.name} fails its checksum"
        except (OSError, ValueError, DamagedArtifact):
            return f"{path.name} cannot be read"
        return None


class Manifest(Record):
    """What an artifact is made of and made from; written last, so that its presence means complete."""

    schema_version: int = SCHEMA_VERSION
    stage: str
    key: str
    """`fingerprint` of stage, version, config and inputs."""
    version: int
    """Raised by a stage when its code changes what it makes."""
    config: Any
    inputs: dict[str, str]
    """Input name to the key of its artifact or the hash of its content."""
    files: dict[str, FileRecord]
    """Path inside the artifact, with forward slashes, to its size and checksum."""
    made_at: float
    """Seconds since 1970."""
    seconds: float
    """How long all processes that worked at it did so, those that were killed included."""


@dataclass(frozen=True)
class Artifact:
    """One finished, verified output of a stage.

    Attributes:
        path: its folder; read-only by convention.
        key: 64 hex digits, the identity of everything that made it.
        stage: name of the stage.
        records: its files.
        seconds: how long all processes that worked at it did so.
        identity: what its key is the hash of: `stage`, `version`, `config`, `inputs`.
    """

    path: Path
    key: str
    stage: str
    records: Mapping[str, FileRecord] = field(default_factory=dict[str, FileRecord], repr=False, compare=False)
    seconds: float = field(default=float("nan"), repr=False, compare=False)
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            DamagedArtifact: it has no file of that name, or the file is gone or its size changed since it was verified.
        """
        record = self.records.get(name)
        if record is None:
            raise DamagedArtifact(f"the artifact has no file {name!r}", where=str(self.path))
        path = self.path / name
        if not path.is_file() or path.stat().st_size != record.size:
            raise DamagedArtifact(
                f"{name} of stage {self.stage} is missing or cut short",
                where=str(path),
                fix="run the study again: the stage is computed again",
            )
        return path

    def json(self, name: str) -> Any:
        """A JSON file's value."""
        return files.load_json(self.file(name))

    def parsed(self, name: str, parse: Callable[[Any], T]) -> T:
        """What `parse` makes of a JSON file's value.

        Raises:
            DamagedArtifact: the file cannot be read, or its value is not what `parse` takes.
        """
        value = self.json(name)
        try:
            return parse(value)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedArtifact(
                f"{name} is not what stage {self.stage} writes", where=str(self.path / name)
            ) from error

    def array(self, name: str) -> np.ndarray:
        """An `.npy` file, mapped read-only."""
        return load_array(self.file(name))

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """A safetensors file's tensors."""
        return load_tensors(self.file(name))


class Verifier:
    """Checks artifacts, each file of them once a process."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int, int, int]] = set()

    def verify(self, folder: Path, stage: str, key: str, reporter: Reporter) -> Artifact:
        """The artifact in `folder`, every file of it hashed once a process.

        Raises:
            DamagedArtifact: it fails its checksums, or is another's.
        """
        try:
            return self._verify(folder, stage, key, reporter)
        except OSError as error:
            raise DamagedArtifact(f"it cannot be read ({error.strerror})", where=str(folder)) from error

    def _verify(self, folder: Path, stage: str, key: str, reporter: Reporter) -> Artifact:
        manifest = _manifest(folder)
        identity = {"stage": stage, "version": manifest.version, "config": manifest.config, "inputs": manifest.inputs}
        if manifest.key != key or manifest.stage != stage or fingerprint(identity) != key:
            raise DamagedArtifact("the manifest is another artifact's", where=str(folder / MANIFEST))
        unread: list[str] = []
        for name, record in manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != record.size:
                raise DamagedArtifact(f"{name} is missing or cut short", where=str(path))
            if _state(path) not in self._seen:
                unread.append(name)
        total = sum(manifest.files[name].size for name in unread)
        progress = (reporter if total > _SLOW_BYTES else Silent()).task(f"checking {stage}", total / 1e6, "MB")
        done = 0
        for name in unread:
            path = folder / name
            state = _state(path)
            if files.sha256(path) != manifest.files[name].sha256:
                raise DamagedArtifact(f"{name} fails its checksum", where=str(path))
            self._seen.add(state)
            done += manifest.files[name].size
            progress.update(done / 1e6)
        return Artifact(folder, key, stage, manifest.files, manifest.seconds, identity)

    def trust(self, path: Path) -> None:
        """Take a file for verified: it was hashed a moment ago."""
        self._seen.add(_state(path))


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate(files.load_record(path))
    except ValidationError as error:
        raise DamagedArtifact("the manifest cannot be read", where=str(path)) from error
    for name in manifest.files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in name:
            raise DamagedArtifact("the manifest names a file outside its folder", where=str(path))
    return manifest


def _state(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
