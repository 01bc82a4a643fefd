"""Control: every weight matrix W = USVᵀ turned into QSRᵀ with Haar-random Q and R."""

from typing import ClassVar, Literal

from polyseme.controls.reinit import reinitialised, reinit_name
from polyseme.core.config import Config
from polyseme.studies.config import StudyConfig


class SpectrumReinit(Config):
    """Every weight matrix W = USVᵀ turned into QSRᵀ with Haar-random Q and R."""

    targets: ClassVar[Literal["weights"]] = "weights"
    preserves: ClassVar[str] = "each weight matrix's singular values; biases and norms"
    destroys: ClassVar[str] = "singular directions, and so everything that depends on how layers fit each other"

    kind: Literal["spectrum_reinit"] = "spectrum_reinit"
    keep_embeddings: bool = False
    """Keep the input embeddings: a null that still knows which token it reads."""
    seed: int = 0

    @property
    def name(self) -> str:
        return reinit_name(self.kind, self.keep_embeddings)

    def apply(self, study: StudyConfig) -> StudyConfig:
        return reinitialised(study, "spectrum", keep_embeddings=self.keep_embeddings, seed=self.seed)
