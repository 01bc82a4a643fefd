"""What corpora made of files share: finding the files, hashing them, reading one after another."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from polyseme.core.errors import InputError
from polyseme.corpora.document import Document
from polyseme.corpora.records import LeftOut


@dataclass(frozen=True)
class FoundFile:
    """A file of a corpus and the name people know it by: its path below the folder that was named."""

    path: Path
    name: str


@dataclass
class FileCorpus:
    """The documents of files in path order; what a file holds is for its format to say.

    Attributes:
        paths: files and folders.
        glob: which files of a folder.
        read: the documents of one file, in order; counts what it leaves out.
        options: every other setting that decides which documents there are, for the fingerprint.
        max_documents: the first so many documents; None for all.
        left_out: what the last pass left out.
    """

    paths: Sequence[Path]
    glob: str
    read: Callable[[FoundFile, LeftOut], Iterator[Document]]
    options: str
    max_documents: int | None = None
    left_out: LeftOut = field(default_factory=LeftOut)

    @cached_property
    def files(self) -> list[FoundFile]:
        return find_files(self.paths, self.glob)

    @cached_property
    def fingerprint(self) -> str:
        return files_fingerprint(self.files, self.options)

    def documents(self) -> Iterator[Document]:
        self.left_out.clear()
        every = (document for file in self.files for document in self.read(file, self.left_out))
        return islice(every, self.max_documents)


def find_files(paths: Sequence[Path], glob: str) -> list[FoundFile]:
    """The named files, and those below the named folders that match `glob`, in path order within each.

    Raises:
        InputError: a path does not exist, a folder holds no match, or nothing was named.
    """
    found: dict[Path, FoundFile] = {}
    for path in paths:
        if path.is_dir():
            below = [p for p in sorted(path.glob(glob)) if p.is_file()]
            if not below:
                raise InputError(f"no file in the folder matches {glob!r}", where=str(path), fix=_other_glob(path))
            files = [FoundFile(p, p.relative_to(path).as_posix()) for p in below]
        elif path.is_file():
            files = [FoundFile(path, path.name)]
        else:
            raise InputError("there is no such file or folder", where=str(path), fix="correct the corpus's `paths`")
        for file in files:
            found.setdefault(file.path.resolve(), file)
    if not found:
        raise InputError("the corpus names no file or folder", where="paths", fix="name at least one")
    return list(found.values())


def _other_glob(folder: Path) -> str:
    suffixes = sorted({p.suffix for p in folder.glob("**/*") if p.is_file() and p.suffix})
    if not suffixes:
        return "name a folder that holds text files"
    return f"set `glob` to what is there, such as '**/*{suffixes[0]}' (it holds {', '.join(suffixes[:8])})"


def files_fingerprint(files: Sequence[FoundFile], options: str) -> str:
    """SHA-256 of the files' names and bytes and of the options that decide how they are read."""
    digest = hashlib.sha256(options.encode())
    for file in files:
        digest.update(f"\0{file.name}\0".encode("utf-8", "surrogateescape"))
        with file.path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def not_utf8(where: str, offset: int, byte: int) -> InputError:
    """The error for a byte that is not UTF-8, `offset` bytes from the start of what `where` names."""
    return InputError(
        f"not UTF-8: byte 0x{byte:02x} at offset {offset}",
        where=where,
        fix='convert it to UTF-8 (for one: `iconv -f latin1 -t utf-8`), or set `errors = "skip"` to leave it out',
    )
