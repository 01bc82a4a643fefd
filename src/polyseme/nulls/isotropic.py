"""Null: a random direction in the place of a latent's."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.nulls.latents import LatentNull
from polyseme.nulls.protocol import Written


class Isotropic(LatentNull):
    """A uniformly random direction for each latent, the same at all its tokens."""

    kept: ClassVar[str] = "the tokens and the size of what is removed"
    lost: ClassVar[str] = "the latent's direction, and every direction that the site's vectors prefer"
    phrase: ClassVar[str] = "a random direction of equal norm"
    version: ClassVar[int] = 2

    kind: Literal["isotropic"] = "isotropic"

    def draw(self, latent: Int[np.ndarray, " latent"], written: Written, draw: int) -> Float[Tensor, "latent d"]:
        return torch.from_numpy(self.normal(latent, written.directions.shape[1], draw))
