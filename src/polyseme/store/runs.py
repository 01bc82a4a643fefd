"""Run directories: one folder a study, that says what was run, from what, by which code, and how it ended."""

import json
import re
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from polyseme.core.config import Record, fingerprint
from polyseme.core.errors import DamagedArtifact, InputError, nearest_names
from polyseme.core.records import MetricRecord
from polyseme.store import files
from polyseme.store.locks import is_locked, try_lock
from polyseme.store.provenance import Provenance, provenance
from polyseme.store.stages import NAME

RunStatus = Literal["running", "complete", "failed", "interrupted"]
SCHEMA_VERSION = 1

_ID = re.compile(r"[a-z0-9_-]{1,64}-[0-9a-f]{8}")
_RUN, _CONFIG, _METRICS, _EVENTS, _LOCK = "run.json", "config.json", "metrics.jsonl", "events.jsonl", ".lock"


class RunRecord(Record):
    """`run.json`: a run's identity, state and origin."""

    schema_version: int = SCHEMA_VERSION
    id: str
    """`<name>-<hash8>`; the hash is the config's."""
    name: str
    status: RunStatus
    started: float
    """Seconds since 1970, of the last start."""
    finished: float | None = None
    error: str | None = None
    """The message of a failed run."""
    parents: dict[str, str] = Field(default_factory=dict[str, str])
    """Stage to the key of its artifact."""
    made_by: Provenance


