"""One process at a time: advisory locks that the system itself frees when their holder dies."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from polyseme.core.errors import InputError

_POLL_SECONDS = 0.2


@contextmanager
def lock(path: Path, *, on_wait: Callable[[str], None]) -> Generator[None, None, None]:
    """Hold the exclusive lock file `path`, waiting for it where another process (or thread) holds it.

    Args:
        path: made when missing, and left behind: deleting a lock file would let two holders in.
        on_wait: called once with the holder's process id, as text, before waiting.
    """
    descriptor = _open(path)
    try:
        if not _take(descriptor, path):
            on_wait(_holder(descriptor))
            while not _take(descriptor, path):
                time.sleep(_POLL_SECONDS)
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_lock(path: Path) -> Generator[str | None, None, None]:
    """Try for the lock without waiting: yields None when held, else the process id (as text) that has it."""
    descriptor = _open(path)
    try:
        if _take(descriptor, path):
            _sign(descriptor)
            yield None
        else:
            yield _holder(descriptor)
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """True when some process holds the lock file `path`; reads only, so it works on a read-only folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _take(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise InputError(
            "this file system has no file locks", where=str(path), fix="keep the study's folder on a local disk"
        ) from error
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}".encode(), 0)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode("ascii", "replace") or "unknown"
