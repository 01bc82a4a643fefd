"""Nulls of the latents: another direction in a latent's place, at the same tokens and of the same size."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.seeds import derive_seed
from polyseme.nulls.protocol import Null, Target, Written


class LatentNull(Null):
    """A direction that a latent's effect is compared with; a kind of it says where that comes from."""

    targets: ClassVar[Target] = "latents"
    phrase: ClassVar[str]
    """What is removed in the place of a latent, for sentences: `a random direction of equal norm`."""
    needs_vectors: ClassVar[bool] = False
    """Whether it draws from the vectors of the sites that the dictionary writes."""

    @abstractmethod
    def draw(
        self, latent: Int[np.ndarray, " sample"], written: Written, rng: np.random.Generator
    ) -> Float[Tensor, "sample d"]:
        """A direction for each sample, of any norm but 0."""

    def latents(
        self,
        removed: Float[Tensor, "sample d"],
        latent: Int[np.ndarray, " sample"],
        written: Written,
        *draw: str | int,
    ) -> Float[Tensor, "sample d"]:
        drawn = self.draw(latent, written, np.random.default_rng(derive_seed(self.seed, "null", *draw)))
        return drawn * (removed.norm(dim=1) / drawn.norm(dim=1))[:, None]
