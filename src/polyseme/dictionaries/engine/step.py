"""One training step's loss and gradients: the batch piece by piece, and what is added once a batch."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.dictionaries.engine.activation import Activation, Finishes, Step
from polyseme.dictionaries.engine.auxk import auxk
from polyseme.dictionaries.engine.entries import Gradients
from polyseme.dictionaries.engine.gradients import from_blocks, from_entries
from polyseme.dictionaries.engine.pieces import pieces
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.dictionaries.protocol import StepStats
from polyseme.kernels.tiles import sum_of_squares
from polyseme.kernels.workspace import scratch


def loss_and_gradients(
    encoder: Encoder,
    goal: Float[Tensor, "batch d_out"],
    activation: Activation,
    W_dec: Float[Tensor, "n_latents d_out"],
    gradients: Mapping[str, Tensor],
    encoder_name: str,
    *,
    is_transcoder: bool,
    dead: Bool[Tensor, " n_latents"] | None,
    coefficient: float,
) -> StepStats:
    """Overwrite `gradients` with those of the loss, by the mathematics of `engine`.

    Args:
        encoder: over the batch.
        goal: v − b_dec.
        activation: the architecture.
        W_dec: of the decoder.
        gradients: of every parameter.
        encoder_name: of the encoder's weights: the decoder's, when tied.
        is_transcoder: it reads without b_dec.
        dead: latents that have not fired for long; None: no AuxK.
        coefficient: of the penalty.
    """
    grads = Gradients(gradients)
    fired = torch.zeros(encoder.n_latents, dtype=torch.int64, device=goal.device)
    step = Step(
        goal,
        encoder.bias,
        W_dec,
        grads,
        encoder_name,
        per_row=1 / goal.numel(),
        coefficient=coefficient,
        d_bias=goal.new_zeros(encoder.n_latents),
        fired=fired,
        tuning=encoder.tuning,
    )
    residual = scratch("residual", goal, goal.dtype)
    for rows, codes in pieces(encoder, activation):
        step.goal = goal[rows]
        if isinstance(codes, Encoder):
            from_blocks(codes, activation, step, residual[rows])
        else:
            from_entries(codes, encoder.x[rows], activation, step, residual[rows])
        del codes  # and what it has worked out, before the next are looked for
    if isinstance(activation, Finishes):
        activation.finish(step)

    k_aux = goal.shape[1] // 2 if activation.k_aux is None else activation.k_aux
    if dead is not None and k_aux > 0:
        step.aux = step.aux + auxk(encoder, residual, step, dead, k_aux, activation.aux_coefficient * step.per_row)
    if not is_transcoder:
        grads.add("b_dec", -(encoder.weight.t() @ step.d_bias))
    grads.finish()
    if activation.unit_norm:
        _project(grads["W_dec"], step)

    # About centred, so float32 is exact enough for a mean; a sum in float64 converts all of it first.
    mean = wide(torch.mv(goal.t(), goal.new_ones(len(goal)))) / len(goal)
    total = wide(sum_of_squares(goal)) - len(goal) * mean.square().sum()
    sse = wide(sum_of_squares(residual))
    mse, sparsity, aux = (goal.new_zeros(()) + part for part in (step.mse, step.sparsity, step.aux))
    l0 = fired.sum().to(goal.dtype) / len(goal)
    return StepStats(mse + sparsity + aux, mse, sparsity, aux, l0, fired, sse, total, len(goal))


def _project(gradient: Float[Tensor, "n_latents d_out"], step: Step) -> None:
    """Remove from each decoder row's gradient its part along the row."""
    for part in step.tuning.tiles_of(step.W_dec, 16):
        along = torch.linalg.vecdot(gradient[part], step.W_dec[part])
        gradient[part].addcmul_(along[:, None], step.W_dec[part], value=-1)
