"""Losses and gradients of a piece of the batch, by the mathematics of `engine`: from its entries, or block by block of
the latents where entries are too many."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.dictionaries.engine.activation import Activation, HasGate, Step
from polyseme.dictionaries.engine.entries import Codes, DenseTile, SparseEntries
from polyseme.dictionaries.engine.nested import nested
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.tiles import sum_of_squares


def from_entries(
    codes: SparseEntries,
    u: Float[Tensor, "rows d_in"],
    activation: Activation,
    step: Step,
    residual: Float[Tensor, "rows d_out"],
) -> None:
    """Add a piece's losses and gradients to `step`.

    Args:
        codes: of the piece.
        u: what they were encoded from.
        activation: the architecture.
        step: with the piece's goal.
        residual: v̂ − v is written here.
    """
    values = activation.values(codes, step.b_enc)
    if activation.nesting is None:
        d_values = codes.residual_and_dot(values, step.goal, step.W_dec, residual).mul_(2 * step.per_row)
        _decoder_learns(codes, values, residual, step)
        _add_error(residual, step)
    else:
        d_values = nested(codes, values, step, activation.nesting, residual)
    d_pre = activation.pull_back(codes, values, d_values, step)
    if isinstance(activation, HasGate):
        d_pre += _from_gate(codes, activation.gate(codes), activation, step)
    _encoder_learns(codes, values, d_pre, u, step)


def _from_gate(codes: SparseEntries, gate: Float[Tensor, " entry"], activation: HasGate, step: Step) -> Tensor:
    d_gate, goal = torch.empty_like(gate), step.goal
    for rows in step.tuning.tiles_of(goal, 4):  # its error is needed no longer than this
        some, at = codes.rows(rows)
        error = torch.empty_like(goal[rows])
        d_gate[at] = some.residual_and_dot(gate[at], goal[rows], step.W_dec, error)
        step.aux = step.aux + step.per_row * sum_of_squares(error)
    return activation.pull_back_gate(codes, gate, d_gate.mul_(2 * step.per_row), step)


def from_blocks(encoder: Encoder, activation: Activation, step: Step, residual: Float[Tensor, "rows d_out"]) -> None:
    """`from_entries` with every latent: block by block for the reconstruction, and again for the way back.

    These are six products where five would do, but all of them in cache, and gradients are written once.

    Args:
        encoder: of the piece.
        activation, step, residual: as there.
    """
    torch.neg(step.goal, out=residual)
    error: Tensor | None = None  # of what the gate reconstructs by itself
    for tile in _tiles(encoder):
        residual += tile.decode(activation.values(tile, step.b_enc), step.W_dec)
        if isinstance(activation, HasGate):
            error = -step.goal if error is None else error
            error += tile.decode(activation.gate(tile), step.W_dec)
    _add_error(residual, step)
    if error is not None:
        step.aux = step.aux + step.per_row * sum_of_squares(error)
    for tile in _tiles(encoder):
        _back(tile, encoder.x, activation, step, residual, error)


def _back(
    tile: DenseTile,
    u: Float[Tensor, "rows d_in"],
    activation: Activation,
    step: Step,
    residual: Float[Tensor, "rows d_out"],
    error: Float[Tensor, "rows d_out"] | None,
) -> None:
    """The gradients of one block, of which nothing outlives it."""
    values = activation.values(tile, step.b_enc)
    _decoder_learns(tile, values, residual, step)
    d_pre = activation.pull_back(tile, values, tile.dot(residual, step.W_dec).mul_(2 * step.per_row), step)
    if error is not None and isinstance(activation, HasGate):
        d_gate = tile.dot(error, step.W_dec).mul_(2 * step.per_row)
        d_pre += activation.pull_back_gate(tile, activation.gate(tile), d_gate, step)
    _encoder_learns(tile, values, d_pre, u, step)


def _tiles(encoder: Encoder) -> Iterator[DenseTile]:
    for _, latents, products in encoder.blocks():
        yield DenseTile(products.add_(encoder.bias[latents]), latents, encoder.n_latents, encoder.tuning)


def _add_error(residual: Float[Tensor, "rows d_out"], step: Step) -> None:
    step.mse = step.mse + step.per_row * sum_of_squares(residual)
    step.grads.add("b_dec", residual.sum(0) * (2 * step.per_row))


def _decoder_learns(codes: Codes, values: Tensor, residual: Float[Tensor, "rows d_out"], step: Step) -> None:
    active, at = codes.active(values)
    active.outer("W_dec", values[at] * (2 * step.per_row), residual, step.grads)


def _encoder_learns(codes: Codes, values: Tensor, d_pre: Tensor, u: Float[Tensor, "rows d_in"], step: Step) -> None:
    """Add the gradients from ∂pre, and count which latents were active."""
    active, at = codes.active(d_pre)
    d_pre = d_pre[at]
    active.outer(step.encoder, d_pre, u, step.grads)
    summed = active.by_latent(d_pre)
    step.d_bias += summed
    step.grads.add("b_enc", summed)
    step.fired += codes.by_latent(values.sign()).to(torch.int64)
