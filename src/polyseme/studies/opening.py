"""A finished study opened again, from what its run recorded."""

import os
from pathlib import Path

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.validation import path_of, validate_config
from polyseme.screen.progress import reporting
from polyseme.store import Run, Store, find_run, open_run
from polyseme.studies.config import StudyConfig
from polyseme.studies.findings import Findings
from polyseme.studies.plan import Plan
from polyseme.studies.result import StudyResult
from polyseme.studies.stage import Worker


def open_study(run: str | Path, root: str | Path = "runs", *, reporter: Reporter | None = None) -> StudyResult:
    """A finished study with its dictionaries, firings, metrics and verdicts, as the run left them.

    Nothing is trained or measured, and nothing is written. Each part is read, and verified, when it is first asked for:
    the dictionaries of a control only for what compares them, the network only for what reads it (`latent`, `shown`,
    `network`).

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
        reporter: receives which artifacts are checked; by default bars in a notebook or on a terminal.

    Raises:
        InputError: there is no such run, or it did not finish; later, an artifact that it rests on is gone.
        DamagedArtifact: a file of the run was changed; later, one of an artifact.
    """
    found = _run(path_of(run, "run") if not isinstance(run, str) else run, path_of(root))
    record = found.record
    if record.status != "complete":
        raise InputError(
            f"run {record.id} is {record.status}, not complete",
            where=str(found.path),
            fix="give the command that ran it again: it is resumed",
        )
    config = validate_config(found.config, StudyConfig, where=str(found.path / "config.json"))
    beside = found.path.parent
    store = Store(beside if (beside / "objects").is_dir() else path_of(root), read_only=True)
    with reporting(reporter) as told:
        worker = Worker(config, store, told, found, recorded=record.parents)
        return StudyResult(found, Findings(Plan.of(config), worker), told)


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
