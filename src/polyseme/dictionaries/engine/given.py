"""What users give a dictionary to encode or decode, looked at first."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.batch import Latents
from polyseme.core.errors import InputError
from polyseme.kernels.loops import check_offsets, check_places


def vectors_given(x: object, d_in: int) -> Tensor:
    """What is to be encoded, as a tensor.

    Raises:
        InputError: it is neither a tensor nor an array.
    """
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x.copy())
    if not isinstance(x, Tensor):
        fix = "give the tensor of one site's vectors"
        raise InputError(f"expected vectors [..., {d_in}], got a {type(x).__name__}", where="encode", fix=fix)
    return x


def check_finite(u: Float[Tensor, "batch d_in"]) -> None:
    """Refuse vectors of which no latent is active or inactive.

    Raises:
        InputError: one of them is not finite; it is named.
    """
    # A sum is finite only where all its terms are; finite terms whose sum overflows are looked at one by one.
    if bool(torch.isfinite(u.sum())):
        return
    bad = (~torch.isfinite(u)).any(dim=1).nonzero().view(-1)
    if len(bad):
        which = f"{len(bad)} of {len(u)} vectors, row {int(bad[0])} the first"
        raise InputError(
            f"{which}, hold NaN, infinities or numbers too large",
            where="encode",
            fix="leave those vectors out, x[x.isfinite().all(-1)], or read the network in float32",
        )


def latents_given(z: Latents | Float[Tensor, "*leading n_latents"], n_latents: int) -> Latents:
    """What is to be decoded, as entries.

    Raises:
        InputError: the latents are another dictionary's, or no latents.
    """
    z = Latents.from_dense(z) if isinstance(z, Tensor) else z
    if z.n_latents != n_latents:
        raise InputError(
            f"latents of a dictionary with {z.n_latents}, given to one with {n_latents}",
            where="decode",
            fix="decode latents with the dictionary that encoded them",
        )
    if z.values.shape != z.indices.shape or z.values.dim() != 1 or z.offsets.dim() != 1:
        raise InputError(
            f"{list(z.values.shape)} values for {list(z.indices.shape)} indices",
            where="decode",
            fix="give each entry a value and a latent",
        )
    check_places("decode, latents", z.indices, n_latents)
    check_offsets("decode, offsets", z.offsets, len(z.indices))
    return z
