"""Null: a random direction of the site's covariance in the place of a latent's."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.nulls.latents import LatentNull
from polyseme.nulls.protocol import Written


class Covariance(LatentNull):
    """A direction for each latent, the same at all its tokens, drawn from the Gaussian with the covariance of the
    site's vectors, and rescaled."""

    kept: ClassVar[str] = "the tokens, the size of what is removed, and how the site's vectors are spread"
    lost: ClassVar[str] = "the latent's direction"
    phrase: ClassVar[str] = "a random direction of the site's covariance and of equal norm"
    needs_vectors: ClassVar[bool] = True
    version: ClassVar[int] = 2

    kind: Literal["covariance"] = "covariance"

    def draw(self, latent: Int[np.ndarray, " latent"], written: Written, draw: int) -> Float[Tensor, "latent d"]:
        factor = written.factor
        return wide(torch.from_numpy(self.normal(latent, len(factor), draw))) @ factor
