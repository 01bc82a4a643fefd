"""Latents that read random directions: what chance gives in matches between dictionaries of one site."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.batch import Latents
from polyseme.core.errors import InputError
from polyseme.core.seeds import make_generator
from polyseme.dictionaries import LatentEncoder


class RandomLatents:
    """f(x) = relu((x − mean) · w − θ), one w and θ a latent.

    Args:
        directions: w of each latent.
        mean: of the vectors.
        thresholds: θ of each latent.
    """

    def __init__(
        self,
        directions: Float[Tensor, "latent d"],
        mean: Float[Tensor, " d"],
        thresholds: Float[Tensor, " latent"],
    ):
        self._directions, self._bounds = directions, thresholds + directions @ mean

    @property
    def d_in(self) -> int:
        """Size of a vector."""
        return self._directions.shape[1]

    @property
    def n_latents(self) -> int:
        """How many there are."""
        return len(self._directions)

    def encode(self, x: Float[Tensor, "*leading d_in"]) -> Latents:
        """Those that fire, on the device of `x`."""
        directions, bounds = self._directions.to(x), self._bounds.to(x)
        return Latents.from_dense((x @ directions.T - bounds).relu())


def random_latents(
    vectors: Float[Tensor, "sample d"], densities: Float[np.ndarray, " latent"], seed: int
) -> LatentEncoder:
    """Latents that read directions w ~ N(0, Cov) of the vectors, each of which fires as often as is asked for.

    Args:
        vectors: a sample of the site's vectors, whose mean and covariance they have. On it a latent fires at
            round(density × sample) of them, at one of them at least and not at all of them.
        densities: on which share of the vectors each fires.
        seed: of the directions.

    Raises:
        InputError: there are fewer than two vectors.
    """
    n = len(vectors)
    if n < 2:
        raise InputError("random latents need two vectors or more", where=f"{n} vectors", fix="read more tokens")
    vectors = vectors.detach().float()
    mean = vectors.mean(0)
    centred = vectors - mean
    factor = torch.linalg.qr(centred, mode="r").R / n**0.5
    generator = make_generator(seed, "random latents")
    drawn = torch.randn(len(densities), len(factor), generator=generator, dtype=torch.float32)
    directions = drawn.to(factor) @ factor
    directions = torch.nn.functional.normalize(directions, dim=1)
    fires = torch.from_numpy(np.clip(np.rint(np.asarray(densities) * n), 1, n - 1).astype(np.int64)).to(mean.device)
    thresholds = torch.empty(len(densities), dtype=torch.float32, device=mean.device)
    for at in range(0, len(densities), 256):
        some = slice(at, at + 256)
        ordered = (centred @ directions[some].T).sort(dim=0, descending=True).values
        last = fires[some][None]
        thresholds[some] = (ordered.gather(0, last - 1) + ordered.gather(0, last))[0] / 2
    return RandomLatents(directions, mean, thresholds)
