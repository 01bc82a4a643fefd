"""Nested dictionaries (Matryoshka): one after the other, with two vectors a row in memory whatever their number."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.dictionaries.engine.activation import Step
from polyseme.dictionaries.engine.entries import SparseEntries
from polyseme.kernels.tiles import sum_of_squares
from polyseme.kernels.workspace import scratch


def nested(
    codes: SparseEntries,
    values: Float[Tensor, " entry"],
    step: Step,
    ends: Sequence[int],
    residual: Float[Tensor, "rows d_out"],
) -> Float[Tensor, " entry"]:
    """∂f; the mean over nested dictionaries of their mse part and gradients of decoder and bias are added to `step`.

    With group m the latents that dictionary m has and dictionary m − 1 has not, and r_m = Σ_{i ≤ m} ŷ_i − v its
    residual, a latent of group m is in every dictionary from m on, and learns from their sum s_m:

        s_1 = Σ_i r_i        s_{m+1} = s_m − r_m        ∂f_bj = ⟨s_b, W_dec_j⟩        ∂W_dec_j = Σ_b f_bj s_b

    Bussmann et al. 2025, eq. 5; the mean instead of the sum.

    Args:
        codes, values: of the largest dictionary.
        step: with the goal of these rows.
        ends: of the nested dictionaries, ascending.
        residual: the largest's is written here.
    """
    groups = [slice(first, end) for first, end in zip((0, *ends), ends, strict=False)]
    d_values = torch.empty_like(values)
    # The sum is a quarter of a tile: a batch's would be as much memory as everything else that a step keeps.
    for rows in step.tuning.tiles_of(residual, 4):
        some, at = codes.rows(rows)
        d_values[at] = _of_rows(some, values[at], step.goal[rows], step, groups, residual[rows])
    return d_values


def _of_rows(
    codes: SparseEntries,
    values: Float[Tensor, " entry"],
    goal: Float[Tensor, "rows d_out"],
    step: Step,
    groups: Sequence[slice],
    residual: Float[Tensor, "rows d_out"],
) -> Float[Tensor, " entry"]:
    weight = step.per_row / len(groups)
    entries = [codes.between(group.start, group.stop) for group in groups]
    total = scratch("total", residual, residual.dtype).zero_()
    torch.neg(goal, out=residual)
    for group, (own, at) in zip(groups, entries, strict=True):
        _add_decoded(residual, own, values[at], step.W_dec[group])
        total += residual
        step.mse = step.mse + weight * sum_of_squares(residual)
    step.grads.add("b_dec", total.sum(0) * (2 * weight))
    d_values = torch.empty_like(values)
    torch.neg(goal, out=residual)
    for group, (own, at) in zip(groups, entries, strict=True):
        own_values, W_dec = values[at], step.W_dec[group]
        own.outer("W_dec", own_values * (2 * weight), total, step.grads, group.start)
        d_values[at] = own.dot(total, W_dec).mul_(2 * weight)
        _add_decoded(residual, own, own_values, W_dec)
        total -= residual
    return d_values


def _add_decoded(
    out: Float[Tensor, "rows d"],
    codes: SparseEntries,
    values: Float[Tensor, " entry"],
    W_dec: Float[Tensor, "n_latents d"],
) -> None:
    for rows in codes.tuning.tiles_of(out, 8):
        some, at = codes.rows(rows)
        out[rows] += some.decode(values[at], W_dec)
