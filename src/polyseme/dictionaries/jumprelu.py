"""JumpReLU: a learned threshold per latent, and an L0 penalty (Rajamanoharan et al. 2024b)."""

import math
from typing import Literal, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Strength
from polyseme.core.precision import wide
from polyseme.dictionaries.base import PenalisedBase, RevivedBase
from polyseme.dictionaries.engine.activation import Activation, Step
from polyseme.dictionaries.engine.entries import Codes, SparseEntries
from polyseme.dictionaries.engine.exact import exact_above
from polyseme.dictionaries.engine.selection import Encoder, select_if_sparse
from polyseme.kernels.tiles import where_positive


class JumpReLUConfig(PenalisedBase, RevivedBase):
    """Latents above their own learned threshold, with a penalty on their number; decoder rows kept at norm 1."""

    architecture: Literal["jumprelu"] = "jumprelu"
    """Architecture of the dictionary."""
    coefficient: Strength = 1.0
    """Coefficient of the L0 penalty; adjusted where a target L0 is set. It is about the squared size of the smallest
    activation worth its cost."""
    threshold: float = Field(default=2.0, ge=1e-6, le=1e6)
    """Initial threshold, in standard deviations of an initial pre-activation."""
    bandwidth: float = Field(default=0.5, ge=1e-6, le=1e6)
    """Width of the kernel that estimates the thresholds' gradients, in standard deviations of the data along a
    direction."""

    def activation(self, zeros: Float[Tensor, " n_latents"], spread: float, /) -> "JumpReLU":
        return JumpReLU(self, torch.full_like(zeros, math.log(self.threshold * spread)))


@final
class JumpReLU(Activation):
    """f = pre · H(pre − θ), penalty Σ_j H(pre_j − θ_j), θ = exp(log_threshold).

    The pre-activation gets the true gradient; the threshold, whose true gradient is 0 almost everywhere, the
    straight-through estimate with a rectangle kernel K(z) = 1{|z| < ½} of width ε:

        ∂f/∂θ = −(θ/ε) K((pre − θ)/ε)        ∂H/∂θ = −(1/ε) K((pre − θ)/ε)

    so entries within ε/2 below their threshold are part of a step as well, with value 0. Rajamanoharan et al. 2024b,
    Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders, eq. 9 to 12. Departures: no
    ReLU before the jump (θ > 0 makes it idle forward; backward it would put every negative pre-activation in the
    kernel of a small θ), and a wider ε than the paper's, without which thresholds hardly move in short trainings.
    """

    unit_norm = True
    by_threshold = True

    def __init__(self, config: JumpReLUConfig, log_threshold: Tensor):
        self.k_aux, self.aux_coefficient, self._bandwidth = config.k_aux, config.aux_coefficient, config.bandwidth
        self._log_threshold = log_threshold
        self.parameters = {"log_threshold": log_threshold}

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        if training:
            return select_if_sparse(encoder, self._threshold() - self._bandwidth / 2)
        return exact_above(encoder, self._threshold())

    def values(self, codes: Codes, _b_enc: Float[Tensor, " n_latents"], /) -> Tensor:
        return where_positive(codes.pre, codes.pre - codes.take(self._threshold()))

    def pull_back(self, codes: Codes, values: Tensor, d_values: Tensor, step: Step, /) -> Tensor:
        weight, threshold = step.coefficient * step.per_row, self._threshold()
        step.sparsity = step.sparsity + weight * values.sign().sum()
        near = (codes.pre - codes.take(threshold)).abs_().neg_().add_(self._bandwidth / 2)  # positive inside the kernel
        # dθ = −Σ near (θ ∂f + weight)/ε, and d log θ = θ dθ
        by_value = codes.by_latent(where_positive(d_values, near))
        by_count = codes.by_latent(near.sign_().clamp_(min=0))
        d_threshold = (threshold * by_value + weight * by_count).mul_(-1 / self._bandwidth)
        step.grads.add("log_threshold", threshold * d_threshold)
        return where_positive(d_values, values, out=d_values)

    def bar(self, least: Float[Tensor, " row"], live: Bool[Tensor, " n_latents"], /) -> Float[Tensor, " row"]:
        known = self._log_threshold[live] if bool(live.any()) else self._log_threshold
        return known.median().exp().expand_as(least)

    def revive(
        self, latents: Int[Tensor, " some"], bar: Float[Tensor, " some"], _bias: Float[Tensor, " some"], /
    ) -> None:
        self._log_threshold[latents] = bar.log()

    def raise_thresholds(self, share: Float[Tensor, " n_latents"], /) -> None:
        self._log_threshold.add_(share)

    def fold(self, gain: Float[Tensor, " n_latents"], _shift: Float[Tensor, " n_latents"], /) -> None:
        self._log_threshold.copy_(wide(self._log_threshold) + gain.log())

    def _threshold(self) -> Float[Tensor, " n_latents"]:
        return self._log_threshold.exp()
