"""How L0 is held: by what a latent's pre-activation must exceed for it to be active."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.dictionaries.engine.activation import Activation, HasThresholds


def move(
    share: float,
    activation: Activation,
    parameters: Mapping[str, Tensor],
    *,
    fired: Int[Tensor, " n_latents"],
    l0: Float[Tensor, ""],
) -> None:
    """Raise the thresholds of the latents that were active in a step by a share, or lower those of all latents.

    A threshold θ becomes θ exp(share). Where latents are active above 0, b_enc falls by share × ½ √(d_out / L0) /
    ‖W_dec_j‖: L0 latents that write a vector of mean squared norm d_out write about √(d_out / L0) each, and an L1
    penalty shrinks them.

    Silent latents take no part in a rise. L0 does not need it, and they would fall farther behind at each step in
    which the others' gradients pull the other way; taking part in a fall is what brings them back.

    Args:
        share: below 0: lower.
        activation, parameters: of the dictionary, changed in place.
        fired: on how many vectors of the step each latent was active.
        l0: mean active latents per vector in that step.
    """
    b_enc = parameters["b_enc"]
    shares = (fired > 0).to(b_enc.dtype) * share if share > 0 else torch.full_like(b_enc, share)
    if isinstance(activation, HasThresholds):
        activation.raise_thresholds(shares)
    else:
        W_dec = parameters["W_dec"]
        size = (W_dec.shape[1] / wide(l0).clamp(min=1e-3)).sqrt().to(b_enc.dtype) / 2
        b_enc.sub_(shares * size / activation.decoder_norms(W_dec))
