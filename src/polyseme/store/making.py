"""How an artifact is made: in a folder of its own that outlives a kill, and gets its name when all of it is written."""

import os
import stat
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from polyseme.core.config import Record, fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter
from polyseme.store import files
from polyseme.store.artifacts import MANIFEST, Artifact, FileRecord, Manifest, Verifier
from polyseme.store.failures import own_folder
from polyseme.store.locks import Held
from polyseme.store.sweeping import PARTIAL

T = TypeVar("T")

_WORK = ".work.json"
"""How long earlier processes worked at an unfinished artifact."""


class _Work(Record):
    """`.work.json` of an unfinished artifact."""

    started: float = Field(ge=0, allow_inf_nan=False)
    """When the last process began, seconds since 1970."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """How long those before it worked."""


class Making:
    """One artifact in the hands of the process that holds its lock."""

    def __init__(
        self,
        objects: Path,
        verifier: Verifier,
        name: str,
        identity: dict[str, Any],
        scratch: frozenset[str],
        reporter: Reporter,
    ):
        self.objects, self.verifier = objects, verifier
        self.name, self.identity, self.scratch, self.reporter = name, identity, scratch, reporter
        self.key = fingerprint(identity)
        self.final = objects / f"{name}-{self.key[:16]}"
        self.partial = self.final.with_name(self.final.name + PARTIAL)

    def find(self, load: Callable[[Artifact], T]) -> tuple[Artifact, T] | None:
        """The artifact that is there, or a partial one that only lacks its name; None where it must be made."""
        if os.path.lexists(self.final):
            try:
                artifact = self.verifier.verify(self.final, self.name, self.key, self.reporter)
                loaded = load(artifact)
                files.remove(self.partial)  # of work that was to replace it, and was given up
                return artifact, loaded
            except DamagedArtifact as damage:
                self.discard(damage)
        if not os.path.lexists(self.partial / MANIFEST):
            return None
        try:
            finished = self.verifier.verify(self.partial, self.name, self.key, self.reporter)
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
            records[name] = FileRecord.of(path)
        for folder, _, _ in os.walk(self.partial):
            files.sync(Path(folder))
        manifest = Manifest(**self.identity, key=self.key, files=records, made_at=time.time(), seconds=seconds)
        files.save_record(self.partial / MANIFEST, manifest)
        return self._give_name(Artifact(self.partial, self.key, self.name, records, seconds, self.identity))

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
        files.sync(self.objects)
        files.remove(old)
        for name in finished.records:
            self.verifier.trust(self.final / name)
        return replace(finished, path=self.final)


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
