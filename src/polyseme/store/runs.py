"""Run directories: one folder a study, that says what was run, from what, by which code, and how it ended."""

import json
import os
import re
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from polyseme.core.config import Record, fingerprint
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import Backend, MetricRecord
from polyseme.core.text import visible
from polyseme.store import files
from polyseme.store.artifacts import FileRecord
from polyseme.store.failures import own_folder
from polyseme.store.locks import Held, is_locked, try_lock
from polyseme.store.provenance import Provenance, provenance
from polyseme.store.stages import NAME
from polyseme.store.sweeping import LOCK

RunStatus = Literal["running", "complete", "failed", "interrupted"]
SCHEMA_VERSION = 3
"""2 had no backend; 1 no checksum of `run.json` itself, no checksums of the run's files, and no time of earlier
processes."""

RUN_ID = re.compile(r"[a-z0-9_-]{1,64}-[0-9a-f]{8}")
RUN, CONFIG, ARTIFACTS = "run.json", "config.json", "artifacts"
_METRICS, _EVENTS = "metrics.jsonl", "events.jsonl"
_MAX_BYTES = 8 * 2**20
_Time = Annotated[float, Field(ge=0, le=4e9, allow_inf_nan=False)]
"""Seconds since 1970, up to the year 2096."""


class RunRecord(Record):
    """`run.json`: a run's identity, state and origin."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(pattern=r"^[a-z0-9_-]{1,64}-[0-9a-f]{8}$")
    """`<name>-<hash8>`; the hash is the config's."""
    name: str
    status: RunStatus
    started: _Time
    """Seconds since 1970, of the last start."""
    finished: _Time | None = None
    seconds: _Time = 0.0
    """How long processes before the last start worked at it, those that were killed included."""
    error: str | None = None
    """The message of a failed run."""
    parents: dict[str, str] = Field(default_factory=dict[str, str])
    """Stage to the key of its artifact."""
    files: dict[str, FileRecord] = Field(default_factory=dict[str, FileRecord])
    """What a complete run wrote: path inside its folder to size and checksum."""
    made_by: Provenance
    backend: Backend | None = None
    """What carried out the dictionaries' operations in the process that ran the study; None before the network was
    loaded."""


