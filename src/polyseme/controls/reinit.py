"""What the controls on weights share: the study's network with its weights made random in one way or another."""

from typing import ClassVar, Literal

from polyseme.controls.target import Target, kind_of, with_seed
from polyseme.core.config import Config, Seed
from polyseme.networks import ReinitConfig
from polyseme.studies.config import StudyConfig

Reinit = Literal["gaussian", "spectrum", "permuted"]


class WeightControl(Config):
    """The same study on the network re-initialised; a kind of it says how, what that keeps and what it destroys."""

    targets: ClassVar[Target] = "weights"
    kept: ClassVar[str]
    lost: ClassVar[str]
    reinit: ClassVar[Reinit]

    keep_embeddings: bool = False
    """Keep the input embeddings: a null that still knows which token it reads."""
    seed: Seed = 0

    @property
    def preserves(self) -> str:
        if not self.keep_embeddings:
            return self.kept
        return f"{self.kept}; the input embeddings as they are, and an unembedding that is tied to them"

    @property
    def destroys(self) -> str:
        return f"{self.lost}, except in the input embeddings" if self.keep_embeddings else self.lost

    @property
    def name(self) -> str:
        kind = kind_of(self)
        return with_seed(f"{kind}_keep_embeddings" if self.keep_embeddings else kind, self.seed)

    def apply(self, study: StudyConfig) -> StudyConfig:
        reinit = ReinitConfig(kind=self.reinit, keep_embeddings=self.keep_embeddings, seed=self.seed)
        return study.model_copy(update={"network": study.network.model_copy(update={"reinit": reinit})})
