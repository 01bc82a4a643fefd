"""Null: the direction of another latent that is alike in density and size in the place of a latent's."""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int

from polyseme.nulls.latents import OfOthers
from polyseme.nulls.protocol import Written

ALIKE = 16
"""How many latents are alike to one, at most."""


class AlikeLatent(OfOthers):
    """The write direction of one of the 16 other latents that are nearest in log density and in the log of the mean
    norm of what they write where they fire, each in its standard deviations; the same at all tokens, and rescaled."""

    kept: ClassVar[str] = (
        "the tokens, the size of what is removed, and that a latent of the same dictionary writes it that fires about "
        "as often and writes about as much"
    )
    lost: ClassVar[str] = "which of them it is"
    phrase: ClassVar[str] = "the direction of another latent alike in density and size, of equal norm"

    kind: Literal["alike_latent"] = "alike_latent"

    def n_draws(self, written: Written) -> int:
        return max(0, min(ALIKE, len(written.alive) - 1))

    def others(
        self, latent: Int[np.ndarray, " latent"], place: Int[np.ndarray, " latent"], written: Written
    ) -> Int[np.ndarray, " latent"]:
        from scipy.spatial import KDTree

        alive = written.alive
        points = np.log(np.stack([written.density[alive], written.size[alive]], axis=1))
        points /= np.maximum(points.std(axis=0), 1e-9)
        own = np.searchsorted(alive, latent)
        _, near = KDTree(points).query(points[own], k=self.n_draws(written) + 1)
        near = alive[near]
        # Its own place is the first, but for others that agree with it in both: they come in any order.
        is_own = near == np.asarray(latent)[:, None]
        is_own[~is_own.any(axis=1), -1] = True
        return near[~is_own].reshape(len(near), -1)[np.arange(len(near)), place]
