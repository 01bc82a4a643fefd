"""Control: the tokens of each document in random order."""

from typing import ClassVar, Literal

from polyseme.core.config import Config
from polyseme.studies.config import StudyConfig, TransformConfig


class ShuffledTokens(Config):
    """The tokens of each document in random order."""

    targets: ClassVar[Literal["data"]] = "data"
    preserves: ClassVar[str] = "each document's own tokens and their counts; the network"
    destroys: ClassVar[str] = "the order of tokens, and so every context"

    kind: Literal["shuffled_tokens"] = "shuffled_tokens"
    seed: int = 0

    @property
    def name(self) -> str:
        return self.kind

    def apply(self, study: StudyConfig) -> StudyConfig:
        transform = TransformConfig(kind="shuffle_within_document", seed=self.seed)
        return study.model_copy(update={"tokens": study.tokens.model_copy(update={"transform": transform})})
