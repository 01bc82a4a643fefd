"""One process at a time: locks that the system itself frees when their holder dies, by `filelock`.

A lock is two files. `<name>.guard` is what `filelock` locks. `<name>` names the holder, and exists while the lock is
held and after a holder that was killed; a holder touches it every few seconds, so that a killed one leaves the time of
its last sign of life. Who releases a lock deletes both.
"""

import errno
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from polyseme.core.errors import InputError
from polyseme.store.failures import own_folder, refusals
from polyseme.store.files import open_own

GUARD = ".guard"
"""Ending of the file that `filelock` locks."""

_POLL_SECONDS = 0.2
_REMIND_SECONDS = 300.0
_BEAT_SECONDS = 15.0
# A process that only asks whether a lock is held has it for a moment.
_ATTEMPTS, _ATTEMPT_SECONDS = 3, 0.01
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_SIGNATURE = re.compile(rb"([0-9]{1,19})( [\x21-\x7e]{1,255})?")
_MAX_SIGNATURE = 300


@dataclass(frozen=True)
class Held:
    """A lock that is held.

    Attributes:
        last_sign: when a holder before this one that was killed last gave a sign of life, in seconds since 1970; None
            where the last holder released the lock.
    """

    last_sign: float | None


@contextmanager
def lock(path: Path, *, on_wait: Callable[[str], None]) -> Generator[Held, None, None]:
    """Hold the exclusive lock `path`, waiting for it where another process (or thread) holds it.

    Args:
        path: in a folder that is made when missing.
        on_wait: called with the holder's process id, as text, before waiting, and every few minutes while waiting.

    Raises:
        InputError: the path is a link or no lock file, or the file system has no locks.
    """
    reminded: float | None = None
    while True:
        with try_lock(path) as held:
            if isinstance(held, Held):
                yield held
                return
        now = time.monotonic()
        if reminded is None or now - reminded >= _REMIND_SECONDS:
            on_wait(held)
            reminded = now
        time.sleep(_POLL_SECONDS)


@contextmanager
def try_lock(path: Path) -> Generator[Held | str, None, None]:
    """Try for the lock without waiting: yields a `Held` where it was free, else the id of the process
    that has it, as text."""
    guard = _acquired(path)
    if guard is None:
        yield _holder(path)
        return
    _HEART.beat_for(path)
    try:
        with refusals(path):
            held = Held(_sign(path))
        yield held
    finally:
        _HEART.leave(path)
        with suppress(OSError):
            if _SIGNATURE.fullmatch(_signature(path)):
                path.unlink()
        with suppress(OSError):
            os.unlink(guard.lock_file)  # `filelock` acquires no file that was deleted meanwhile
        guard.release()


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock `path`.

    In a folder that may only be read, where a lock cannot be tried: whether its holder gave a sign of life lately.
    """
    guard = path.with_name(path.name + GUARD)
    try:
        signed = path.lstat().st_mtime
        guard.lstat()
    except OSError:
        return False
    try:
        with FileLock(guard, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        return time.time() - signed < 4 * _BEAT_SECONDS


def _acquired(path: Path) -> BaseFileLock | None:
    """The acquired guard of a lock; None where another process or thread holds it."""
    own_folder(path.parent)
    place = path.with_name(path.name + GUARD)
    guard = FileLock(place, blocking=False, thread_local=False)
    try:
        with refusals(place):
            _check(place)
            for attempt in range(_ATTEMPTS):
                time.sleep(_ATTEMPT_SECONDS if attempt else 0)
                with suppress(Timeout):
                    guard.acquire()
                    return guard
    except InputError as refused:
        if isinstance(refused.__cause__, OSError) and refused.__cause__.errno in _NO_LOCKS:
            raise InputError(
                "this file system has no file locks", where=str(path), fix="keep the study's folder on a local disk"
            ) from refused.__cause__
        raise
    return None


def _sign(path: Path) -> float | None:
    """Write who holds the lock; returns when a holder that was killed gave its last sign of life."""
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        signature, status = os.read(descriptor, _MAX_SIGNATURE), os.fstat(descriptor)
        # What is written into a file with a second name is written there, too.
        if (signature and not _SIGNATURE.fullmatch(signature)) or status.st_nlink > 1:
            raise InputError("this is no lock file of polyseme's", where=str(path), fix="move or delete it")
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()} {_host()}".encode())
    finally:
        os.close(descriptor)
    return status.st_mtime if signature else None


def _check(guard: Path) -> None:
    with suppress(FileNotFoundError):
        status = guard.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise InputError("this is no lock file of polyseme's", where=str(guard), fix="move or delete it")


def _signature(path: Path) -> bytes:
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _MAX_SIGNATURE)
    finally:
        os.close(descriptor)


def _host() -> str:
    return re.sub(r"[^\x21-\x7e]", "-", socket.gethostname())[:255] or "localhost"


def _holder(path: Path) -> str:
    found = _SIGNATURE.fullmatch(_signature(path))
    if found is None:
        return "unknown"
    host = (found[2] or b"").decode().strip()
    return f"{int(found[1])} on {host}" if host and host != _host() else f"{int(found[1])}"


class _Heart:
    """Touches the files of all locks that this process holds."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Hold nothing: what a forked process inherits is its parent's, and threads it inherits none."""
        self._held: set[Path] = set()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def beat_for(self, path: Path) -> None:
        """Touch a lock's file from now on."""
        with self._guard:
            self._held.add(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="polyseme-locks", daemon=True)
                self._thread.start()

    def leave(self, path: Path) -> None:
        """Touch it no more."""
        with self._guard:
            self._held.discard(path)

    def _beat(self) -> None:
        while True:
            time.sleep(_BEAT_SECONDS)
            with self._guard:
                for path in self._held:
                    with suppress(OSError):
                        os.utime(path)


_HEART = _Heart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HEART.forget)
