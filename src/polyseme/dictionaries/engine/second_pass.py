"""The second pass of an activation that has one (`LooksTwice`)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.dictionaries.engine.activation import Activation, LooksTwice
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.workspace import scratch


def looking_again(
    encoder: Encoder, activation: Activation, W_dec: Float[Tensor, "n_latents d_out"], *, training: bool
) -> Encoder:
    """The encoder of x + η (x − f¹ W_dec), f¹ the first code of x; of x itself where there is no second pass.

    What is read depends on the vector alone, as the selections of inference do; but its last bits are those of
    `bag_sum`, which adds in another order in C than in torch.

    Args:
        encoder: of x, normalised and less the bias.
        activation: whose η and first code they are.
        W_dec: of the decoder.
        training: selection as in training; the vectors hold until the next call.
    """
    if not isinstance(activation, LooksTwice) or not activation.eta:
        return encoder
    entries, eta = activation.first(encoder, training=training), activation.eta
    encoder.clear_cache()
    again = torch.empty_like(encoder.x) if not training else scratch("again", encoder.x, encoder.x.dtype)
    for rows in encoder.tuning.tiles_of(encoder.x, 8):
        some, at = entries.rows(rows)
        torch.mul(encoder.x[rows], 1 + eta, out=again[rows])
        again[rows] -= some.decode(entries.pre[at] * eta, W_dec)
    return replace(encoder, x=again)
