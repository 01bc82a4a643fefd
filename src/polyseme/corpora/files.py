"""What corpora made of files share: finding the files, hashing them, reading one after another."""

import errno
import fnmatch
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from polyseme.core.config import Name
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.corpora.document import Document
from polyseme.corpora.opening import check_regular, opened
from polyseme.corpora.records import LeftOut, Named, documents_of
from polyseme.store.failures import refusal

MAX_FILES = 1_000_000
_BLOCK = 1 << 20
_SLOW_BYTES = 256 * 2**20
"""Bytes from which hashing a corpus takes long enough to be shown."""
_FRESH = 2_000_000_000
"""Nanoseconds within which a file can be written twice and show the same time: coarse clocks of file systems."""


def _within(glob: str) -> str:
    parts = glob.split("/")
    if not glob or "\0" in glob or "" in parts or ".." in parts or "." in parts:
        raise ValueError(
            f"{glob!r} is no pattern of files below a folder: write it like '**/*.txt', without '..' and without '/' "
            "at either end"
        )
    return glob


Glob = Annotated[Name, AfterValidator(_within)]
"""Which files of a folder: `*`, `?` and `[...]` within a name, `**` for folders of any depth."""


@dataclass(frozen=True)
class FoundFile:
    """A file of a corpus and the name people know it by: its path below the folder that was named."""

    path: Path
    name: str


@dataclass(frozen=True)
class _Stamp:
    """What shows that a file is still the one that was hashed."""

    identity: tuple[int, ...]
    seen: int
    digest: bytes | None


@dataclass
class FileCorpus:
    """The documents of files in path order; what a file holds is for its format to say.

    Attributes:
        paths: files and folders.
        glob: which files of a folder.
        read: the documents of one file, in order; counts what it leaves out.
        options: every other setting that decides which documents there are, for the fingerprint.
        max_documents: number of documents read, from the start; None for all.
        left_out: what the last pass left out.
    """

    paths: Sequence[Path]
    glob: str
    read: Callable[[FoundFile, LeftOut], Iterator[Document]]
    options: str
    max_documents: int | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    _stamps: dict[Path, _Stamp] = field(default_factory=dict[Path, _Stamp], init=False, repr=False)

    @cached_property
    def files(self) -> list[FoundFile]:
        return find_files(self.paths, self.glob)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files' names and bytes and of the options that decide how they are read."""
        return self.hashed(Silent())

    def hashed(self, reporter: Reporter) -> str:
        """`fingerprint`, with its progress where it is computed first: large files take a while."""
        if "fingerprint" in self.__dict__:
            return self.fingerprint
        total = sum(_size(file.path) for file in self.files)
        progress = reporter.task("hash the corpus", total / 1e6, "MB") if total >= _SLOW_BYTES else Silent()
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            progress.update(min(done, total - 1) / 1e6)

        digest = hashlib.sha256(self.options.encode())
        for file in self.files:
            digest.update(f"\0{file.name}\0".encode("utf-8", "surrogateescape"))
            self._stamps[file.path], hashed = _stamp(file.path, advance)
            digest.update(hashed)
        progress.update(total / 1e6, total / 1e6)
        self.__dict__["fingerprint"] = digest.hexdigest()
        return self.fingerprint

    def documents(self) -> Iterator[Document]:
        """Every document, file by file.

        Raises:
            InputError: a file cannot be read, or is not the one that was hashed, before or after the pass.
        """
        self.left_out.clear()
        passed: list[FoundFile] = []
        n = 0
        for file in self.files:
            passed.append(file)
            self._check(file)
            for document in self.read(file, self.left_out):
                yield document
                n += 1
                if n == self.max_documents:
                    break
            if n == self.max_documents:
                break
        for file in passed:
            self._check(file)

    def _check(self, file: FoundFile) -> None:
        before = self._stamps.get(file.path)
        now, _ = _stamp(file.path)
        if before is None:
            self._stamps[file.path] = now
            return
        changed = now.identity != before.identity
        if not changed and before.digest is not None and before.seen - max(now.identity[-2:]) < _FRESH:
            changed = _stamp(file.path, lambda _: None)[0].digest != before.digest
        if changed:
            raise InputError(
                "the file changed while the corpus was read",
                where=str(file.path),
                fix="run the same command again when nothing writes to the file any more",
            )


