"""What corpora made of files share: finding them, hashing them, and saying what is wrong with one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter

OnError = Literal["strict", "skip"]


@dataclass
class LeftOut:
    """What a pass over a corpus left out under `errors="skip"`: how many, and the first few by name."""

    count: int = 0
    reasons: list[str] = field(default_factory=list[str])

    def clear(self) -> None:
        """Start a new pass."""
        self.count = 0
        self.reasons.clear()

    def take(self, error: InputError, errors: OnError) -> None:
        """Count what `error` is about, or raise it under `errors="strict"`."""
        if errors == "strict":
            raise error
        self.count += 1
        if len(self.reasons) < 5:
            self.reasons.append(f"{error.where}: {error.what}")

    def report(self, reporter: Reporter) -> None:
        """Say it, where there is something to say."""
        if self.count:
            more = f" and {self.count - len(self.reasons)} more" if self.count > len(self.reasons) else ""
            reporter.message(f"left out {self.count} from the corpus: {'; '.join(self.reasons)}{more}")


@dataclass(frozen=True)
class FoundFile:
    """A file of a corpus and the name people know it by: its path below the folder that was named."""

    path: Path
    name: str


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


def check_text(value: object, column: str, where: str) -> str:
    """`value` when it is a string that UTF-8 can hold.

    Raises:
        InputError: it is something else, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise InputError(
            f"{column!r} holds {type(value).__name__}, not text", where=where, fix="name the field that holds the text"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"half of a surrogate pair at character {error.start}",
            where=where,
            fix='mend the text, or set `errors = "skip"` to leave it out',
        ) from None
    return value
