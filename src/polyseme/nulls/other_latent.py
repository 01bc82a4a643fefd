"""Null: another latent's direction in the place of a latent's."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.nulls.latents import LatentNull
from polyseme.nulls.protocol import Written


class OtherLatent(LatentNull):
    """The write direction of another latent that fires, drawn for each token with equal chance, and rescaled."""

    kept: ClassVar[str] = "the tokens, the size of what is removed, and that a latent of the same dictionary writes it"
    lost: ClassVar[str] = "which latent it is"
    phrase: ClassVar[str] = "another latent's direction of equal norm"

    kind: Literal["other_latent"] = "other_latent"

    def draw(
        self, latent: Int[np.ndarray, " sample"], written: Written, rng: np.random.Generator
    ) -> Float[Tensor, "sample d"]:
        alive = written.alive
        if len(alive) < 2:
            raise InputError(
                "the dictionary has no two latents that fire, so none has another's direction as its null",
                where="causal.null",
                fix="set it to isotropic, or train the dictionary longer",
            )
        # Of the others: the places after its own move down by one.
        place = rng.integers(0, len(alive) - 1, len(latent))
        place += place >= np.searchsorted(alive, latent)
        return written.directions[torch.from_numpy(alive[place].astype(np.int64))]
