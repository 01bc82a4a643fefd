"""The latents most like a given one: by the direction they write, and by where they fire."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations.firings import Firings
from polyseme.interpret.records import Neighbour


@torch.no_grad()
def nearest_by_writing(
    write: Float[Tensor, "n_latents d_out"], latents: Sequence[int], *, n: int = 4, chunk: int = 512
) -> dict[int, tuple[Neighbour, ...]]:
    """For each of `latents` the `n` others with the highest cosine between write directions.

    Args:
        write: every latent's write direction; a zero direction is nobody's neighbour.
        latents: those asked about; one with a zero direction has none.
        n: how many neighbours.
        chunk: latents a block; memory is `chunk * n_latents` floats.
    """
    silent = write.norm(dim=1) == 0
    unit = torch.nn.functional.normalize(write.float(), dim=1)
    n = min(n, len(write) - 1)
    out: dict[int, tuple[Neighbour, ...]] = {}
    for block in torch.tensor(list(latents), dtype=torch.int64).split(chunk):
        cosines = unit[block] @ unit.T
        cosines[torch.arange(len(block)), block] = -torch.inf
        cosines[:, silent] = -torch.inf
        cosines[silent[block]] = -torch.inf
        values, indices = cosines.topk(n, dim=1)
        for latent, v, i in zip(block.tolist(), values.tolist(), indices.tolist(), strict=True):
            out[latent] = tuple(
                Neighbour(dictionary="same", latent=j, value=c, measure="write cosine")
                for c, j in zip(v, i, strict=True)
                if math.isfinite(c)
            )
    return out


def nearest_by_firing(firings: Firings, latents: Sequence[int], *, n: int = 4) -> dict[int, tuple[Neighbour, ...]]:
    """For each of `latents` the `n` others that fire most at the same tokens: |A ∩ B| / |A ∪ B|.

    Streamed latent by latent over the sparse firings: time and memory go with the firings of the latents asked
    about, and no latent-by-latent matrix exists.
    """
    out: dict[int, tuple[Neighbour, ...]] = {}
    for latent in latents:
        rows, _ = firings.of(latent)
        together = np.bincount(np.asarray(firings.matrix[rows].indices, dtype=np.int64), minlength=firings.n_latents)
        together[latent] = 0
        share = together / np.maximum(firings.counts + len(rows) - together, 1)
        best = np.argsort(-share, kind="stable")[:n]
        out[int(latent)] = tuple(
            Neighbour(dictionary="same", latent=int(j), value=float(share[j]), measure="co-firing")
            for j in best
            if share[j] > 0
        )
    return out
