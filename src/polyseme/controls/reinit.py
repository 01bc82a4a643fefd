"""What the weight controls share: the study's network with its weights replaced."""

from typing import Literal

from polyseme.networks import ReinitConfig
from polyseme.studies.config import StudyConfig


def reinit_name(kind: str, keep_embeddings: bool) -> str:
    return f"{kind}_keep_embeddings" if keep_embeddings else kind


def reinitialised(
    study: StudyConfig, kind: Literal["gaussian", "spectrum", "permuted"], *, keep_embeddings: bool, seed: int
) -> StudyConfig:
    """The same study on the network re-initialised."""
    reinit = ReinitConfig(kind=kind, keep_embeddings=keep_embeddings, seed=seed)
    return study.model_copy(update={"network": study.network.model_copy(update={"reinit": reinit})})
