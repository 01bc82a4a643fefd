"""Gated: one path decides which latents are active, another how much (Rajamanoharan et al. 2024a)."""

from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.precision import wide
from polyseme.dictionaries.base import PenalisedBase
from polyseme.dictionaries.engine.activation import Activation, Step
from polyseme.dictionaries.engine.entries import Codes, SparseEntries
from polyseme.dictionaries.engine.exact import exact_above
from polyseme.dictionaries.engine.selection import Encoder, select_if_sparse
from polyseme.kernels.tiles import where_positive


class GatedConfig(PenalisedBase):
    """A gate and a magnitude that share their weights, an L1 penalty on the gate; decoder rows kept at norm 1."""

    architecture: Literal["gated"] = "gated"
    """Architecture of the dictionary."""

    def activation(self, zeros: Float[Tensor, " n_latents"], _spread: float, /) -> "Gated":
        return Gated(torch.zeros_like(zeros), torch.zeros_like(zeros))


@final
class Gated(Activation):
    """With π = u W_encᵀ + b_enc (the gate) and μ = exp(r_mag) u W_encᵀ + b_mag (the magnitude),

        f = H(π) ReLU(μ)
        loss = ‖v̂(f) − v‖² + coefficient Σ_j ReLU(π_j) + ‖v̂_frozen(ReLU(π)) − v‖²        (mean over batch, / d_out)

    The gate learns from the last two terms only, H having no gradient; "frozen": W_dec and b_dec get no gradient from
    the last. u W_encᵀ is π − b_enc, so one product serves both paths. No AuxK: a dead latent's gate is never positive.
    Rajamanoharan et al. 2024a, Improving dictionary learning with gated sparse autoencoders, eq. 6 to 8.

    Args:
        r_mag: log ratio of the magnitude's weights to the gate's.
        b_mag: the magnitude's bias.
    """

    unit_norm = True
    by_threshold = True

    def __init__(self, r_mag: Float[Tensor, " n_latents"], b_mag: Float[Tensor, " n_latents"]):
        self._r_mag, self._b_mag = r_mag, b_mag
        self.parameters = {"r_mag": r_mag, "b_mag": b_mag}

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        return select_if_sparse(encoder, 0.0) if training else exact_above(encoder, 0.0)

    def values(self, codes: Codes, b_enc: Float[Tensor, " n_latents"], /) -> Tensor:
        ratio, b_mag = codes.take(self._r_mag.exp()), codes.take(self._b_mag)
        magnitudes = (codes.pre - codes.take(b_enc)).mul_(ratio).add_(b_mag).clamp_(min=0)
        return where_positive(magnitudes, codes.pre, out=magnitudes)

    def gate(self, codes: Codes, /) -> Tensor:
        return codes.pre.clamp(min=0)

    def pull_back_gate(self, _codes: Codes, values: Tensor, d_values: Tensor, step: Step, /) -> Tensor:
        weight = step.coefficient * step.per_row
        step.sparsity = step.sparsity + weight * values.sum()
        return where_positive(d_values.add_(weight), values, out=d_values)

    def pull_back(self, codes: Codes, values: Tensor, d_values: Tensor, step: Step, /) -> Tensor:
        d_mag = where_positive(d_values, values, out=d_values)
        step.grads.add("b_mag", codes.by_latent(d_mag))
        d_shared = d_mag.mul_(codes.take(self._r_mag.exp()))
        magnitude_part = codes.by_latent(d_shared)
        shared = codes.pre - codes.take(step.b_enc)
        step.grads.add("r_mag", codes.by_latent(shared.mul_(d_shared)))
        step.grads.add("b_enc", -magnitude_part)  # the magnitude does not see the gate's bias, which the sum below adds
        return d_shared

    def revive(
        self, latents: Int[Tensor, " some"], _bar: Float[Tensor, " some"], bias: Float[Tensor, " some"], /
    ) -> None:
        self._r_mag[latents], self._b_mag[latents] = 0.0, bias  # the magnitude is the gate's pre-activation

    def fold(self, gain: Float[Tensor, " n_latents"], shift: Float[Tensor, " n_latents"], /) -> None:
        self._b_mag.copy_((wide(self._b_mag) + wide(self._r_mag).exp() * shift) * gain)
