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
class Compared:
    """The stages of dictionaries that are compared with the study's, or of the study itself.

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

    @property
    @abstractmethod
    def stages(self) -> tuple[Stage[Any], ...]:
        """In the order in which they are run."""

    @property
    def matches(self) -> tuple[MatchingStage, ...]:
        """The matching stage, unless the study has no partners or this is a null of the dictionary."""
        null, study = self.role.null, self.matching.study
        return () if len(study.seeds) < 2 or (null and null.targets == "dictionary") else (self.matching,)


@dataclass(frozen=True)
class Drawn(Compared):
    """The stages that a further draw of a null goes through: its dictionaries are compared with the study's."""

    @classmethod
    def of(cls, role: Role, study: Role, matched: ReadingsStage | None = None) -> "Drawn":
        """The stages of `role`, in a study whose own role is `study`.

        Args:
            role: whose they are.
            study: of the study itself.
            matched: the readings of the study itself, whose L0 the dictionaries must reach where it is steered.
        """
        return cls(*_compared(role, study, matched))

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        return (self.statistics, self.dictionaries, self.shared, *self.matches)


@dataclass(frozen=True)
class Measures(Compared):
    """The stages that the study itself and each of its controls go through.

    Attributes:
        readings: on its own held-out tokens; the same stage as `shared` where these are the study's.
        splice: on its own tokens.
    """

    readings: ReadingsStage
    splice: SpliceStage

    @classmethod
    def of(cls, role: Role, study: Role, matched: ReadingsStage | None = None) -> "Measures":
        """The stages of `role`, in a study whose own role is `study`: as `Drawn.of`."""
        _, statistics, dictionaries, shared, matching = _compared(role, study, matched)
        readings = shared if shared.text is role else ReadingsStage(role.label, role, statistics, dictionaries, role)
        splice = SpliceStage(role.label, role, statistics, dictionaries)
        return cls(role, statistics, dictionaries, shared, matching, readings, splice)

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        return (self.statistics, self.dictionaries, self.readings, self.shared, self.splice, *self.matches)


def _compared(
    role: Role, study: Role, matched: ReadingsStage | None
) -> tuple[Role, StatisticsStage, DictionariesStage, ReadingsStage, MatchingStage]:
    statistics = StatisticsStage(role.label, role)
    dictionaries = DictionariesStage(role.label, role, statistics, matched)
    shared = _shared(role, study, statistics, dictionaries)
    return role, statistics, dictionaries, shared, MatchingStage(role.label, role, statistics, dictionaries, study)


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
    draws: Mapping[str, tuple[Compared, ...]]


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
