"""What the controls on tokens share: the study on tokens from which something was destroyed."""

from typing import ClassVar, Literal

from polyseme.controls.target import Target, kind_of, with_seed
from polyseme.core.config import Config, Seed
from polyseme.studies.config import StudyConfig, TransformConfig

Transform = Literal["shuffle_within_document", "unigram", "uniform"]


class TokenControl(Config):
    """The same study on transformed tokens; a kind of it says how, what that keeps and what it destroys."""

    targets: ClassVar[Target] = "data"
    kept: ClassVar[str]
    lost: ClassVar[str]
    transform: ClassVar[Transform]

    seed: Seed = 0

    @property
    def preserves(self) -> str:
        return self.kept

    @property
    def destroys(self) -> str:
        return self.lost

    @property
    def name(self) -> str:
        return with_seed(kind_of(self), self.seed)

    def apply(self, study: StudyConfig) -> StudyConfig:
        transform = TransformConfig(kind=self.transform, seed=self.seed)
        return study.model_copy(update={"tokens": study.tokens.model_copy(update={"transform": transform})})
