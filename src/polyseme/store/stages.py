"""The stage cache: each artifact is made once, under the hash of its config and inputs, and never trusted unchecked."""

import os
import re
import stat
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from polyseme.core.config import Record, fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.store import files
from polyseme.store.arrays import load_array, load_tensors
from polyseme.store.failures import disk_refusals, own_folder, refusals
from polyseme.store.locks import Held, lock
from polyseme.store.sweeping import LOCKS, PARTIAL, sweep

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

MANIFEST = "manifest.json"
NAME = re.compile(r"[a-z0-9_-]{1,64}")
SCHEMA_VERSION = 2
"""1 had no checksum of the manifest itself."""

_WORK = ".work.json"
"""How long earlier processes worked at an unfinished artifact."""

# Hashing more than this is announced: it takes seconds.
_SLOW_BYTES = 2**29


class FileRecord(Record):
    """One file of an artifact or a run."""

    size: int
    """Bytes."""
    sha256: str


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


class _Work(Record):
    """`.work.json` of an unfinished artifact."""

    started: float = Field(ge=0, allow_inf_nan=False)
    """When the last process began, seconds since 1970."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """How long those before it worked."""


@dataclass(frozen=True)
class Artifact:
    """One finished, verified output of a stage.

    Attributes:
        path: its folder; read-only by convention.
        key: 64 hex digits, the identity of everything that made it.
        stage: name of the stage.
        records: its files.
        seconds: how long all processes that worked at it did so.
    """

    path: Path
    key: str
    stage: str
    records: Mapping[str, FileRecord] = field(default_factory=dict[str, FileRecord], repr=False, compare=False)
    seconds: float = field(default=float("nan"), repr=False, compare=False)

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


class Store:
    """A folder of runs (`<name>-<hash8>/`) and of the artifacts they share (`objects/`).

    Args:
        root: made when missing; it may be a link, unlike what lies in it.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.objects = self.root / "objects"
        self.runs = self.root
        self._verified: set[tuple[str, int, int, int]] = set()
        self._swept = False
        check_root(self.root)
        own_folder(self.objects)
        files.check_writable(self.objects / MANIFEST)

    def stage(
        self,
        name: str,
        config: Any,
        inputs: Mapping[str, str],
        make: Callable[[Path], None],
        load: Callable[[Artifact], T],
        *,
        version: int = 1,
        scratch: Collection[str] = (),
        fresh: bool = False,
        reporter: Reporter | None = None,
    ) -> tuple[Artifact, T]:
        """The artifact of a stage, found and verified or made, and what `load` reads from it.

        `key = fingerprint({stage, version, config, inputs})`. The artifact lives in `objects/<name>-<key[:16]>/` and is
        built in a `.partial` folder beside it. `make` finds that folder empty but for its `scratch`: folders that
        outlive a kill and never become part of the artifact. What lies in them must prove itself whole, as checkpoints
        and harvested shards do; where `make` raises `DamagedArtifact` about it, all is deleted and made from nothing.

        One process at a time makes, verifies and loads an artifact. An artifact that fails its checksums, or that
        `load` finds incomplete (`DamagedArtifact`), is made again after a message.

        Args:
            name: `[a-z0-9_-]{1,64}`.
            config: JSON.
            inputs: input name to the key of the artifact, or the hash of the content, that the stage reads.
            make: fills the folder it is given.
            load: reads everything that is needed of the artifact, which may be replaced after it returns.
            version: raise it when the code of the stage changes what it makes.
            scratch: names of folders in which `make` keeps what a killed process is resumed from.
            fresh: make it, whatever is there; an old one stays until the new one is finished.
            reporter: gets messages about waiting, damage and long checks.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        assert NAME.fullmatch(name), f"bad stage name {name!r}"
        reporter = reporter or Silent()
        identity = _identity(name, config, inputs, version)
        work = _Making(self, name, identity, frozenset(scratch), reporter)
        if not self._swept:
            self._swept = True
            sweep(self.root, reporter)

        def waiting(process: str) -> None:
            reporter.message(f"{name}: another process ({process}) is making this; waiting for it")

        with (
            disk_refusals(work.final),
            lock(self.objects / LOCKS / work.final.name, on_wait=waiting) as held,
        ):
            found = None if fresh else work.find(load)
            if found is not None:
                return found
            artifact = work.make(make, held, fresh=fresh)
            try:
                return artifact, load(artifact)
            except DamagedArtifact as damage:
                # Files can vanish while others are still being made: a long stage on a disk that is swept, say.
                work.discard(damage)
                artifact = work.make(make, held, fresh=True)
                return artifact, load(artifact)

    def key(self, name: str, config: Any, inputs: Mapping[str, str], *, version: int = 1) -> str:
        """The key of the artifact that `stage` makes of the same arguments, 64 hex digits."""
        return fingerprint(_identity(name, config, inputs, version))

    def find(self, stage: str, key: str, *, reporter: Reporter | None = None) -> Artifact:
        """A finished artifact by stage and key, verified.

        Raises:
            InputError: there is none.
            DamagedArtifact: it fails its checksums.
        """
        wanted = f"{stage}-{key[:16]}"
        if wanted in {folder.name for folder in self.objects.iterdir()}:
            return self.verify(self.objects / wanted, stage, key, reporter or Silent())
        raise InputError(
            f"there is no artifact {wanted}", where=str(self.objects), fix="run the study that makes it again"
        )

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
        return Artifact(folder, key, stage, manifest.files, manifest.seconds)

    def trust(self, path: Path) -> None:
        """Take a file for verified: it was hashed a moment ago."""
        self._verified.add(_state(path))


class _Making:
    """One artifact in the hands of the process that holds its lock."""

    def __init__(self, store: Store, name: str, identity: dict[str, Any], scratch: frozenset[str], reporter: Reporter):
        self.store, self.name, self.identity, self.scratch, self.reporter = store, name, identity, scratch, reporter
        self.key = fingerprint(identity)
        self.final = store.objects / f"{name}-{self.key[:16]}"
        self.partial = self.final.with_name(self.final.name + PARTIAL)

    def find(self, load: Callable[[Artifact], T]) -> tuple[Artifact, T] | None:
        """The artifact that is there, or a partial one that only lacks its name; None where it must be made."""
        if os.path.lexists(self.final):
            try:
                artifact = self.store.verify(self.final, self.name, self.key, self.reporter)
                loaded = load(artifact)
                files.remove(self.partial)  # of work that was to replace it, and was given up
                return artifact, loaded
            except DamagedArtifact as damage:
                self.discard(damage)
        if not os.path.lexists(self.partial / MANIFEST):
            return None
        try:
            finished = self.store.verify(self.partial, self.name, self.key, self.reporter)
            artifact = self._give_name(finished)
            return artifact, load(artifact)
        except DamagedArtifact as damage:
            if os.path.lexists(self.final):
                self.discard(damage)
            return None

    def discard(self, damage: DamagedArtifact) -> None:
        """Delete the artifact, and say why."""
        self.reporter.message(f"{self.name}: {damage.what} ({damage.where}); computing it again")
        files.remove(self.final)

    def make(self, make: Callable[[Path], None], held: Held, *, fresh: bool) -> Artifact:
        """Fill the partial folder, and give it its name."""
        if fresh:
            files.remove(self.partial)
        self._settle()
        earlier = self._worked(held)
        started = time.time()
        try:
            files.save_record(self.partial / _WORK, _Work(started=started, seconds=earlier))
            try:
                make(self.partial)
            except DamagedArtifact as damage:
                if not self.scratch or not _lies_in(damage.where, self.partial):
                    raise
                self.reporter.message(f"{self.name}: {damage.what} ({damage.where}); starting it from the beginning")
                files.remove(self.partial)
                self.partial.mkdir()
                make(self.partial)
            return self._publish(earlier + max(0.0, time.time() - started))
        except BaseException:
            with suppress(InputError, OSError):
                worked = earlier + max(0.0, time.time() - started)
                if _is_folder(self.partial):  # which it is no longer once it has its name
                    files.save_record(self.partial / _WORK, _Work(started=time.time(), seconds=worked))
            raise

    def _settle(self) -> None:
        """Make the partial folder what `make` is promised: empty but for its scratch, and without links in that."""
        files.remove_temporaries_of(self.final)
        if not _is_folder(self.partial):
            files.remove(self.partial)
        own_folder(self.partial)
        try:
            for path in list(self.partial.iterdir()):
                is_folder = _is_folder(path)
                if (path.name == _WORK and not is_folder) or (path.name in self.scratch and is_folder):
                    continue
                files.remove(path)
            files.remove_temporaries(self.partial)
            for name in self.scratch:
                if os.path.lexists(self.partial / name):
                    _clear_of_links(self.partial / name)
        except PermissionError:
            files.remove(self.partial)
            self.partial.mkdir()

    def _worked(self, held: Held) -> float:
        """Seconds that earlier processes worked at it, as far as is known."""
        try:
            work = _Work.model_validate(files.load_record(self.partial / _WORK))
        except (DamagedArtifact, ValidationError):
            return 0.0
        # A process that was killed did not add its time: it worked until its lock's last sign of life.
        return work.seconds + max(0.0, (held.last_sign or 0.0) - work.started)

    def _publish(self, seconds: float) -> Artifact:
        records: dict[str, FileRecord] = {}
        for name in _files_of(self.partial, self.scratch):
            path = self.partial / name
            files.sync(path)
            records[name] = FileRecord(size=path.stat().st_size, sha256=files.sha256(path))
        for folder, _, _ in os.walk(self.partial):
            files.sync(Path(folder))
        manifest = Manifest(**self.identity, key=self.key, files=records, made_at=time.time(), seconds=seconds)
        files.save_record(self.partial / MANIFEST, manifest)
        return self._give_name(Artifact(self.partial, self.key, self.name, records, seconds))

    def _give_name(self, finished: Artifact) -> Artifact:
        """Rename the finished partial folder, after deleting in it what is no part of the artifact."""
        kept = {MANIFEST, *(PurePosixPath(name).parts[0] for name in finished.records)}
        for path in list(self.partial.iterdir()):
            if path.name not in kept:
                files.remove(path)
        old = files.temporary_name(self.final)
        if os.path.lexists(self.final):
            os.rename(self.final, old)
        os.rename(self.partial, self.final)
        files.sync(self.store.objects)
        files.remove(old)
        for name in finished.records:
            self.store.trust(self.final / name)
        return Artifact(self.final, self.key, self.name, finished.records, finished.seconds)


def _identity(name: str, config: Any, inputs: Mapping[str, str], version: int) -> dict[str, Any]:
    return {"stage": name, "version": version, "config": files.to_json(config), "inputs": dict(inputs)}


def check_root(root: Path) -> None:
    """Refuse a folder of runs that no system could be asked for, before anything is looked for in it.

    Raises:
        InputError: its path is empty, holds a NUL or is too long, or a file stands there.
    """
    if "\0" in str(root):
        raise InputError("a path holds no NUL", where=f"root, {str(root)!r}", fix="give a folder's path")
    with refusals(root):
        try:
            if not stat.S_ISDIR(root.stat().st_mode):
                raise InputError("a file stands where the folder of runs should", where=str(root), fix="give a folder")
        except FileNotFoundError:
            if root.is_symlink():
                raise InputError("a link that leads nowhere", where=str(root), fix="give a folder") from None


def _lies_in(where: str | None, folder: Path) -> bool:
    return where is not None and Path(where).is_relative_to(folder)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _clear_of_links(folder: Path) -> None:
    """Delete all below `folder` that is no file and no folder: nothing is to be written through it."""
    for at, inner, names in os.walk(folder, onerror=_raise):
        for name in (*inner, *names):
            path = Path(at, name)
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                path.unlink()
                if name in inner:
                    inner.remove(name)


def _raise(error: OSError) -> None:
    raise error


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


def _files_of(folder: Path, scratch: Collection[str]) -> list[str]:
    """The files of a finished partial folder: all but the scratch, the record of the work and temporary files."""
    found: list[str] = []
    for at, inner, names in os.walk(folder):
        top = Path(at) == folder
        inner[:] = [name for name in inner if not (top and name in scratch)]
        for name in names:
            path = Path(at, name)
            outside = top and name in (_WORK, MANIFEST)
            if not outside and not files.TEMPORARY.fullmatch(name) and stat.S_ISREG(path.lstat().st_mode):
                found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def _state(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
