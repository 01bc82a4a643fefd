"""Stages of a study as data, and the worker that runs them.

A stage is a node of a study's plan: what it needs, what decides its result, and how that is made and read. A worker
runs stages, each after those that it needs; an artifact is made once, under the hash of everything that decides it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from polyseme.core.binding import Binding, recorded_sites
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.networks import Network
from polyseme.store import Artifact, Run, Store
from polyseme.studies.check import study_context
from polyseme.studies.config import StudyConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """What a stage does, in units whose rates can be measured; its price is their sum.

    Attributes:
        tokenised: tokens of text that are encoded.
        read: tokens that the network reads up to the last site.
        passed: tokens that go through the whole network.
        trained: multiply-adds of a dictionary in training steps, tokens × latents × the mean of its inputs and outputs.
        correlated: multiply-adds of activations over documents and of their resamples, for matches of latents.
        matched: multiply-adds of the cosines between directions, and steps of the assignment.
        disk: bytes of the artifact.
    """

    tokenised: float = 0.0
    read: float = 0.0
    passed: float = 0.0
    trained: float = 0.0
    correlated: float = 0.0
    matched: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True, eq=False)
class Stage(ABC, Generic[T]):
    """One step of a study, as data: what it needs, what decides its result, and how that is made and read.

    Its artifact's key is the hash of name, version, `identity` and `inputs`: it changes only when the result does.

    Attributes:
        label: whom it is about, where several stages have one name: `trained`, or the name of a control.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when its code, or a default that it rests on, changes what it makes."""
    scratch: ClassVar[tuple[str, ...]] = ()
    """Folders that a killed process is resumed from."""

    label: str

    @property
    def shown(self) -> str:
        """Name and label, unique in a study."""
        return f"{self.name} ({self.label})" if self.label else self.name

    def needs(self) -> tuple["Stage[Any]", ...]:
        """The stages whose results it reads, which are those that its fields hold; a plan is their closure."""
        return tuple(dict.fromkeys(_stages_in([getattr(self, each.name) for each in fields(self)])))

    @abstractmethod
    def inputs(self, at: "Worker") -> Mapping[str, str]:
        """Name to hash of all content that it reads. The stages that it needs are finished when it is asked."""

    @abstractmethod
    def identity(self, at: "Worker") -> dict[str, Any]:
        """What of the config decides the result, as JSON, without defaults."""

    @abstractmethod
    def work(self, at: "Worker") -> Work:
        """What making it takes, from the config and the network alone."""

    @abstractmethod
    def make(self, folder: Path, at: "Worker") -> None:
        """Fill the artifact's folder."""

    @abstractmethod
    def load(self, artifact: Artifact, at: "Worker") -> T:
        """Read everything that is needed of the artifact; `DamagedArtifact` has it made again."""


@runtime_checkable
class Conditional(Protocol):
    """A stage that some networks have no use for."""

    def why_not(self, at: "Worker") -> str:
        """Why it is left out; empty where it is not."""
        ...


@runtime_checkable
class Holder(Protocol):
    """A field of a stage that holds further stages."""

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        """Those stages."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A stage whose messages are as true of a run that finds its artifact."""

    def remarks(self, artifact: Artifact) -> list[str]:
        """The messages."""
        ...


@dataclass(frozen=True)
class StageRecord:
    """One stage of this run.

    Attributes:
        stage: its name, with the control it belongs to.
        key: hash of all that made it.
        inputs: names of the content that it was made from.
        seconds: how long all processes that worked at it did so, those that were stopped or killed included.
        reused: it was there already.
    """

    stage: str
    key: str
    inputs: tuple[str, ...]
    seconds: float
    reused: bool


