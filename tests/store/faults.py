"""File-system operations that are counted, and that kill the process or fail from a chosen one on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

CHANGES = ("open", "mkdir", "write", "pwrite", "ftruncate", "fsync", "rename", "replace", "unlink", "rmdir", "utime")
"""Calls of `os` that change a file system or make what was changed last; each is a moment to die at."""


@contextmanager
def counted(before: Callable[[int, str], None]) -> Iterator[list[str]]:
    """Call `before` with the number of every operation, from 1, and its name; yields the names so far."""
    seen: list[str] = []

    def wrapped(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def do(*args: object, **options: object) -> object:
            if name == "open" and not args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):  # type: ignore[operator]
                return real(*args, **options)  # reading changes nothing
            seen.append(name)
            before(len(seen), name)
            # A kill leaves the same on disk whether or not the system was asked to make it last.
            return None if name == "fsync" else real(*args, **options)

        return do

    with mock.patch.multiple(os, **{name: wrapped(name) for name in CHANGES}):
        yield seen


def killed_at(n: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that dies right before its n-th operation; returns whether it came to that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with counted(lambda i, _: os._exit(9) if i == n else None):
                work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), f"the work failed by itself at operation {n}"
    return code == 9


def failing_from(n: int, number: int, *, for_good: bool) -> Callable[[int, str], None]:
    """`before` of `counted`: the n-th operation, and all later ones that need room `for_good`, fail with an errno."""
    frees = {"unlink", "rmdir", "ftruncate", "utime"}

    def before(i: int, name: str) -> None:
        if i == n or (for_good and i > n and name not in frees):
            raise OSError(number, os.strerror(number))

    return before
