"""A dictionary for raw activations: normalisation and the norms of decoder rows are multiplied into its weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.dictionaries.engine.activation import Activation


def fold(
    own: Mapping[str, Tensor],
    encoder_name: str,
    *,
    is_transcoder: bool,
    into: Mapping[str, Tensor],
    activation: Activation,
) -> None:
    """Fill a folded dictionary.

    With gain_j = s_y‖W_dec_j‖: W_enc′_j = gain_j W_enc_j / s_x, b_enc′ = gain b_enc (a transcoder: less
    gain W_enc c_x / s_x), b_dec′ = s_y b_dec + c_y, thresholds × gain; computed in float64.

    Args:
        own: every tensor of the dictionary that is folded.
        encoder_name: of the encoder's weights: the decoder's, when tied.
        is_transcoder: its bias is not taken off what it reads.
        into: parameters and buffers to fill.
        activation: whose parameters and buffers are among them.
    """
    for name in (*activation.parameters, *activation.buffers):
        into[name].copy_(own[name])
    norms = wide(activation.decoder_norms(own["W_dec"]))
    own = {name: wide(tensor) for name, tensor in own.items()}
    gain = norms * own["scale_out"]
    W_enc = own[encoder_name]
    shift = torch.zeros_like(own["b_enc"])
    if is_transcoder:
        shift -= W_enc @ (own["centre_in"] / own["scale_in"])
    activation.fold(gain, shift)
    into["W_dec"].copy_(own["W_dec"] / norms[:, None])
    if encoder_name == "W_enc":
        into["W_enc"].copy_(W_enc * (gain / own["scale_in"])[:, None])
    into["b_enc"].copy_((own["b_enc"] + shift) * gain)
    into["b_dec"].copy_(own["b_dec"] * own["scale_out"] + own["centre_out"])