@dataclass
class Worker:
    """Runs stages, each after those that it needs, and keeps their results.

    Attributes:
        config: of the study.
        store: where artifacts are kept.
        reporter: receives progress updates.
        run: where the run is recorded; None in tests of single stages.
        fresh: make every stage again, whatever is there.
        expected: fingerprint of the network that the plan was made with, where another process made it.
        recorded: of a finished run that is opened again, stage to the key of its artifact: these are found as they
            are, nothing is made, and the network is loaded only for what reads it.
        records: every stage so far.
    """

    config: StudyConfig
    store: Store
    reporter: Reporter
    run: Run | None = None
    fresh: bool = False
    expected: str | None = None
    recorded: Mapping[str, str] | None = None
    records: list[StageRecord] = field(default_factory=list[StageRecord])
    _artifacts: dict[Stage[Any], Artifact] = field(default_factory=dict[Stage[Any], Artifact], repr=False)
    _results: dict[Stage[Any], Any] = field(default_factory=dict[Stage[Any], Any], repr=False)
    _kept: dict[Any, Any] = field(default_factory=dict[Any, Any], repr=False)

    @cached_property
    def network(self) -> Network:
        """The study's network; where the study is one of a null, that null's."""
        self.reporter.message(f"study {self.config.name}: loading {self.config.network.source}")
        network = self.load_network()
        if self.recorded is not None and network.hash_weights(self.reporter) != self.base:
            raise InputError(
                "the network is no longer the one that the run was made with",
                where=self.config.network.source,
                fix="put the network of that time in its place, or run the study again",
            )
        if self.expected is not None:
            self.check_same(network, self.expected)
        return network

    def load_network(self) -> Network:
        """The study's network as its source gives it now: an entry point may give another each time."""
        network, null = self.config.network.build(), self.config.null
        return network if null is None else null.network(network, self.reporter)

    def beside(self, config: StudyConfig) -> "Worker":
        """A worker for another study of the same network at the same sites, which has found nothing yet."""
        other = Worker(config, self.store, self.reporter)
        other.__dict__["network"] = self.network
        return other

    def check_same(self, network: Network, expected: str) -> None:
        """Refuse a network that is loaded in the place of another.

        Raises:
            InputError: its fingerprint is another.
        """
        if network.hash_weights(self.reporter) != expected:
            raise InputError(
                "the network has other weights each time it is loaded, or was changed after the plan was made",
                where=self.config.network.source,
                fix="an entry point must return the same weights at every call: seed it, or let it load saved ones; "
                "where the network was changed on purpose, run polyseme plan again",
            )

    @cached_property
    def base(self) -> str:
        """The network's fingerprint."""
        if self.recorded is not None:
            return str(self._recorded_statistics["inputs"]["network"])
        return self.network.hash_weights(self.reporter)

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Name in the config to the resolved site, of all that dictionaries read or write."""
        bindings = self.config.bindings
        if self.recorded is not None:
            saved = self._recorded_statistics["config"]["sites"]
            places = [place for name, binding in bindings.items() for place in recorded_sites(binding, saved[name])]
            return dict(places)
        return {name: self.network.site(name) for binding in bindings.values() for name in binding.places}

    @cached_property
    def bindings(self) -> dict[str, Binding[Site]]:
        """What dictionaries are called to what they read and write."""
        return {name: binding.map(self.sites.__getitem__) for name, binding in self.config.bindings.items()}

    @property
    def draw(self) -> dict[str, Any]:
        """What the draw seed adds to the key of a stage that draws something for the verdicts."""
        return {"draw": self.config.draw_seed} if self.config.draw_seed else {}

    def seed(self, seed: int) -> int:
        """The seed of something that is drawn for the verdicts."""
        return derive_seed(seed, "draw", self.config.draw_seed) if self.config.draw_seed else seed

    @cached_property
    def context(self) -> int:
        """Tokens a window."""
        return study_context(self.config, self.network)

    @cached_property
    def read_widths(self) -> dict[str, int]:
        """What dictionaries are called to the width of what they read."""
        return {name: sum(map(self.network.width, binding.reads)) for name, binding in self.bindings.items()}

    @cached_property
    def write_widths(self) -> dict[str, int]:
        """The same of what they write."""
        return {name: sum(map(self.network.width, binding.writes)) for name, binding in self.bindings.items()}

    @cached_property
    def latents(self) -> dict[str, int]:
        """What dictionaries are called to the number of their latents."""
        return {name: self.config.dictionary.width(width) for name, width in self.read_widths.items()}

    @cached_property
    def multiply_adds(self) -> float:
        """Latents × the mean of inputs and outputs, over the dictionaries of one seed."""
        return sum(n * (self.read_widths[name] + self.write_widths[name]) / 2 for name, n in self.latents.items())

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives, kept under `key`: for what several stages read and no artifact holds."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def of(self, stage: Stage[T]) -> T:
        """A stage's result, found or made after all that it needs."""
        if stage not in self._results:
            if stage in self._artifacts:  # let go
                self._results[stage] = stage.load(self._artifacts[stage], self)
            else:
                self._artifacts[stage], self._results[stage] = self._run(stage)
        return self._results[stage]

    def let_go(self, *stages: Stage[Any]) -> None:
        """Let the memory of results go; what is asked for again is read from its artifact again."""
        for stage in stages:
            self._results.pop(stage, None)

    def is_used(self, stage: Stage[Any]) -> bool:
        """False of a stage that this network has no use for."""
        if self.recorded is not None:
            return stage.shown in self.recorded
        return not (isinstance(stage, Conditional) and stage.why_not(self))

    def artifact(self, stage: Stage[Any]) -> Artifact:
        """The artifact of a stage, found or made."""
        if stage not in self._artifacts:
            self.of(stage)
        return self._artifacts[stage]

    def key(self, stage: Stage[Any]) -> str:
        """The key of a stage's artifact; what it needs is found or made for that."""
        return self.store.key(stage.name, *self._rests_on(stage), version=stage.version)

    def record(self, stage: Stage[Any]) -> StageRecord:
        """Where a stage's artifact is and what it took; of a run that is opened again, without what it holds."""
        known = next((record for record in self.records if record.stage == stage.shown), None)
        if known is not None:
            return known
        if self.recorded is None:
            self.of(stage)
            return self.record(stage)
        return _record(stage, self._recorded_artifact(stage.name, stage.shown), reused=True)

    def is_done(self, stage: Stage[Any]) -> bool:
        """Whether the stage's artifact is there, whole, and what this version of the code makes; nothing is made."""
        if not all(map(self.is_done, stage.needs())):
            return False

        def find() -> bool:
            key = self.key(stage)
            if not self.store.has(stage.name, key):
                return False
            try:
                artifact = self.store.find(stage.name, key, reporter=self.reporter)
                self._artifacts[stage], self._results[stage] = artifact, stage.load(artifact, self)
            except DamagedArtifact as damage:
                self.reporter.message(
                    f"stage {stage.shown}: {damage.what} ({damage.where}); it is to be computed again"
                )
                return False
            return True

        return stage in self._artifacts or self.once(("is done", stage), find)

    @property
    def _recorded_statistics(self) -> Mapping[str, Any]:
        """What the first stage that reads the network was made from."""
        return self._recorded_artifact("statistics", "statistics (trained)").identity

    def _recorded_artifact(self, name: str, shown: str) -> Artifact:
        if self.recorded is None or shown not in self.recorded:
            raise InputError(f"the run has no stage {shown}", fix="run the study again: it is resumed")
        try:
            return self.store.find(name, self.recorded[shown], reporter=self.reporter)
        except DamagedArtifact as damage:
            fix = "run the study again: the stage is computed again"
            raise DamagedArtifact(f"stage {shown}: {damage.what}", where=damage.where, fix=fix) from damage

    def _open(self, stage: Stage[T]) -> tuple[Artifact, T]:
        """The artifact of a stage as the finished run left it."""
        artifact = self._recorded_artifact(stage.name, stage.shown)
        version = artifact.identity["version"]
        if version != stage.version:
            raise InputError(
                f"stage {stage.shown} was made by version {version} of its code, and this polyseme has {stage.version}",
                where=str(artifact.path),
                fix="run the study again, or open it with the polyseme that made it",
            )
        loaded = stage.load(artifact, self)
        self.records.append(_record(stage, artifact, reused=True))
        return artifact, loaded

    def _rests_on(self, stage: Stage[Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """What decides a stage's result: of the config, and of the content that it reads."""
        for needed in stage.needs():
            self.artifact(needed)
        return stage.identity(self), stage.inputs(self)

    def _run(self, stage: Stage[T]) -> tuple[Artifact, T]:
        if self.recorded is not None:
            return self._open(stage)
        (decides, inputs), made = self._rests_on(stage), False
        key = self.store.key(stage.name, decides, inputs, version=stage.version)

        def make(folder: Path) -> None:
            nonlocal made
            made = True
            self.reporter.message(f"stage {stage.shown}")
            stage.make(folder, self)

        known = {record.key for record in self.records}
        artifact, loaded = self.store.stage(
            stage.name,
            decides,
            inputs,
            make,
            lambda artifact: stage.load(artifact, self),
            version=stage.version,
            scratch=stage.scratch,
            fresh=self.fresh and key not in known,
            reporter=self.reporter,
        )
        record = _record(stage, artifact, reused=not made)
        self.records.append(record)
        if self.run is not None:
            self.run.add_parent(stage.shown, artifact.key)
            self.run.event("stage", stage=stage.shown, key=artifact.key, seconds=record.seconds, reused=not made)
        if not made and isinstance(stage, Remarking):
            for text in stage.remarks(artifact):
                self.reporter.message(text)
        return artifact, loaded


def _stages_in(parts: Iterable[Any]) -> Iterator[Stage[Any]]:
    for part in parts:
        if isinstance(part, Stage):
            yield part
        elif isinstance(part, Mapping):
            yield from _stages_in(part.values())
        elif isinstance(part, tuple):
            yield from _stages_in(part)
        elif isinstance(part, Holder):
            yield from part.stages


def _record(stage: Stage[Any], artifact: Artifact, *, reused: bool) -> StageRecord:
    return StageRecord(stage.shown, artifact.key, tuple(artifact.identity["inputs"]), artifact.seconds, reused)
