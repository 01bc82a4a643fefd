"""The stage cache: each artifact is made once, under the hash of its config and inputs, and never trusted unchecked."""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import ValidationError

from polyseme.core.config import Record, fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.store import files
from polyseme.store.locks import lock

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
NAME = re.compile(r"[a-z0-9_-]{1,64}")

# Hashing more than this is announced: it takes seconds.
_SLOW_BYTES = 2**29


class FileRecord(Record):
    """One file of an artifact."""

    size: int
    """Bytes."""
    sha256: str


class Manifest(Record):
    """What an artifact is made of and made from; written last, so that its presence means complete."""

    schema_version: int = 1
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
    """How long the last process worked at it."""


@dataclass(frozen=True)
class Artifact:
    """One finished, verified output of a stage.

    Attributes:
        path: its folder; read-only by convention.
        key: 64 hex digits, the identity of everything that made it.
        stage: name of the stage.
        records: its files.
    """

    path: Path
    key: str
    stage: str
    records: Mapping[str, FileRecord] = field(default_factory=dict[str, FileRecord], repr=False, compare=False)

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            InputError: it has no file of that name.
            DamagedArtifact: the file is gone or its size changed since it was verified.
        """
        record = self.records.get(name)
        if record is None:
            raise InputError(
                f"the artifact has no file {name!r}", where=str(self.path), fix=f"it has {', '.join(self.records)}"
            )
        path = self.path / name
        if not path.is_file() or path.stat().st_size != record.size:
            raise DamagedArtifact(
                f"{name} of stage {self.stage} is missing or cut short",
                where=str(path),
                fix="run the study again: the stage is made anew",
            )
        return path

    def json(self, name: str) -> Any:
        """A JSON file's value."""
        return files.load_json(self.file(name))

    def array(self, name: str) -> np.ndarray:
        """An `.npy` file, mapped read-only."""
        return files.load_array(self.file(name))

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """A safetensors file's tensors."""
        return files.load_tensors(self.file(name))


