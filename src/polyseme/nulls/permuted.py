"""Null: every weight tensor's entries permuted at random."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.nulls.weights import WeightNull


class PermutedWeights(WeightNull):
    """Every weight tensor's entries permuted at random."""

    kept: ClassVar[str] = "each weight tensor's exact histogram of entries; biases and norms"
    lost: ClassVar[str] = "where each entry stands, and so spectra and directions"
    stream: ClassVar[str] = "permuted"

    kind: Literal["permuted_weights"] = "permuted_weights"

    def draw(self, weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
        order = torch.randperm(weight.numel(), generator=generator)
        return weight.flatten()[order].reshape(weight.shape)
