"""AuxK: dead latents are trained on what the live ones leave over (Gao et al. 2024, Scaling and evaluating sparse
autoencoders, section 2.4 and appendix A.2)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.dictionaries.activation import Step
from polyseme.dictionaries.kernels import affine, tiles, top_k
from polyseme.dictionaries.selection import Encoder


def auxk(
    encoder: Encoder,
    residual: Float[Tensor, "batch d_out"],
    step: Step,
    dead: Bool[Tensor, " n_latents"],
    k: int,
    weight: float,
    encoder_name: str,
    d_bias: Float[Tensor, " n_latents"],
) -> Float[Tensor, ""] | float:
    """The loss coefficient × mean_b ‖e − ê‖² / d_out, with its gradients added to `step.grads` and `d_bias`.

    e = v − v̂ is held fixed; ê = Σ z_j W_dec_j over the k largest positive pre-activations z of the dead latents, no
    bias. Dense over the dead latents, whose number is what it costs.

    Args:
        encoder: of the step.
        residual: v̂ − v.
        step: decoder and gradients.
        dead: which latents count as dead.
        k: how many of them a vector gets.
        weight: of one vector's squared error in the loss, coefficient / (batch × d_out).
        encoder_name: the gradient buffer of the encoder (the decoder's, when tied).
        d_bias: sum over the batch of the gradients in the pre-activations, added to.
    """
    latents = dead.nonzero().view(-1)
    k = min(k, len(latents))
    if k == 0:
        return 0.0
    W_enc, W_dec, b_enc = encoder.weight[latents], step.W_dec[latents], encoder.bias[latents]
    d_enc, d_dec, d_pre_sum = torch.zeros_like(W_enc), torch.zeros_like(W_dec), torch.zeros_like(b_enc)
    loss = residual.new_zeros(())
    for rows in tiles(len(residual), 4 * len(latents) * residual.element_size()):  # four such tensors at a time
        u = encoder.x[rows]
        pre = affine(u, W_enc, b_enc, out=u.new_empty(len(u), len(latents)))
        z = pre.clamp(min=0)
        if k < len(latents):
            values, columns = top_k(z, k)
            z = torch.zeros_like(z).scatter_(1, columns, values)
        error = (z @ W_dec).add_(residual[rows])  # ê − e
        loss += torch.dot(error.view(-1), error.view(-1)) * weight
        error.mul_(2 * weight)
        d_pre = (error @ W_dec.t()).mul_(z > 0)
        d_enc.addmm_(d_pre.t(), u)
        d_dec.addmm_(z.t(), error)
        d_pre_sum += d_pre.sum(0)
    step.grads.add_at(encoder_name, latents, d_enc)
    step.grads.add_at("W_dec", latents, d_dec)
    step.grads.add_at("b_enc", latents, d_pre_sum)
    d_bias.index_add_(0, latents, d_pre_sum)
    return loss
