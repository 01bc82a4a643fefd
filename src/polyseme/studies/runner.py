"""The workbench of a running study: its store, its run, and a record of every stage it rests on."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from polyseme.core.progress import Reporter
from polyseme.store import Artifact, Run, Store

T = TypeVar("T")


@dataclass(frozen=True)
class StageRecord:
    """One stage of this run.

    Attributes:
        stage: its name, with the control it belongs to.
        key: hash of all that made it.
        inputs: keys of the stages and hashes of the content it was made from.
        seconds: how long all processes that worked at it did so, those that were stopped or killed included.
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
        reporter: receives progress updates.
        fresh: make every stage again, whatever is there.
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
        load: Callable[[Artifact], T],
        *,
        label: str = "",
        version: int = 1,
        scratch: Collection[str] = (),
    ) -> tuple[Artifact, T]:
        """`Store.stage`, recorded.

        Args:
            name: of the stage.
            config: JSON; with `inputs` it decides the artifact's key.
            inputs: input name to the key of its artifact or the hash of its content.
            make: fills a folder.
            load: reads all that is needed of the artifact; `DamagedArtifact` has it made again.
            label: what this stage is for, where several are alike: `spectrum_reinit`.
            version: raised when the stage's code changes what it makes.
            scratch: names of folders that a killed process is resumed from.
        """
        made = False
        shown = f"{name} ({label})" if label else name

        def making(folder: Path) -> None:
            nonlocal made
            made = True
            self.reporter.message(f"stage {shown}")
            make(folder)

        key = self.store.key(name, config, inputs, version=version)
        artifact, loaded = self.store.stage(
            name,
            config,
            inputs,
            making,
            load,
            version=version,
            scratch=scratch,
            fresh=self.fresh and key not in {record.key for record in self.records},
            reporter=self.reporter,
        )
        record = StageRecord(shown, artifact.key, tuple(inputs), artifact.seconds, not made)
        self.records.append(record)
        if self.run is not None:
            self.run.add_parent(shown, artifact.key)
            self.run.event("stage", stage=shown, key=artifact.key, seconds=record.seconds, reused=not made)
        return artifact, loaded
