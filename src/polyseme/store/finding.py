"""Runs are looked up in the listing of their folder, by id or by what their folder holds."""

from pathlib import Path

from polyseme.core.errors import InputError, nearest_names
from polyseme.store import files
from polyseme.store.runs import ARTIFACTS, CONFIG, RUN, RUN_ID, Run
from polyseme.store.stages import check_root


def list_runs(runs: Path) -> list[Run]:
    """Every run under `runs`, damaged ones included, by folder; links are left out.

    A folder is a run's when it holds a `run.json`, or is named like a run and holds what a run holds.

    Raises:
        InputError: the folder cannot be read.
    """
    check_root(runs)
    if not runs.is_dir():
        return []
    with files.refusals(runs):
        return [Run(path) for path in sorted(runs.iterdir()) if _is_run(path)]


def _is_run(path: Path) -> bool:
    try:
        if path.is_symlink() or not path.is_dir():
            return False
        held = {child.name for child in path.iterdir()}
    except OSError:  # a folder that may not be read is a run's where its name says so
        return RUN_ID.fullmatch(path.name) is not None
    return RUN in held or (RUN_ID.fullmatch(path.name) is not None and not held.isdisjoint({CONFIG, ARTIFACTS}))


def find_run(runs: Path, text: str) -> Run:
    """The run of this id, of this study's name, or whose id starts with `text`, if it is the only one.

    It is looked up in the listing and never joined to a path.

    Raises:
        InputError: none (with the nearest ids) or several.
    """
    known = [(run.id, run) for run in list_runs(runs)]
    named = {name: run for run_id, run in known for name in (run_id, run.path.name)}
    exact = [run for _, run in known if run.path.name == text] or [run for run_id, run in known if run_id == text]
    exact = exact or [run for run_id, run in known if run_id.rpartition("-")[0] == text]
    if len(exact) == 1:
        return exact[0]
    starting = {run.path: run for name, run in named.items() if text and name.startswith(text)}
    if len(starting) == 1:
        return next(iter(starting.values()))
    shown = repr(text[:80])
    if exact or starting:
        matches = exact or list(starting.values())
        names = ", ".join(sorted(run.path.name for run in matches)[:10])
        raise InputError(f"{shown} is the start of {len(matches)} runs", where=str(runs), fix=f"say which: {names}")
    near = nearest_names(text[:80], list(named))
    raise InputError(
        f"there is no run {shown}",
        where=str(runs),
        fix=f"did you mean {' or '.join(near)}" if near else "`polyseme runs` lists those there are",
    )


def open_run(path: Path) -> Run:
    """The run in a folder, wherever it was moved and whatever it is called now.

    Raises:
        InputError: the folder holds no run, or may not be read.
    """
    with files.refusals(path):
        is_run = (path / RUN).is_file() or (path / ARTIFACTS).is_dir()
    if not is_run:
        raise InputError("this folder holds no run", where=str(path), fix="give a folder with a run.json")
    return Run(path)
