"""The stages that a study itself and each of its controls go through, and what may be added to those of the study."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from polyseme.core.records import MetricRecord
from polyseme.evaluation import DocumentSums
from polyseme.studies.config import StudyConfig
from polyseme.studies.stage import Stage
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.stages.matching import MatchingStage
from polyseme.studies.stages.readings import ReadingsStage
from polyseme.studies.stages.splice import SpliceStage
from polyseme.studies.stages.statistics import StatisticsStage
from polyseme.studies.subject import Role

T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """The stages that every draw of a null goes through whose dictionaries are compared with the study's.

    Attributes:
        role: whose they are.
        statistics, dictionaries: on its own tokens.
        shared: on the study's held-out tokens.
        matching: on the study's train tokens.
    """

    role: Role
    statistics: StatisticsStage
    dictionaries: DictionariesStage
    shared: ReadingsStage
    matching: MatchingStage

    @classmethod
    def of(cls, role: Role, study: Role, matched: ReadingsStage | None = None) -> "Drawn":
        """The stages of `role`, in a study whose own role is `study`.

        Args:
            role: whose they are.
            study: of the study itself.
            matched: the readings of the study itself, whose L0 the dictionaries must reach where it is steered.
        """
        statistics = StatisticsStage(role.label, role)
        dictionaries = DictionariesStage(role.label, role, statistics, matched)
        shared = _shared(role, study, statistics, dictionaries)
        matching = MatchingStage(role.label, role, statistics, dictionaries, study)
        return cls(role, statistics, dictionaries, shared, matching)

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        """In the order in which they are run."""
        return (self.statistics, self.dictionaries, self.shared, *self._compared)

    @property
    def _compared(self) -> tuple[MatchingStage, ...]:
        """The matching stage, unless the study has no partners or this is a null of the dictionary."""
        null, study = self.role.null, self.matching.study
        return () if len(study.seeds) < 2 or (null and null.targets == "dictionary") else (self.matching,)


@dataclass(frozen=True)
class Measures(Drawn):
    """The stages that the study itself and each of its controls go through.

    Attributes:
        readings: on its own held-out tokens; the same stage as `shared` where these are the study's.
        splice: on its own tokens.
    """

    readings: ReadingsStage
    splice: SpliceStage

    @classmethod
    def of(cls, role: Role, study: Role, matched: ReadingsStage | None = None) -> "Measures":
        drawn = Drawn.of(role, study, matched)
        statistics, dictionaries, readings = drawn.statistics, drawn.dictionaries, drawn.shared
        if readings.text is not role:
            readings = ReadingsStage(role.label, role, statistics, dictionaries, role)
        splice = SpliceStage(role.label, role, statistics, dictionaries)
        return cls(role, statistics, dictionaries, drawn.shared, drawn.matching, readings, splice)

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        return (self.statistics, self.dictionaries, self.readings, self.shared, self.splice, *self._compared)


def _shared(role: Role, study: Role, statistics: StatisticsStage, dictionaries: DictionariesStage) -> ReadingsStage:
    """The readings of a role on the study's own held-out tokens."""
    if role.null is None or role.null.targets != "tokens":
        return ReadingsStage(role.label, role, statistics, dictionaries, role)
    label = f"{role.label}, on the study's own held-out tokens"
    return ReadingsStage(label, role, statistics, dictionaries, study)


@dataclass(frozen=True)
class Outline:
    """What the findings of a study may rest on.

    Attributes:
        config: of the study.
        real: the study itself.
        controls: by name.
        draws: kind of a null of the weights or tokens to all its draws; the first of them is a control.
    """

    config: StudyConfig
    real: Measures
    controls: Mapping[str, Measures]
    draws: Mapping[str, tuple[Drawn, ...]]


@dataclass(frozen=True, eq=False)
class Finding(Stage[T]):
    """A stage of the study itself, beside its `Measures`; a line in `plan.FINDINGS` adds its kind to every study."""

    @classmethod
    @abstractmethod
    def among(cls, study: Outline) -> Iterable["Finding[T]"]:
        """The stages of this kind in a study: none where its config has nothing for it, or one a site."""


@runtime_checkable
class Recording(Protocol):
    """A stage whose result holds metrics, for the study's list of all."""

    def records(self, found: Any, /) -> Iterable[MetricRecord | DocumentSums]:
        """The metrics of what `load` gave."""
        ...
