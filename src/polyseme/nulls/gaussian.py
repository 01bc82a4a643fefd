"""Null: every weight tensor drawn from a Gaussian of its own mean and standard deviation."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.nulls.weights import WeightNull


class GaussianReinit(WeightNull):
    """Every weight tensor drawn from a Gaussian of its own mean and standard deviation, which it then has exactly."""

    kept: ClassVar[str] = "each weight tensor's shape, mean and standard deviation; biases and norms"
    lost: ClassVar[str] = "spectra, directions and everything that was learned"
    stream: ClassVar[str] = "gaussian"

    kind: Literal["gaussian_reinit"] = "gaussian_reinit"

    def draw(self, weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        noise -= noise.mean()
        spread = noise.std(correction=0)
        if spread > 0:
            noise /= spread
        weight = weight.double()
        return weight.mean() + weight.std(correction=0) * noise
