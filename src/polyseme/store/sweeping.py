"""What dead processes left in a folder of runs: temporary files, lock files, and unfinished artifacts nobody resumed.

Nothing is touched whose lock a living process holds. Temporary files go; those of runs when they are an hour old. An
unfinished artifact (`.partial`) is what its study is resumed from, and stays for `ABANDONED_DAYS` after it was last
written to. A lock's files go unless there is an unfinished artifact, whose next process reads from them when the
last one died.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.store import files
from polyseme.store.locks import GUARD, Held, is_locked, try_lock

LOCKS = ".locks"
LOCK = ".lock"
PARTIAL = ".partial"
ABANDONED_DAYS = 30
_HOUR = 3600.0


def sweep(root: Path, reporter: Reporter) -> None:
    """Delete what dead processes left below a folder of runs; what cannot be deleted stays.

    Args:
        root: folder of runs.
        reporter: gets a message for each unfinished artifact that is deleted.
    """
    objects = root / "objects"
    for name in sorted(set(_left_by_stages(objects))):
        with suppress(InputError, OSError):
            _sweep_artifact(objects, name, reporter)
    with suppress(OSError):
        for run in root.iterdir():
            if run.is_dir() and not run.is_symlink() and run != objects and not is_locked(run / LOCK):
                with suppress(InputError, OSError):
                    _sweep_run(run)


def _left_by_stages(objects: Path) -> Iterator[str]:
    """Names of the artifacts that something was left of."""
    with suppress(OSError):
        for path in objects.iterdir():
            if path.name.endswith(PARTIAL):
                yield path.name.removesuffix(PARTIAL)
            elif temporary := files.TEMPORARY.fullmatch(path.name):
                yield temporary["name"]
    with suppress(OSError):
        yield from (path.name.removesuffix(GUARD) for path in (objects / LOCKS).iterdir())


def _sweep_artifact(objects: Path, name: str, reporter: Reporter) -> None:
    lock, partial = objects / LOCKS / name, objects / (name + PARTIAL)
    if is_locked(lock):
        return
    files.remove_temporaries_of(objects / name)
    if os.path.lexists(partial):
        idle = (time.time() - _last_change(partial)) / 86_400
        if idle <= ABANDONED_DAYS:
            return
        with try_lock(lock) as held:
            if isinstance(held, Held):
                files.remove(partial)
                reporter.message(f"deleted {partial}: unfinished, and not resumed for {idle:.0f} days")
    else:
        with try_lock(lock):
            pass  # releasing it deletes it


def _sweep_run(run: Path) -> None:
    for folder in (run, run / "artifacts"):
        if folder.is_dir() and not folder.is_symlink():
            files.remove_temporaries(folder, deep=False, older_than=_HOUR)


def _last_change(path: Path) -> float:
    newest = path.lstat().st_mtime
    for folder, inner, names in os.walk(path):
        for name in (*inner, *names):
            with suppress(OSError):
                newest = max(newest, Path(folder, name).lstat().st_mtime)
    return newest
