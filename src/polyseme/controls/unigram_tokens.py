"""Control: tokens drawn at random from the corpus's own frequencies."""

from typing import ClassVar, Literal

from polyseme.core.config import Config
from polyseme.studies.config import StudyConfig, TransformConfig


class UnigramTokens(Config):
    """Tokens drawn at random from the corpus's own frequencies."""

    targets: ClassVar[Literal["data"]] = "data"
    preserves: ClassVar[str] = "the corpus's token frequencies and document lengths; the network"
    destroys: ClassVar[str] = "which tokens come together, in documents and in contexts"

    kind: Literal["unigram_tokens"] = "unigram_tokens"
    seed: int = 0

    @property
    def name(self) -> str:
        return self.kind

    def apply(self, study: StudyConfig) -> StudyConfig:
        transform = TransformConfig(kind="unigram", seed=self.seed)
        return study.model_copy(update={"tokens": study.tokens.model_copy(update={"transform": transform})})
