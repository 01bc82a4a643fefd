"""Control: every weight tensor's entries permuted at random."""

from typing import ClassVar, Literal

from polyseme.controls.reinit import reinitialised, reinit_name
from polyseme.core.config import Config
from polyseme.studies.config import StudyConfig


class PermutedWeights(Config):
    """Every weight tensor's entries permuted at random."""

    targets: ClassVar[Literal["weights"]] = "weights"
    preserves: ClassVar[str] = "each weight tensor's exact histogram of entries; biases and norms"
    destroys: ClassVar[str] = "where each entry stands, and so spectra and directions"

    kind: Literal["permuted_weights"] = "permuted_weights"
    keep_embeddings: bool = False
    """Keep the input embeddings: a null that still knows which token it reads."""
    seed: int = 0

    @property
    def name(self) -> str:
        return reinit_name(self.kind, self.keep_embeddings)

    def apply(self, study: StudyConfig) -> StudyConfig:
        return reinitialised(study, "permuted", keep_embeddings=self.keep_embeddings, seed=self.seed)
