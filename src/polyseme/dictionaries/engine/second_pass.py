"""The second pass of an activation that has one (`LooksTwice`)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.dictionaries.engine.activation import Activation, LooksTwice
from polyseme.dictionaries.engine.entries import SparseEntries
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.workspace import scratch

_ROOM = 2**27
"""Bytes that the decoder in float64 may take."""


def looking_again(
    encoder: Encoder, activation: Activation, W_dec: Float[Tensor, "n_latents d_out"], *, training: bool
) -> Encoder:
    """The encoder of x + η (x − f¹ W_dec), f¹ the first code of x; of x itself where there is no second pass.

    Args:
        encoder: of x, normalised and less the bias.
        activation: whose η and first code they are.
        W_dec: of the decoder.
        training: selection as in training; the vectors hold until the next call.
    """
    if not isinstance(activation, LooksTwice) or not activation.eta:
        return encoder
    entries, x, eta = activation.first(encoder, training=training), encoder.x, activation.eta
    encoder.clear_cache()
    if not training:
        return replace(encoder, x=_exact(x, entries, W_dec, eta, encoder.tuning.tile_bytes))
    again = torch.mul(x, 1 + eta, out=scratch("again", x, x.dtype))
    for rows in encoder.tuning.tiles_of(x, 8):
        some, at = entries.rows(rows)
        again[rows] -= some.decode(entries.pre[at] * eta, W_dec)
    return replace(encoder, x=again)


def _exact(
    x: Float[Tensor, "batch d"], entries: SparseEntries, W_dec: Float[Tensor, "n_latents d"], eta: float, n_bytes: int
) -> Float[Tensor, "batch d"]:
    """What is read at inference, whose bits depend on a row alone: a sum in float64 over the entries in ascending
    order, in which the products of float32 are exact, rounded once."""
    again, d = torch.empty_like(x), x.shape[1]
    # In float64 all rows of the decoder at once, if there is room; else the entries' own, some at a time.
    whole = wide(W_dec) if len(W_dec) <= min(len(entries.indices), _ROOM // (8 * d)) else None
    for rows, some in entries.pieces(max(1, n_bytes // (16 * d))):
        places, vectors = some.indices.long(), whole
        if vectors is None:
            places, vectors = torch.arange(len(places), device=x.device), wide(W_dec[places])
        decoded = torch.nn.functional.embedding_bag(
            places,
            vectors,
            some.offsets.long(),
            mode="sum",
            per_sample_weights=wide(some.pre),
            include_last_offset=True,
        )
        again[rows] = (wide(x[rows]) * (1 + eta) - decoded * eta).to(x.dtype)
    return again
