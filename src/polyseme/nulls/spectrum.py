"""Null: every weight matrix with its singular values and random singular directions."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.nulls.weights import WeightNull


class SpectrumReinit(WeightNull):
    """Every weight matrix W = USVᵀ turned into QSRᵀ with Haar-random Q and R."""

    kept: ClassVar[str] = "each weight matrix's singular values; biases and norms"
    lost: ClassVar[str] = "singular directions, and so everything that depends on how layers fit each other"
    stream: ClassVar[str] = "spectrum"

    kind: Literal["spectrum_reinit"] = "spectrum_reinit"

    def draw(self, weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
        singular = torch.linalg.svdvals(weight)
        left = haar(weight.shape[0], len(singular), generator)
        right = haar(weight.shape[1], len(singular), generator)
        return (left * singular) @ right.T


def haar(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """The first `columns` columns of a Haar-distributed orthogonal matrix.

    QR of a Gaussian matrix, columns multiplied by the signs of R's diagonal: Mezzadri 2007, How to generate random
    matrices from the classical compact groups.
    """
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(torch.float64)
