"""What every control is: a study turned into the same study on a null."""

from typing import ClassVar, Protocol, runtime_checkable

from polyseme.controls.target import Target
from polyseme.studies.config import StudyConfig


@runtime_checkable
class Control(Protocol):
    """Config to config: a control is an ordinary study, run by the same code as the study it is a null of."""

    targets: ClassVar[Target]
    """What the null replaces."""

    @property
    def preserves(self) -> str:
        """What the null shares with the real study; a result it explains is not the network's doing."""
        ...

    @property
    def destroys(self) -> str:
        """What the null lacks; only this can explain a gap."""
        ...

    @property
    def kind(self) -> str:
        """Its name in the table of controls."""
        ...

    @property
    def seed(self) -> int: ...

    @property
    def name(self) -> str:
        """A short name, unique within a study: `gaussian_reinit`."""
        ...

    def apply(self, study: StudyConfig) -> StudyConfig:
        """The study on the null: same sites, dictionary, widths, L0, tokens and training."""
        ...