class Run:
    """One run directory, `<runs>/<name>-<hash8>/`: `run.json config.json metrics.jsonl events.jsonl artifacts/`.

    `Run.open` gives one to work in; `find_run` and `open_run` give one to read.

    Args:
        path: its folder.
        config: of a run to work in, as JSON.
    """

    def __init__(self, path: Path, config: Any = None):
        self.path = path
        self._wanted = config
        self._working: RunRecord | None = None

    @classmethod
    def open(cls, runs: Path, name: str, config: Any) -> "Run":
        """The run of this config under `runs`, new or not; `working` makes what its folder lacks.

        Args:
            runs: the folder of all runs (`Store.runs`).
            name: of the study, `[a-z0-9_-]{1,64}`.
            config: fully resolved, as JSON.

        Raises:
            InputError: a bad name, or the folder is a link or holds a run of another config.
        """
        if not NAME.fullmatch(name):
            raise InputError(
                f"{name[:80]!r} cannot name a study",
                where="name",
                fix="use 1 to 64 of the characters a-z, 0-9, _ and -",
            )
        config = files.to_json(config)
        run = cls(runs / f"{name}-{fingerprint(config)[:8]}", config)
        own_folder(run.path)
        own_folder(run.artifacts)
        run._refuse_another_config()
        return run

    @property
    def id(self) -> str:
        """What `run.json` says, wherever the folder was moved; the folder's name where it cannot be read."""
        with suppress(InputError):
            return self.record.id
        return self.path.name

    @property
    def artifacts(self) -> Path:
        """Where the report and the tables of the run go."""
        return self.path / ARTIFACTS

    @property
    def report(self) -> Path:
        """The page."""
        return self.artifacts / "report.html"

    @property
    def config(self) -> Any:
        """The fully resolved config, JSON.

        Raises:
            DamagedArtifact: `config.json` cannot be read, or was changed: the run's id holds the hash of it.
        """
        config, run_id = self._found_config(), self.id
        if RUN_ID.fullmatch(run_id) and not run_id.endswith(f"-{fingerprint(config)[:8]}"):
            raise DamagedArtifact(
                "config.json was changed after the run wrote it",
                where=str(self.path / CONFIG),
                fix="run the study again: it is written again",
            )
        return config

    def _found_config(self) -> Any:
        return files.load_json(self.path / CONFIG, _MAX_BYTES)

    @property
    def record(self) -> RunRecord:
        """`run.json` as it stands; a run that was killed reads as interrupted.

        Raises:
            DamagedArtifact: `run.json` cannot be read, or was changed after it was written.
            InputError: it was written by a newer polyseme.
        """
        if self._working is not None:
            return self._working
        try:
            value = files.load_record(self.path / RUN, _MAX_BYTES)
            version = value.get("schema_version")
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise InputError(
                    f"this run has schema version {version}, newer than {SCHEMA_VERSION}",
                    where=str(self.path),
                    fix="read it with a newer polyseme",
                )
            record = RunRecord.model_validate(value)
        except (DamagedArtifact, ValidationError) as error:
            what = error.what if isinstance(error, DamagedArtifact) else "it is not the record it should be"
            raise DamagedArtifact(
                f"run.json cannot be read ({what})",
                where=str(self.path / RUN),
                fix="run the study again: it is written again",
            ) from error
        if record.status == "running" and not is_locked(self.path / LOCK):
            return record.model_copy(update={"status": "interrupted"})
        return record

    @property
    def seconds(self) -> float:
        """How long every process that worked at the run did so, as far as is known of those that were killed."""
        record = self.record
        end = time.time() if self._working is not None else record.finished
        return record.seconds + max(0.0, (end or record.started) - record.started)

    @contextmanager
    def working(self, reporter: Reporter | None = None) -> Generator[None, None, None]:
        """Hold the run while working at it, and write how it ended: complete, failed or interrupted.

        Whatever a kill or damage left of the folder, it is a whole run from here on.

        Args:
            reporter: gets a message for each damaged file that is written again.

        Raises:
            InputError: another process works at this run, or its folder cannot be written.
        """
        with try_lock(self.path / LOCK) as held:
            if not isinstance(held, Held):
                raise InputError(
                    f"another process ({held}) works at this run",
                    where=str(self.path),
                    fix="wait for it, or stop it; then run the same command again",
                )
            earlier = self._settle(held, reporter or Silent())
            started = time.time()
            self._write(
                RunRecord(
                    id=self.path.name,
                    name=self.path.name.rpartition("-")[0],
                    status="running",
                    started=started,
                    seconds=earlier,
                    made_by=provenance(),
                )
            )
            try:
                self.event("started")
                try:
                    yield
                except (KeyboardInterrupt, SystemExit):
                    self._finish("interrupted", None)
                    raise
                except BaseException as error:
                    self._finish("failed", visible(f"{type(error).__name__}: {error}", limit=2000))
                    raise
                self._finish("complete", None)
            finally:
                self._working = None

    def add_parent(self, stage: str, key: str) -> None:
        """Record that the run rests on the artifact `key` of `stage`."""
        self._write(self.record.model_copy(update={"parents": {**self.record.parents, stage: key}}))

    def record_backend(self, backend: Backend) -> None:
        """Record what carries out the dictionaries' operations."""
        self._write(self.record.model_copy(update={"backend": backend}))

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
            DamagedArtifact: the file was changed after the run wrote it, or a line is not a metric record.
        """
        if _METRICS in self.changed_files():
            raise DamagedArtifact(
                "metrics.jsonl was changed after the run wrote it",
                where=str(self.path / _METRICS),
                fix="run the study again",
            )
        try:
            return [MetricRecord.model_validate(line) for line in files.load_lines(self.path / _METRICS)]
        except ValidationError as error:
            raise DamagedArtifact(
                "metrics.jsonl cannot be read", where=str(self.path / _METRICS), fix="run the study again"
            ) from error

    def changed_files(self) -> list[str]:
        """Paths, inside the run's folder, of the files that are no longer what a complete run wrote.

        Empty where that is not known: the run is not complete, or its `run.json` cannot be read.
        """
        try:
            written = self.record.files
        except InputError:
            return []
        changed = [name for name, record in written.items() if record.problem(self.path / name) is not None]
        if written:
            try:
                _ = self.config
            except DamagedArtifact:
                changed.append(CONFIG)
        return changed

    def _refuse_another_config(self) -> None:
        """Refuse the folder of another config whose hash happens to begin alike; anything else in it is damage."""
        with suppress(DamagedArtifact):
            found = fingerprint(self._found_config())
            if found != fingerprint(self._wanted) and self.path.name.endswith(f"-{found[:8]}"):
                raise InputError(
                    "this folder holds a run of another config", where=str(self.path), fix="choose another name"
                )

    def _settle(self, held: Held, reporter: Reporter) -> float:
        """Give the folder what it must hold; returns how long earlier processes worked at the run, in seconds."""
        for folder in (self.path, self.artifacts):
            own_folder(folder)
            files.remove_temporaries(folder, deep=False)
        new = not any(os.path.lexists(self.path / name) for name in (RUN, CONFIG))
        if self._wanted is not None and not self._config_fits():
            if os.path.lexists(self.path / CONFIG):
                reporter.message(f"{self.path / CONFIG} was changed or damaged; writing it again")
            files.save_json(self.path / CONFIG, self._wanted)
        try:
            record = self.record
        except DamagedArtifact as damage:
            if os.path.lexists(self.path / RUN):
                reporter.message(f"{self.path / RUN}: {damage.what}; writing it again")
            return 0.0 if new else self._seconds_of_events(held)
        if record.finished is not None:
            return record.seconds + max(0.0, record.finished - record.started)
        return record.seconds + max(0.0, self._last_sign(held) - record.started)

    def _config_fits(self) -> bool:
        try:
            return fingerprint(self._found_config()) == fingerprint(self._wanted)
        except DamagedArtifact:
            return False

    def _last_sign(self, held: Held) -> float:
        """When the last process, which was killed, was alive for certain."""
        times = [0.0, held.last_sign or 0.0]
        with suppress(DamagedArtifact):
            times += [_time_of(event) for event in self.events]
        return min(max(times), time.time())

    def _seconds_of_events(self, held: Held) -> float:
        """The time worked as the events show it: of each process, from its start to its last event."""
        spans: list[list[float]] = []
        with suppress(DamagedArtifact):
            for event in self.events:
                if event.get("kind") == "started":
                    spans.append([])
                if spans:
                    spans[-1].append(_time_of(event))
        if spans:
            spans[-1].append(held.last_sign or 0.0)
        return sum(max(0.0, max(span) - span[0]) for span in spans)

    def _write(self, record: RunRecord) -> None:
        files.save_record(self.path / RUN, record)
        self._working = record

    def _written(self) -> dict[str, FileRecord]:
        found = [*sorted(path for path in self.artifacts.iterdir() if path.is_file()), self.path / _METRICS]
        return {path.relative_to(self.path).as_posix(): FileRecord.of(path) for path in found if path.is_file()}

    def _finish(self, status: RunStatus, error: str | None) -> None:
        record = self.record.model_copy(update={"status": status, "finished": time.time(), "error": error})
        if status == "complete":
            self._write(record.model_copy(update={"files": self._written()}))
            self.event("finished", status=status)
            return
        # The disk that ended the run may be too full to write that down: the run's own error is what must be seen.
        with suppress(InputError):
            self._write(record)
            self.event("finished", status=status)


def _time_of(event: Mapping[str, Any]) -> float:
    value = event.get("time")
    return float(value) if isinstance(value, int | float) and 0 <= value <= time.time() + 86_400 else 0.0