class Run:
    """One run directory, `<runs>/<name>-<hash8>/`: `run.json config.json metrics.jsonl events.jsonl artifacts/`.

    `Run.open` makes or reopens one to work in; `find_run` gives one to read.

    Args:
        path: its folder, which must hold a `run.json`.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def open(cls, runs: Path, name: str, config: Any) -> "Run":
        """The run of this config under `runs`, made when new.

        Args:
            runs: the folder of all runs (`Store.runs`).
            name: of the study, `[a-z0-9_-]{1,64}`.
            config: fully resolved, as JSON.

        Raises:
            InputError: a bad name, or the folder holds a run of another config.
        """
        if not NAME.fullmatch(name):
            raise InputError(
                f"{name[:80]!r} cannot name a study",
                where="name",
                fix="use 1 to 64 of the characters a-z, 0-9, _ and -",
            )
        config = files.to_json(config)
        return cls.at(runs / f"{name}-{fingerprint(config)[:8]}", name, config)

    @classmethod
    def at(cls, path: Path, name: str, config: Any) -> "Run":
        """The run in a given folder, made when the folder is new or empty; otherwise as `Run.open`."""
        config = files.to_json(config)
        run = cls(path)
        if (path / _CONFIG).exists():
            if fingerprint(files.load_json(path / _CONFIG)) != fingerprint(config):
                raise InputError(
                    "this folder holds a run of another config",
                    where=str(path),
                    fix="choose another name or folder, or delete this one",
                )
        elif path.exists() and any(child.name != _LOCK for child in path.iterdir()):
            raise InputError(
                "this folder is not empty and holds no run", where=str(path), fix="choose another name or folder"
            )
        with files.full_disk_is_an_input_error(path):
            (path / "artifacts").mkdir(parents=True, exist_ok=True)
        if not (path / _RUN).exists():
            run._write(_new_record(path.name, name))
        # Written last: the folder is a run's from here on.
        if not (path / _CONFIG).exists():
            files.save_json(path / _CONFIG, config)
        return run

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def artifacts(self) -> Path:
        """Where the report and the tables of the run go."""
        return self.path / "artifacts"

    @property
    def config(self) -> Any:
        """The fully resolved config, JSON."""
        return files.load_json(self.path / _CONFIG)

    @property
    def record(self) -> RunRecord:
        """`run.json` as it stands; a run that was killed reads as interrupted.

        Raises:
            DamagedArtifact: `run.json` cannot be read.
            InputError: it was written by a newer polyseme.
        """
        value = files.load_json(self.path / _RUN)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"this run has schema version {version}, newer than {SCHEMA_VERSION}",
                where=str(self.path),
                fix="read it with a newer polyseme",
            )
        try:
            record = RunRecord.model_validate(value)
        except ValidationError as error:
            raise DamagedArtifact(
                "run.json cannot be read", where=str(self.path / _RUN), fix="run the study again: it is rewritten"
            ) from error
        if record.status == "running" and not is_locked(self.path / _LOCK):
            return record.model_copy(update={"status": "interrupted"})
        return record

    @contextmanager
    def working(self) -> Generator[None, None, None]:
        """Hold the run while working at it, and write how it ended: complete, failed or interrupted.

        Raises:
            InputError: another process works at this run.
        """
        with try_lock(self.path / _LOCK) as holder:
            if holder is not None:
                raise InputError(
                    f"another process ({holder}) works at this run",
                    where=str(self.path),
                    fix="wait for it, or stop it; then run the same command again",
                )
            self._write(_new_record(self.id, self._name()))
            self.event("started")
            try:
                yield
            except (KeyboardInterrupt, SystemExit):
                self._finish("interrupted", None)
                raise
            except BaseException as error:
                self._finish("failed", f"{type(error).__name__}: {error}")
                raise
            self._finish("complete", None)

    def add_parent(self, stage: str, key: str) -> None:
        """Record that the run rests on the artifact `key` of `stage`."""
        record = self.record
        self._write(record.model_copy(update={"parents": {**record.parents, stage: key}}))

    def event(self, kind: str, **fields: Any) -> None:
        """Append a line with the time to `events.jsonl`, durably."""
        line = json.dumps({"time": time.time(), "kind": kind, **files.to_json(fields)}, allow_nan=False)
        files.append_line(self.path / _EVENTS, line)

    @property
    def events(self) -> list[Mapping[str, Any]]:
        """The events so far; a half-written last line is left out."""
        return [event for event in files.load_lines(self.path / _EVENTS) if isinstance(event, dict)]

    def save_metrics(self, records: Iterable[MetricRecord]) -> None:
        """Replace `metrics.jsonl`: a resumed run has each metric once."""
        files.save_lines(self.path / _METRICS, list(records))

    @property
    def metrics(self) -> list[MetricRecord]:
        """The records of `metrics.jsonl`.

        Raises:
            DamagedArtifact: a line is not a metric record.
        """
        try:
            return [MetricRecord.model_validate(line) for line in files.load_lines(self.path / _METRICS)]
        except ValidationError as error:
            raise DamagedArtifact(
                "metrics.jsonl cannot be read", where=str(self.path / _METRICS), fix="run the study again"
            ) from error

    def _name(self) -> str:
        return self.id.rpartition("-")[0] if _ID.fullmatch(self.id) else self.id

    def _write(self, record: RunRecord) -> None:
        files.save_json(self.path / _RUN, record)

    def _finish(self, status: RunStatus, error: str | None) -> None:
        update = {"status": status, "finished": time.time(), "error": error}
        self._write(self.record.model_copy(update=update))
        self.event("finished", status=status)


def _new_record(run_id: str, name: str) -> RunRecord:
    return RunRecord(id=run_id, name=name, status="running", started=time.time(), made_by=provenance())


def list_runs(runs: Path) -> list[Run]:
    """Every run under `runs`, by id; folders that are no runs, and links, are left out."""
    if not runs.is_dir():
        return []
    return [
        Run(path)
        for path in sorted(runs.iterdir())
        if _ID.fullmatch(path.name) and not path.is_symlink() and (path / _RUN).is_file()
    ]


def find_run(runs: Path, text: str) -> Run:
    """The run with this id, or whose id alone starts with `text`; looked up in the listing, never joined to a path.

    Raises:
        InputError: none (with the nearest ids) or several.
    """
    known = {run.id: run for run in list_runs(runs)}
    if text in known:
        return known[text]
    matches = [run_id for run_id in known if text and run_id.startswith(text)]
    if len(matches) == 1:
        return known[matches[0]]
    shown = repr(text[:80])
    if matches:
        raise InputError(
            f"{shown} is the start of {len(matches)} runs", where=str(runs), fix=f"say which: {', '.join(matches[:10])}"
        )
    near = nearest_names(text[:80], list(known))
    raise InputError(
        f"there is no run {shown}",
        where=str(runs),
        fix=f"did you mean {' or '.join(near)}" if near else "`polyseme runs` lists those there are",
    )
