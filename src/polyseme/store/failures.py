"""What the system refused, in words: full disks, quotas and inodes, read-only places, links, names that cannot be."""

import errno
import math
import os
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from polyseme.core.errors import InputError

_MEGABYTE = 10**6
_KEPT = "then run the same command again: finished work is kept"
_FIXES = {
    errno.EROFS: ("the file system is read-only", "choose another folder, or have it mounted for writing"),
    errno.ENAMETOOLONG: ("the path is too long", "give a shorter one"),
    errno.ELOOP: ("this is a link, and nothing is written through links", "delete the link"),
    errno.EISDIR: ("a folder stands where a file should", "move or delete the folder"),
    errno.ENOTEMPTY: ("a folder stands where a file should", "move or delete the folder"),
    errno.ENOTDIR: ("a file stands where a folder should", "move or delete the file, or choose another folder"),
    errno.EEXIST: ("a file stands where a folder should", "move or delete the file, or choose another folder"),
    errno.ENOENT: ("there is no such file or folder", "correct the path"),
    errno.EMFILE: ("this process has as many files open as it may", "raise `ulimit -n`"),
    errno.ENFILE: ("the system has as many files open as it can", "end other programs"),
    errno.ENOMEM: ("the system has no memory left", "end other programs, or ask for less at a time"),
}
_NO_WORK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV}
"""Refusals that are about the disk whatever was being done."""


def refusal(error: OSError, where: Path | str | None = None, needed: int = 0) -> InputError:
    """The `InputError` that says what the system refused, where, and what helps.

    Args:
        error: its refusal.
        where: the file or folder that was meant, where it has a better name than the error gives.
        needed: bytes about to be written, where known.
    """
    named: object = where if where is not None else error.filename
    place = (
        None if named is None else os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else str(named)
    )
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what, fix = _no_room(number, Path(place or "."), needed)
    elif number in (errno.EACCES, errno.EPERM):
        what, fix = f"the system does not allow it ({_said(error)})", "change the permissions, or give another path"
    elif number in _FIXES:
        what, fix = _FIXES[number]
    else:
        what, fix = f"the system refused it ({_said(error)})", f"check the disk or choose another folder, {_KEPT}"
    return InputError(what, where=place, fix=fix)


def _said(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _no_room(number: int, where: Path, needed: int) -> tuple[str, str]:
    folder = _existing(where)
    try:
        free = shutil.disk_usage(folder).free
        system = os.statvfs(folder) if hasattr(os, "statvfs") else None
    except OSError:
        free, system = 0, None
    # A quota or a file size limit can refuse what the disk has room for; then ask for the whole size.
    short = math.ceil((needed - free if needed > free else max(needed, 64 * _MEGABYTE)) / _MEGABYTE)
    if number == errno.EDQUOT:
        return "the disk quota is used up", f"free {short} MB of it, or files where files are counted, {_KEPT}"
    if number == errno.EFBIG:
        return (
            "a file may not become as large here as it must",
            f"raise the limit (`ulimit -f`) by {short} MB or choose another folder, {_KEPT}",
        )
    if system is not None and system.f_files > 0 and system.f_favail == 0:
        return (
            "the file system has no inodes left: it holds as many files as it can, whatever their size",
            f"delete files there or choose another folder, {_KEPT}",
        )
    return "the disk is full", f"free {short} MB there or choose another folder, {_KEPT}"


@contextmanager
def refusals(where: Path, needed: int = 0) -> Generator[None, None, None]:
    """Turn what the system refuses into an `InputError`; for blocks that do nothing but read or write `where`.

    Args:
        where: the file or folder.
        needed: bytes about to be written, where known.
    """
    try:
        yield
    except OSError as error:
        raise refusal(error, where, needed) from error


@contextmanager
def disk_refusals(where: Path) -> Generator[None, None, None]:
    """Turn a full, broken or read-only disk into an `InputError`; for blocks that do more than read and write."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_WORK:
            raise
        raise refusal(error, where if error.filename is None else None) from error


def check_space(where: Path, needed: int, otherwise: str = "") -> None:
    """Raise `InputError` when the disk of `where` has fewer than `needed` bytes free.

    Args:
        where: the file or folder.
        needed: bytes about to be written.
        otherwise: what else helps than room on the disk.
    """
    if needed > shutil.disk_usage(_existing(where)).free:
        full = refusal(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), where, needed)
        raise InputError(full.what, where=full.where, fix=f"{otherwise}; or {full.fix}" if otherwise else full.fix)


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def own_folder(path: Path) -> None:
    """Make a folder where there is none.

    Raises:
        InputError: it is a link, which could lead anywhere, or no folder, or cannot be made.
    """
    with refusals(path):
        # `mkdir` calls a link that leads nowhere a file.
        if not path.is_symlink():
            path.mkdir(parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise refusal(OSError(errno.ELOOP, ""), path)
