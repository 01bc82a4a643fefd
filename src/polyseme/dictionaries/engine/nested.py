"""Nested dictionaries (Matryoshka): one after the other, with a few vectors a row in memory whatever their number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.dictionaries.engine.activation import Nesting, Step
from polyseme.dictionaries.engine.entries import SparseEntries
from polyseme.kernels.tiles import sum_of_squares
from polyseme.kernels.workspace import scratch


def nested(
    codes: SparseEntries,
    values: Float[Tensor, " entry"],
    step: Step,
    nesting: Nesting,
    residual: Float[Tensor, "rows d_out"],
) -> Float[Tensor, " entry"]:
    """∂f; the mean over nested dictionaries of their mse part and gradients of decoder and bias are added to `step`.

    With group m the latents that dictionary m has and dictionary m − 1 has not, and r_m = Σ_{i ≤ m} ŷ_i − v its
    residual, a latent of group m is in every dictionary from m on, and learns from their sum s_m:

        s_1 = Σ_i r_i        s_{m+1} = s_m − r_m        ∂f_bj = ⟨s_b, W_dec_j⟩        ∂W_dec_j = Σ_b f_bj s_b

    Detached, it learns from its own dictionary, whose smaller ones are held fixed, and from the largest, M:
    s_m = r_m + r_M, s_M = r_M, and the bias from s_1.

    Bussmann et al. 2025, eq. 5; the mean instead of the sum. Detached: Chanin 2026, Letting Claude do autonomous
    research to improve SAEs.

    Args:
        codes, values: of the largest dictionary.
        step: with the goal of these rows.
        nesting: which latents each dictionary has.
        residual: the largest's is written here.
    """
    d_values = torch.empty_like(values)
    # The sum is a quarter of a tile: a batch's would be as much memory as everything else that a step keeps.
    for rows in step.tuning.tiles_of(residual, 4):
        some, at = codes.rows(rows)
        groups = list(_groups(some, values[at], step.W_dec, nesting))
        of_rows = _detached if nesting.detached and len(groups) > 1 else _summed
        own = d_values[at]
        for group, found in zip(groups, of_rows(groups, step.goal[rows], step, residual[rows]), strict=True):
            own[group.at] = found
    return d_values


@dataclass(frozen=True)
class _Group:
    """The entries of the latents that one dictionary has and the next smaller one has not.

    Attributes:
        codes, values: of those entries.
        at: which of all entries they are.
        W_dec: what `codes` numbers the rows of.
        first: of those rows in the decoder.
    """

    codes: SparseEntries
    values: Float[Tensor, " own"]
    at: Int[Tensor, " own"]
    W_dec: Float[Tensor, "some d_out"]
    first: int

    def learn(self, goal: Float[Tensor, "rows d_out"], step: Step, weight: float) -> Float[Tensor, " own"]:
        """∂f, the decoder's gradient added, where `goal` times `weight` is what v̂ is to move against."""
        self.codes.outer("W_dec", self.values * weight, goal, step.grads, self.first)
        return self.codes.dot(goal, self.W_dec).mul_(weight)

    def add_decoded(self, out: Float[Tensor, "rows d_out"]) -> None:
        for rows in self.codes.tuning.tiles_of(out, 8):
            some, at = self.codes.rows(rows)
            out[rows] += some.decode(self.values[at], self.W_dec)


def _groups(
    codes: SparseEntries, values: Float[Tensor, " entry"], W_dec: Float[Tensor, "n_latents d_out"], nesting: Nesting
) -> Iterator[_Group]:
    for first, end in zip((0, *nesting.ends), nesting.ends, strict=False):
        if nesting.rank is None:
            own, at = codes.between(first, end)
            yield _Group(own, values[at], at, W_dec[first:end], first)
        else:
            rank = nesting.rank.index_select(0, codes.indices)
            own, at = codes.of((rank >= first) & (rank < end))
            yield _Group(own, values[at], at, W_dec, 0)


def _summed(
    groups: Sequence[_Group], goal: Float[Tensor, "rows d_out"], step: Step, residual: Float[Tensor, "rows d_out"]
) -> list[Tensor]:
    weight = step.per_row / len(groups)
    total = scratch("total", residual, residual.dtype).zero_()
    torch.neg(goal, out=residual)
    for group in groups:
        group.add_decoded(residual)
        total += residual
        step.mse = step.mse + weight * sum_of_squares(residual)
    step.grads.add("b_dec", total.sum(0) * (2 * weight))
    d_values: list[Tensor] = []
    torch.neg(goal, out=residual)
    for group in groups:
        d_values.append(group.learn(total, step, 2 * weight))
        group.add_decoded(residual)
        total -= residual
    return d_values


def _detached(
    groups: Sequence[_Group], goal: Float[Tensor, "rows d_out"], step: Step, residual: Float[Tensor, "rows d_out"]
) -> list[Tensor]:
    weight = step.per_row / len(groups)
    torch.neg(goal, out=residual)
    for group in groups:
        group.add_decoded(residual)
    step.mse = step.mse + weight * sum_of_squares(residual)
    inner = torch.neg(goal, out=scratch("inner", residual, residual.dtype))
    total = scratch("total", residual, residual.dtype)
    d_values: list[Tensor] = []
    for group in groups[:-1]:
        group.add_decoded(inner)
        step.mse = step.mse + weight * sum_of_squares(inner)
        torch.add(inner, residual, out=total)
        if group is groups[0]:
            step.grads.add("b_dec", total.sum(0) * (2 * weight))
        d_values.append(group.learn(total, step, 2 * weight))
    d_values.append(groups[-1].learn(residual, step, 2 * weight))
    return d_values
