"""Null: a random direction in the place of a latent's."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.nulls.latents import LatentNull
from polyseme.nulls.protocol import Written


class Isotropic(LatentNull):
    """A uniformly random direction, drawn for each token."""

    kept: ClassVar[str] = "the tokens and the size of what is removed"
    lost: ClassVar[str] = "the latent's direction, and every direction that the site's vectors prefer"
    phrase: ClassVar[str] = "a random direction of equal norm"

    kind: Literal["isotropic"] = "isotropic"

    def draw(
        self, latent: Int[np.ndarray, " sample"], written: Written, rng: np.random.Generator
    ) -> Float[Tensor, "sample d"]:
        shape = (len(latent), written.directions.shape[1])
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
