"""Null: a random direction of the site's covariance in the place of a latent's."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.nulls.latents import LatentNull
from polyseme.nulls.protocol import Written


class Covariance(LatentNull):
    """A direction drawn for each token from the Gaussian with the covariance of the site's vectors, and rescaled."""

    kept: ClassVar[str] = "the tokens, the size of what is removed, and how the site's vectors are spread"
    lost: ClassVar[str] = "the latent's direction"
    phrase: ClassVar[str] = "a random direction of the site's covariance and of equal norm"
    needs_vectors: ClassVar[bool] = True

    kind: Literal["covariance"] = "covariance"

    def draw(
        self, latent: Int[np.ndarray, " sample"], written: Written, rng: np.random.Generator
    ) -> Float[Tensor, "sample d"]:
        factor = written.factor
        return torch.from_numpy(rng.standard_normal((len(latent), len(factor)), dtype=np.float32)) @ factor