def reading(records: Callable[[FoundFile], Iterator[Named]]) -> Callable[[FoundFile, LeftOut], Iterator[Document]]:
    """What reads the documents of a file whose records a function gives."""
    return lambda file, left_out: documents_of(records(file), left_out)


def _size(path: Path) -> int:
    with opened(path) as file:
        return os.fstat(file.fileno()).st_size


def _stamp(path: Path, advance: Callable[[int], None] | None = None) -> tuple[_Stamp, bytes]:
    """A file's stamp, and its hash where `advance` is given, which receives the number of bytes hashed since."""
    hashing = hashlib.sha256()
    with opened(path) as file:
        while advance is not None and (block := file.read(_BLOCK)):
            hashing.update(block)
            advance(len(block))
        found = os.fstat(file.fileno())
    digest = hashing.digest() if advance is not None else b""
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _Stamp(identity, time.time_ns(), digest if advance is not None else None), digest


def find_files(paths: Sequence[Path], glob: str) -> list[FoundFile]:
    """The named files, and those below the named folders that match `glob`, in path order within each.

    Links are followed, each folder once.

    Raises:
        InputError: a path does not exist, is neither file nor folder or may not be read, a folder holds no match,
            nothing was named, or the pattern leads out of the folder.
    """
    try:
        pattern = _within(glob).split("/")
    except ValueError as error:
        raise InputError(str(error), where="glob") from None
    found: dict[Path, FoundFile] = {}
    for path in paths:
        try:
            status = path.stat()
        except (OSError, ValueError) as error:
            raise _unreachable(path, error) from None
        if stat.S_ISDIR(status.st_mode):
            every = sorted(_below(path))
            files = [FoundFile(p, name) for p, name in every if _matches(pattern, name.split("/"))]
            if not files:
                raise InputError(
                    f"no file in the folder matches {glob!r}", where=str(path), fix=_other_glob([n for _, n in every])
                )
        else:
            check_regular(path, status)
            files = [FoundFile(path, path.name)]
        for file in files:
            found.setdefault(Path(os.path.realpath(file.path)), file)
    if not found:
        raise InputError("the corpus names no file or folder", where="paths", fix="name at least one")
    return list(found.values())


def _unreachable(path: Path, error: OSError | ValueError) -> InputError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError("there is no such file or folder", where=str(path), fix="correct the corpus's `paths`")
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return InputError("the link leads back to itself", where=str(path), fix="correct the link, or name its target")
    if isinstance(error, OSError):
        return refusal(error, str(path))
    return InputError(f"this is no path ({error})", where=repr(str(path)), fix="correct the corpus's `paths`")


def _below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every regular file below a folder with its path from there, through links too, each folder once."""

    def refuse(error: OSError) -> None:
        raise refusal(error)

    seen: set[str] = set()
    n = 0
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or real.startswith(("/proc", "/sys")):
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for path in (Path(root, name) for name in sorted(names)):
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to nowhere, or gone since
                    continue
                raise refusal(error, path) from None
            if regular:
                n += 1
                if n > MAX_FILES:
                    raise InputError(
                        f"the folder holds more than {MAX_FILES:,} files", where=str(folder), fix="name a smaller one"
                    )
                yield path, path.relative_to(folder).as_posix()


def _matches(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the parts of a path fit the parts of a pattern; `**` stands for any number of them."""

    def passing(states: set[int]) -> set[int]:
        return {i + ahead for i in states for ahead in range(_run(pattern, i) + 1)}

    states = {0}
    for name in names:
        states = {
            i if pattern[i] == "**" else i + 1
            for i in passing(states)
            if i < len(pattern) and (pattern[i] == "**" or fnmatch.fnmatchcase(name, pattern[i]))
        }
    return len(pattern) in passing(states)


def _run(pattern: Sequence[str], start: int) -> int:
    """How many `**` follow each other from `start` on."""
    return next((n for n, part in enumerate(pattern[start:]) if part != "**"), len(pattern) - start)


def _other_glob(names: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        kind = "".join(Path(name).suffixes[-2:]) if name.endswith((".gz", ".bz2", ".xz", ".zst")) else Path(name).suffix
        counts[kind] = counts.get(kind, 0) + 1
    suffixes = sorted(s for s in counts if s)
    if not suffixes:
        return "name a folder that holds text files"
    return f"set `glob` to what is there, such as '**/*{suffixes[0]}' (it holds {', '.join(suffixes[:8])})"
