"""A finished study opened again, from what its run recorded."""

import os
import warnings
from pathlib import Path

from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter
from polyseme.core.validation import validate_config
from polyseme.screen.progress import reporting
from polyseme.store import Run, Store, find_run, load_lines, open_run
from polyseme.studies.config import StudyConfig
from polyseme.studies.result import StudyResult
from polyseme.studies.run import find
from polyseme.studies.stage import Worker


def open_study(run: str | Path, root: str | Path = "runs", *, reporter: Reporter | None = None) -> StudyResult:
    """A finished study with its dictionaries, firings, metrics and verdicts, as the run left them.

    Nothing is trained or measured, and nothing is written; the network is loaded when something first needs it
    (`latent`, `shown`, `network`).

    >>> again = polyseme.open_study("small", root)
    >>> again.verdict_counts == result.verdict_counts
    True
    >>> polyseme.open_study("smal1", root)
    Traceback (most recent call last):
        ...
    polyseme.core.errors.InputError: there is no run 'smal1'. ...

    Args:
        run: a run's id, the start of it, the name of its study, or the path of its folder.
        root: the folder of runs, with the artifacts that they share; the run's own folder comes first.
        reporter: told which artifacts are checked; by default bars in a notebook or on a terminal.

    Raises:
        InputError: there is no such run, it did not finish, or an artifact that it rests on is gone.
        DamagedArtifact: a file of the run or of an artifact was changed.
    """
    found = _run(run, Path(root))
    record = found.record
    if record.status != "complete":
        raise InputError(
            f"run {record.id} is {record.status}, not complete",
            where=str(found.path),
            fix="give the command that ran it again: it is resumed",
        )
    config = validate_config(found.config, StudyConfig, where=str(found.path / "config.json"))
    beside = found.path.parent
    store = Store(beside if (beside / "objects").is_dir() else Path(root), read_only=True)
    with reporting(reporter) as told:
        worker = Worker(config, store, told, found, recorded=record.parents)
        result = StudyResult(found, find(worker), tuple(worker.records), told)
    _check_verdicts(result)
    return result


def _run(run: str | Path, root: Path) -> Run:
    """By id in `root`, else by path."""
    path = Path(run)
    if isinstance(run, Path) or os.sep in run:
        return open_run(path)
    try:
        return find_run(root, run)
    except InputError:
        if not path.is_dir():
            raise
        return open_run(path)


def _check_verdicts(result: StudyResult) -> None:
    """The evidence is read, and judged again: a polyseme that judges otherwise says so."""
    path = result.run.artifacts / "verdicts.jsonl"
    if f"{path.parent.name}/{path.name}" in result.run.changed_files():
        raise DamagedArtifact(
            "verdicts.jsonl is missing, or was changed after the run wrote it",
            where=str(path),
            fix="run the study again: it is written again",
        )
    recorded = [line.get("status") if isinstance(line, dict) else None for line in load_lines(path)]
    now = result.latents()["status"].tolist()
    n = sum(a != b for a, b in zip(recorded, now, strict=False)) + abs(len(recorded) - len(now))
    if n:
        warnings.warn(
            f"this polyseme judges {n:,} of {len(now):,} latents otherwise than the one that ran {result.run.id}; the "
            "run's own verdicts are in verdicts.jsonl and in its report",
            stacklevel=3,
        )
