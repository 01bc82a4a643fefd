"""What the second of two encodings reads: the vector and a share of what the first left over."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.dictionaries.engine.activation import LooksTwice
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.workspace import scratch


def look_again(
    encoder: Encoder, activation: LooksTwice, W_dec: Float[Tensor, "n_latents d"], *, training: bool
) -> Encoder:
    """The encoder of x + η (x − f¹ W_dec), where `encoder` is that of x, and f¹ what the activation first makes of it.

    In training f¹ W_dec is computed as fast as possible. Otherwise its bits depend on a row alone: a sum in float64
    over the entries in ascending order, in which the products of float32 are exact, rounded once.
    """
    entries, x, eta = activation.first(encoder, training=training), encoder.x, activation.eta
    encoder.clear_cache()
    if training:
        again = torch.mul(x, 1 + eta, out=scratch("again", x, x.dtype))
        for rows in encoder.tuning.tiles_of(x, 8):
            some, at = entries.rows(rows)
            again[rows] -= some.decode(entries.pre[at] * eta, W_dec)
        return replace(encoder, x=again)
    again = torch.empty_like(x)
    for rows, some in entries.pieces(max(1, encoder.tuning.tile_bytes // (16 * x.shape[1]))):
        decoded = torch.nn.functional.embedding_bag(
            torch.arange(len(some.indices), device=x.device),
            wide(W_dec[some.indices]),
            some.offsets.long(),
            mode="sum",
            per_sample_weights=wide(some.pre),
            include_last_offset=True,
        )
        again[rows] = (wide(x[rows]) * (1 + eta) - decoded * eta).to(x.dtype)
    return replace(encoder, x=again)
