"""AuxK: dead latents are trained on what the live ones leave over (Gao et al. 2024, Scaling and evaluating sparse
autoencoders, section 2.4 and appendix A.2)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.dictionaries.engine.activation import Step
from polyseme.dictionaries.engine.entries import Codes, DenseTile, GradientsAt, SparseEntries
from polyseme.dictionaries.engine.selection import Encoder, select_top_k
from polyseme.kernels.tiles import sum_of_squares, top_k, where_positive


def auxk(
    encoder: Encoder,
    residual: Float[Tensor, "batch d_out"],
    step: Step,
    dead: Bool[Tensor, " n_latents"],
    k: int,
    weight: float,
) -> Float[Tensor, ""] | float:
    """The loss coefficient × mean_b ‖e − ê‖² / d_out, with its gradients added to `step`.

    e = v − v̂ is held fixed; ê = Σ z_j W_dec_j over the k largest positive pre-activations z of the dead latents, no
    bias.

    Args:
        encoder: of the step.
        residual: v̂ − v.
        step: decoder and gradients.
        dead: which latents count as dead.
        k: how many of them a vector gets.
        weight: of one vector's squared error in the loss, coefficient / (batch × d_out).
    """
    latents = dead.nonzero().view(-1)
    k = min(k, len(latents))
    if k == 0:
        return 0.0
    # What is filled up is any one of them, but never positive.
    more = _width(len(latents), max(encoder.tuning.block[1], encoder.n_latents // 16)) - len(latents)
    names = torch.cat([latents, latents[:1].expand(more)])
    least = encoder.bias.new_full((more,), -torch.finfo(encoder.bias.dtype).max / 4)
    own = replace(encoder, bias=torch.cat([encoder.bias[latents], least]), latents=names)
    d_pre_sum, grads = torch.zeros_like(own.bias), step.grads.at(latents)
    loss = residual.new_zeros(())
    for rows, codes in _codes(own, k):
        more_loss, d_pre = _learn(codes, own, rows, residual[rows], step, weight, grads)
        loss += more_loss
        d_pre_sum += d_pre
        del codes, d_pre  # before the next are looked for
    grads.add("b_enc", d_pre_sum)
    step.d_bias.index_add_(0, latents, d_pre_sum[: len(latents)])
    return loss


def _learn(
    codes: Codes,
    encoder: Encoder,
    rows: slice,
    residual: Float[Tensor, "rows d_out"],
    step: Step,
    weight: float,
    grads: GradientsAt,
) -> tuple[Float[Tensor, ""], Float[Tensor, " n_dead"]]:
    """The loss of some rows, and the gradient in the dead latents' pre-activations summed over them."""
    assert encoder.latents is not None
    # −(ê − e) = −ê − (v̂ − v), and its products: so no e is made.
    error = torch.empty_like(residual)
    if isinstance(codes, SparseEntries):  # where they are, for the dead may be nearly all
        among_all = codes.renumbered(encoder.latents.to(torch.int32), len(step.W_dec))
        d_z = among_all.residual_and_dot(-codes.pre, residual, step.W_dec, error)
    else:
        d_z = codes.residual_and_dot(-codes.pre, residual, step.W_dec[encoder.latents], error)
    loss = sum_of_squares(error) * weight
    d_pre = where_positive(d_z.mul_(-2 * weight), codes.pre, out=d_z)
    codes.outer(step.encoder, d_pre, encoder.x[rows], grads)
    codes.outer("W_dec", codes.pre, error.mul_(-2 * weight), grads)
    return loss, codes.by_latent(d_pre)


def _width(n_dead: int, most: int) -> int:
    """What the dead are filled up to: few widths, since oneDNN keeps what it needs for each; multiples of `most` beyond
    it."""
    width = 32
    while width < n_dead and 4 * width <= most:
        width *= 4
    return width if n_dead <= width else n_dead + -n_dead % most


def _codes(encoder: Encoder, k: int) -> Iterator[tuple[slice, Codes]]:
    """Some rows after the other, the k largest positive pre-activations of each: as entries, or as a tile where k is a
    large share of all."""
    if k <= encoder.tuning.max_dead_density * encoder.n_latents:
        for rows in encoder.tuning.tiles(len(encoder.x), 128 * k):  # a step holds sixty bytes an entry
            yield rows, select_top_k(encoder.rows(rows), k, ascending=True)
        return
    for rows, pre in encoder.tiles(most=encoder.tuning.block[0] // 4):
        pre.clamp_(min=0)
        if k < encoder.n_latents:
            values, columns = top_k(pre, k)
            pre = torch.zeros_like(pre).scatter_(1, columns, values)
        yield rows, DenseTile(pre, tuning=encoder.tuning)