class Store:
    """A folder of runs (`<name>-<hash8>/`) and of the artifacts they share (`objects/`).

    Args:
        root: made when missing.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.objects = self.root / "objects"
        self.runs = self.root
        self._verified: set[tuple[str, int, int, int]] = set()
        try:
            self.objects.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the store's folder cannot be made ({error.strerror})",
                where=str(self.root),
                fix="give a folder that you may write",
            ) from error

    def stage(
        self,
        name: str,
        config: Any,
        inputs: Mapping[str, str],
        make: Callable[[Path], None],
        *,
        version: int = 1,
        reporter: Reporter | None = None,
    ) -> Artifact:
        """The artifact of a stage: found and verified, or made.

        `key = fingerprint({stage, version, config, inputs})`. The artifact lives in `objects/<name>-<key[:16]>/` and is
        built in a `.partial` folder beside it that outlives a kill: `make` may find there whole files it wrote before
        (files written through `polyseme.store` are whole or absent), and only those. Files that fail their checksum
        are deleted, and `make` runs again with the rest in place.

        Args:
            name: `[a-z0-9_-]{1,64}`.
            config: JSON.
            inputs: input name to the key of the artifact, or the hash of the content, that the stage reads.
            make: fills the folder it is given.
            version: raise it when the code of the stage changes what it makes.
            reporter: told about waiting, damage and long checks.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        assert NAME.fullmatch(name), f"bad stage name {name!r}"
        reporter = reporter or Silent()
        identity = self._identity(name, config, inputs, version)
        key = fingerprint(identity)
        final = self.objects / f"{name}-{key[:16]}"

        def waiting(process: str) -> None:
            reporter.message(f"{name}: another process ({process}) is making this; waiting for it")

        if final.exists():
            try:
                return self._verify(final, name, key, reporter)
            except DamagedArtifact:
                pass  # looked at again, and told, under the lock
        with (
            files.full_disk_is_an_input_error(final),
            lock(self.objects / ".locks" / final.name, on_wait=waiting),
        ):
            expected: set[str] = set()
            partial = final.with_name(final.name + ".partial")
            if final.exists():
                try:
                    return self._verify(final, name, key, reporter)
                except DamagedArtifact as damage:
                    reporter.message(f"{name}: {damage.what} ({damage.where}); making it again")
                    expected = self._keep_what_is_whole(final, partial)
            partial.mkdir(exist_ok=True)
            files.remove_temporaries(partial)
            started = time.time()
            make(partial)
            if not expected <= set(_files_of(partial)):
                # `make` took the leftovers of a damaged artifact for finished work.
                files.remove(partial)
                partial.mkdir()
                make(partial)
            return self._publish(partial, final, identity, key, started)

    def discard(self, name: str, config: Any, inputs: Mapping[str, str], *, version: int = 1) -> None:
        """Delete the artifact that `stage` with these arguments would return, finished or not."""
        key = fingerprint(self._identity(name, config, inputs, version))
        final = self.objects / f"{name}-{key[:16]}"
        with lock(self.objects / ".locks" / final.name, on_wait=lambda _: None):
            files.remove(final)
            files.remove(final.with_name(final.name + ".partial"))

    def find(self, stage: str, key: str, *, reporter: Reporter | None = None) -> Artifact:
        """A finished artifact by stage and key, verified.

        Raises:
            InputError: there is none.
            DamagedArtifact: it fails its checksums.
        """
        wanted = f"{stage}-{key[:16]}"
        for folder in self.objects.iterdir():
            if folder.name == wanted:
                return self._verify(folder, stage, key, reporter or Silent())
        raise InputError(
            f"there is no artifact {wanted}", where=str(self.objects), fix="run the study that makes it again"
        )

    def _identity(self, name: str, config: Any, inputs: Mapping[str, str], version: int) -> dict[str, Any]:
        return {"stage": name, "version": version, "config": files.to_json(config), "inputs": dict(inputs)}

    def _publish(self, partial: Path, final: Path, identity: dict[str, Any], key: str, started: float) -> Artifact:
        files.remove_temporaries(partial)
        records: dict[str, FileRecord] = {}
        (partial / MANIFEST).unlink(missing_ok=True)
        for name in _files_of(partial):
            path = partial / name
            files.sync(path)
            records[name] = FileRecord(size=path.stat().st_size, sha256=files.sha256(path))
        for folder, _, _ in os.walk(partial):
            files.sync(Path(folder))
        now = time.time()
        manifest = Manifest(**identity, key=key, files=records, made_at=now, seconds=now - started)
        files.save_json(partial / MANIFEST, manifest)
        os.rename(partial, final)
        files.sync(self.objects)
        for name in records:
            self._verified.add(_state(final / name))
        return Artifact(final, key, identity["stage"], records)

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
            if _state(path) not in self._verified:
                unread.append(name)
        total = sum(manifest.files[name].size for name in unread)
        progress = (reporter if total > _SLOW_BYTES else Silent()).task(f"checking {stage}", total / 1e6, "MB")
        done = 0
        for name in unread:
            path = folder / name
            state = _state(path)
            if files.sha256(path) != manifest.files[name].sha256:
                raise DamagedArtifact(f"{name} fails its checksum", where=str(path))
            self._verified.add(state)
            done += manifest.files[name].size
            progress.update(done / 1e6)
        return Artifact(folder, key, stage, manifest.files)

    def _keep_what_is_whole(self, final: Path, partial: Path) -> set[str]:
        """Turn a damaged artifact back into a partial one that holds its whole files; returns what it should have."""
        files.remove(partial)
        os.rename(final, partial)
        try:
            records = _manifest(partial).files
        except DamagedArtifact:
            files.remove(partial)
            return set()
        for name in _files_of(partial):
            path = partial / name
            if name not in records or files.sha256(path) != records[name].sha256:
                path.unlink()
        (partial / MANIFEST).unlink(missing_ok=True)
        return set(records)


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    value = files.load_json(path)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        raise DamagedArtifact("the manifest cannot be read", where=str(path)) from error
    for name in cast(dict[str, Any], manifest.files):
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise DamagedArtifact("the manifest names a file outside its folder", where=str(path))
    return manifest


def _files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _state(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
