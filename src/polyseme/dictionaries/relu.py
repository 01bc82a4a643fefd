"""ReLU with an L1 penalty: the classic sparse autoencoder (Bricken et al. 2023; Conerly et al. 2024)."""

from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.dictionaries.base import PenalisedBase
from polyseme.dictionaries.engine.activation import Activation, Step
from polyseme.dictionaries.engine.entries import Codes, SparseEntries
from polyseme.dictionaries.engine.exact import exact_above
from polyseme.dictionaries.engine.selection import Encoder, select_if_sparse
from polyseme.kernels.tiles import where_positive


class ReLUConfig(PenalisedBase):
    """Every positive latent, with an L1 penalty weighted by decoder norm; tied: one matrix of unit rows.

    The penalty shrinks what is reconstructed, the more the fewer latents may be active, and no more training undoes it:
    at an equal L0 the FVU is far above that of the other architectures (`docs/decisions/0034-l0.md`).
    """

    architecture: Literal["relu"] = "relu"
    """Architecture of the dictionary."""
    tie_weights: bool = False
    """The encoder is the decoder transposed, with unit rows; not for transcoders."""

    def activation(self, _zeros: Float[Tensor, " n_latents"], _spread: float, /) -> "ReLU":
        return ReLU(tied=self.tie_weights)


@final
class ReLU(Activation):
    """f = ReLU(pre), penalty Σ_j f_j ‖W_dec_j‖: no constraint on norms is needed, none can be gamed.

        ∂f_j += coefficient ‖W_dec_j‖        ∂W_dec_j += coefficient Σ_b f_bj W_dec_j / ‖W_dec_j‖

    both / (batch × d_out). Tied, rows are kept at norm 1 and the penalty is plain L1. No AuxK: a dead latent's
    pre-activations are all negative, where ReLU has no gradient to give. Conerly et al. 2024, Update on how we train
    SAEs.

    Args:
        tied: one matrix of unit rows.
    """

    by_threshold = True

    def __init__(self, *, tied: bool):
        self.tied = self.unit_norm = tied

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        return select_if_sparse(encoder, 0.0) if training else exact_above(encoder, 0.0)

    def values(self, codes: Codes, _b_enc: Float[Tensor, " n_latents"], /) -> Tensor:
        return codes.pre.clamp(min=0)

    def pull_back(self, codes: Codes, values: Tensor, d_values: Tensor, step: Step, /) -> Tensor:
        weight = step.coefficient * step.per_row
        step.totals = step.totals + codes.by_latent(values)
        penalty = weight if self.unit_norm else codes.take(weight * step.norms)
        return where_positive(d_values.add_(penalty), values, out=d_values)

    def finish(self, step: Step, /) -> None:
        weight, W_dec = step.coefficient * step.per_row, step.W_dec
        totals = torch.as_tensor(step.totals, dtype=W_dec.dtype, device=W_dec.device)
        if self.unit_norm:
            step.sparsity = step.sparsity + weight * totals.sum()
            return
        step.sparsity = step.sparsity + weight * torch.dot(totals, step.norms)
        along = weight * totals / step.norms.clamp(min=torch.finfo(totals.dtype).tiny)
        for part in step.tuning.tiles_of(W_dec, 8):
            step.grads.add("W_dec", along[part, None] * W_dec[part], part.start)

    def fold(self, _gain: Float[Tensor, " n_latents"], _shift: Float[Tensor, " n_latents"], /) -> None:
        return
