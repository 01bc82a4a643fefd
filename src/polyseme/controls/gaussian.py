"""Control: every weight tensor drawn anew from a Gaussian of its own mean and standard deviation."""

from typing import ClassVar, Literal

from polyseme.controls.reinit import reinitialised, reinit_name
from polyseme.core.config import Config
from polyseme.studies.config import StudyConfig


class GaussianReinit(Config):
    """Every weight tensor drawn anew from a Gaussian of its own mean and standard deviation."""

    targets: ClassVar[Literal["weights"]] = "weights"
    preserves: ClassVar[str] = "each weight tensor's shape, mean and standard deviation; biases and norms"
    destroys: ClassVar[str] = "spectra, directions and everything that was learned"

    kind: Literal["gaussian_reinit"] = "gaussian_reinit"
    keep_embeddings: bool = False
    """Keep the input embeddings: a null that still knows which token it reads."""
    seed: int = 0

    @property
    def name(self) -> str:
        return reinit_name(self.kind, self.keep_embeddings)

    def apply(self, study: StudyConfig) -> StudyConfig:
        return reinitialised(study, "gaussian", keep_embeddings=self.keep_embeddings, seed=self.seed)
