"""The workbench of a running study: its store, its run, and a record of every stage it rests on."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyseme.core.progress import Reporter
from polyseme.store import Artifact, Run, Store


@dataclass(frozen=True)
class StageRecord:
    """One stage of this run.

    Attributes:
        stage: its name, with the control it belongs to.
        key: hash of all that made it.
        inputs: keys of the stages and hashes of the content it was made from.
        seconds: spent on it by this process.
        reused: it was there already.
    """

    stage: str
    key: str
    inputs: tuple[str, ...]
    seconds: float
    reused: bool


@dataclass
class Bench:
    """What stages need besides their config and inputs.

    Attributes:
        store: where artifacts are kept.
        run: where the run is recorded; None in tests of single stages.
        reporter: told of progress.
        fresh: make every stage anew, whatever is there.
        records: every stage so far.
    """

    store: Store
    reporter: Reporter
    run: Run | None = None
    fresh: bool = False
    records: list[StageRecord] = field(default_factory=list[StageRecord])

    def stage(
        self,
        name: str,
        config: Any,
        inputs: Mapping[str, str],
        make: Callable[[Path], None],
        *,
        label: str = "",
        version: int = 1,
    ) -> Artifact:
        """`Store.stage`, recorded.

        Args:
            name: of the stage.
            config: JSON; with `inputs` it decides the artifact's key.
            inputs: input name to the key of its artifact or the hash of its content.
            make: fills a folder; it may find there what it had finished before it was killed.
            label: what this stage is for, where several are alike: `spectrum_reinit`.
            version: raised when the stage's code changes what it makes.
        """
        made = False

        def making(folder: Path) -> None:
            nonlocal made
            made = True
            make(folder)

        started = time.perf_counter()
        if self.fresh:
            self.store.discard(name, config, inputs, version=version)
        artifact = self.store.stage(name, config, inputs, making, version=version, reporter=self.reporter)
        shown = f"{name} ({label})" if label else name
        record = StageRecord(shown, artifact.key, tuple(inputs), time.perf_counter() - started, not made)
        self.records.append(record)
        if self.run is not None:
            self.run.add_parent(shown, artifact.key)
            self.run.event("stage", stage=shown, key=artifact.key, seconds=record.seconds, reused=not made)
        return artifact
