"""One process at a time: advisory locks that the system itself frees when their holder dies.

A lock file exists while its lock is held, and after a holder that was killed: whoever lets a lock go deletes the file,
and whoever takes one makes sure that the file it locked is still the one of that name. A holder touches the file every
few seconds, so that a killed one leaves the time of its last sign of life.
"""

import errno
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from polyseme.core.errors import InputError
from polyseme.store.failures import own_folder, refusals
from polyseme.store.files import open_own

_POLL_SECONDS = 0.2
_REMIND_SECONDS = 300.0
_BEAT_SECONDS = 15.0
_SIGNATURE = re.compile(rb"([0-9]{1,19})( [\x21-\x7e]{1,255})?")
_MAX_SIGNATURE = 300


@dataclass(frozen=True)
class Held:
    """A lock that is held.

    Attributes:
        last_sign: when a holder before this one that was killed last gave a sign of life, in seconds since 1970; None
            where the last holder let the lock go by itself.
    """

    last_sign: float | None


@contextmanager
def lock(path: Path, *, on_wait: Callable[[str], None]) -> Generator[Held, None, None]:
    """Hold the exclusive lock file `path`, waiting for it where another process (or thread) holds it.

    Args:
        path: in a folder that is made when missing.
        on_wait: called with the holder's process id, as text, before waiting, and every few minutes while waiting.

    Raises:
        InputError: the path is a link or no lock file, or the file system has no locks.
    """
    reminded: float | None = None
    while True:
        taken = _take(path)
        if isinstance(taken, _Taken):
            break
        now = time.monotonic()
        if reminded is None or now - reminded >= _REMIND_SECONDS:
            on_wait(taken)
            reminded = now
        time.sleep(_POLL_SECONDS)
    with taken.holding():
        yield Held(taken.last_sign)


@contextmanager
def try_lock(path: Path) -> Generator[Held | str, None, None]:
    """Try for the lock without waiting: yields a `Held` where it was free, else the id of the process
    that has it, as text."""
    taken = _take(path)
    if isinstance(taken, str):
        yield taken
        return
    with taken.holding():
        yield Held(taken.last_sign)


def is_locked(path: Path) -> bool:
    """True when some process holds the lock file `path`; reads only, so it works on a read-only folder."""
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Taken:
    path: Path
    descriptor: int
    last_sign: float | None

    @contextmanager
    def holding(self) -> Generator[None, None, None]:
        _HEART.beat_for(self.descriptor)
        try:
            yield
        finally:
            _HEART.leave(self.descriptor)
            with suppress(OSError):
                if _is_named(self.path, self.descriptor):
                    self.path.unlink()
            os.close(self.descriptor)


def _take(path: Path) -> _Taken | str:
    """The lock, or the process id of its holder, as text."""
    own_folder(path.parent)
    with refusals(path):
        while True:
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
            try:
                signature = os.pread(descriptor, _MAX_SIGNATURE, 0)
                known = not signature or _SIGNATURE.fullmatch(signature)
                if not known or os.fstat(descriptor).st_nlink > 1:  # what is written here would be written elsewhere
                    raise InputError("this is no lock file of polyseme's", where=str(path), fix="move or delete it")
                if not _flock(descriptor, path):
                    os.close(descriptor)
                    return _holder(signature)
                if not _is_named(path, descriptor):  # its holder let it go, and deleted it, since it was opened
                    os.close(descriptor)
                    continue
                last_sign = os.fstat(descriptor).st_mtime if signature else None
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} {_host()}".encode(), 0)
            except BaseException:
                with suppress(OSError):
                    os.close(descriptor)
                raise
            return _Taken(path, descriptor, last_sign)


def _flock(descriptor: int, path: Path) -> bool:
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


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)


def _host() -> str:
    return re.sub(r"[^\x21-\x7e]", "-", socket.gethostname())[:255] or "localhost"


def _holder(signature: bytes) -> str:
    found = _SIGNATURE.fullmatch(signature)
    if found is None:
        return "unknown"
    pid, host = int(found[1]), (found[2] or b"").decode().strip()
    if host and host != _host():
        return f"{pid} on {host}"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return f"{pid}, which has ended; something that it started still runs and holds the lock"
    except (OSError, OverflowError):
        pass
    return f"{pid}"


class _Heart:
    """Touches the files of all locks that this process holds."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Hold nothing: what a forked process inherits is its parent's, and threads it inherits none."""
        self._held: set[int] = set()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def beat_for(self, descriptor: int) -> None:
        """Touch a lock file from now on."""
        with self._guard:
            self._held.add(descriptor)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="polyseme-locks", daemon=True)
                self._thread.start()

    def leave(self, descriptor: int) -> None:
        """Touch it no more."""
        with self._guard:
            self._held.discard(descriptor)

    def _beat(self) -> None:
        while True:
            time.sleep(_BEAT_SECONDS)
            with self._guard:
                for descriptor in self._held:
                    with suppress(OSError):
                        os.utime(descriptor)


_HEART = _Heart()
os.register_at_fork(after_in_child=_HEART.forget)
