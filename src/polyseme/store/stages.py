"""The stage cache: each artifact is made once, under the hash of its config and inputs."""

import re
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from polyseme.core.config import fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.store import files
from polyseme.store.artifacts import MANIFEST, Artifact, Verifier
from polyseme.store.failures import disk_refusals, own_folder, refusals
from polyseme.store.locks import lock
from polyseme.store.making import Making
from polyseme.store.sweeping import LOCKS, sweep

T = TypeVar("T")

NAME = re.compile(r"[a-z0-9_-]{1,64}")


class Store:
    """A folder of runs (`<name>-<hash8>/`) and of the artifacts they share (`objects/`).

    Args:
        root: made when missing; it may be a link, unlike what lies in it.
        read_only: only `find` is called: nothing is made or written, and the folder must be there.

    Raises:
        InputError: the folder cannot be made or written, or read.
    """

    def __init__(self, root: Path, *, read_only: bool = False):
        self.root = Path(root)
        self.objects = self.root / "objects"
        self.runs = self.root
        self._verifier = Verifier()
        self._swept = False
        check_root(self.root)
        if read_only:
            if not self.objects.is_dir():
                raise InputError(
                    "this folder holds no artifacts of runs", where=str(self.objects), fix="give the folder of runs"
                )
            return
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
        work = Making(self.objects, self._verifier, name, identity, frozenset(scratch), reporter)
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

    def has(self, stage: str, key: str) -> bool:
        """Whether there is a finished artifact of that stage and key; it is not verified."""
        return (self.objects / f"{stage}-{key[:16]}" / MANIFEST).is_file()

    def find(self, stage: str, key: str, *, reporter: Reporter | None = None) -> Artifact:
        """A finished artifact by stage and key, verified.

        Raises:
            InputError: there is none.
            DamagedArtifact: it fails its checksums.
        """
        wanted = f"{stage}-{key[:16]}"
        if wanted in {folder.name for folder in self.objects.iterdir()}:
            return self._verifier.verify(self.objects / wanted, stage, key, reporter or Silent())
        raise InputError(
            f"there is no artifact {wanted}", where=str(self.objects), fix="run the study that makes it again"
        )


def _identity(name: str, config: Any, inputs: Mapping[str, str], version: int) -> dict[str, Any]:
    return {"stage": name, "version": version, "config": files.to_json(config), "inputs": dict(inputs)}


def check_root(root: Path) -> None:
    """Refuse a path that no system could open as a folder of runs, before anything is looked for in it.

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
