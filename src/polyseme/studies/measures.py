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
from polyseme.studies.stages.readings import ReadingsStage
from polyseme.studies.stages.splice import SpliceStage
from polyseme.studies.stages.statistics import StatisticsStage
from polyseme.studies.subject import Role

T = TypeVar("T")


@dataclass(frozen=True)
class Measures:
    """The stages that the study itself and each control go through.

    Attributes:
        role: whose they are.
        statistics, dictionaries, splice: on its own tokens.
        readings: on its own held-out tokens.
        shared: on the study's held-out tokens; the same stage where those are its own.
    """

    role: Role
    statistics: StatisticsStage
    dictionaries: DictionariesStage
    readings: ReadingsStage
    shared: ReadingsStage
    splice: SpliceStage

    @classmethod
    def of(cls, role: Role, study: Role, matched: ReadingsStage | None = None) -> "Measures":
        """The stages of `role`, in a study whose own role is `study`."""
        statistics = StatisticsStage(role.label, role)
        dictionaries = DictionariesStage(role.label, role, statistics, matched)
        readings = ReadingsStage(role.label, role, statistics, dictionaries, role)
        shared = readings
        if role.null is not None and role.null.targets == "tokens":
            label = f"{role.label}, on the study's own held-out tokens"
            shared = ReadingsStage(label, role, statistics, dictionaries, study)
        return cls(
            role, statistics, dictionaries, readings, shared, SpliceStage(role.label, role, statistics, dictionaries)
        )

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        """In the order in which they are run."""
        return (self.statistics, self.dictionaries, self.readings, self.shared, self.splice)


@dataclass(frozen=True)
class Outline:
    """What the findings of a study may rest on.

    Attributes:
        config: of the study.
        real: the study itself.
        controls: by name.
    """

    config: StudyConfig
    real: Measures
    controls: Mapping[str, Measures]


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
