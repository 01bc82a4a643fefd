"""Null: another latent's direction in the place of a latent's."""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int

from polyseme.nulls.latents import OfOthers
from polyseme.nulls.protocol import Written


class OtherLatent(OfOthers):
    """The write direction of another latent that fires, each with equal chance, the same at all tokens; rescaled."""

    kept: ClassVar[str] = "the tokens, the size of what is removed, and that a latent of the same dictionary writes it"
    lost: ClassVar[str] = "which latent it is"
    phrase: ClassVar[str] = "another latent's direction of equal norm"
    version: ClassVar[int] = 2

    kind: Literal["other_latent"] = "other_latent"

    def n_draws(self, written: Written) -> int:
        return max(0, len(written.alive) - 1)

    def others(
        self, latent: Int[np.ndarray, " latent"], place: Int[np.ndarray, " latent"], written: Written
    ) -> Int[np.ndarray, " latent"]:
        # Of the others: the places after its own move down by one.
        return written.alive[place + (place >= np.searchsorted(written.alive, latent))]
