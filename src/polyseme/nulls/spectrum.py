"""Null: every weight matrix with its singular values and random singular directions."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.nulls.weights import WeightNull


class SpectrumReinit(WeightNull):
    """Every weight matrix W = USVᵀ turned into QWRᵀ with Haar-random orthogonal Q and R."""

    kept: ClassVar[str] = "each weight matrix's singular values; biases and norms"
    lost: ClassVar[str] = "singular directions, and so everything that depends on how layers fit each other"
    stream: ClassVar[str] = "spectrum"
    version: ClassVar[int] = 2

    kind: Literal["spectrum_reinit"] = "spectrum_reinit"

    def draw(self, weight: Float[Tensor, "rows columns"], generator: torch.Generator) -> Float[Tensor, "rows columns"]:
        rows, columns = weight.shape
        tall = weight if rows > columns else weight.T
        # Of W = KT with orthonormal columns K, the factor T [short, short] has all singular values, and QK is as random
        # as Q's first columns: neither an SVD nor an orthogonal matrix as large as the longer side is needed.
        core = torch.linalg.qr(tall, mode="r").R
        drawn = turned(turned(core.T, len(core), generator).T, len(tall), generator)
        return drawn if rows > columns else drawn.T


def turned(x: Float[Tensor, "columns n"], rows: int, generator: torch.Generator) -> Float[Tensor, "rows n"]:
    """Qx, where Q holds the first columns of a Haar-distributed orthogonal matrix.

    QR of a Gaussian matrix, columns multiplied by the signs of R's diagonal: Mezzadri 2007, How to generate random
    matrices from the classical compact groups. Q is applied as the reflections that it is a product of.
    """
    reflections, scales = torch.geqrf(torch.randn(rows, len(x), generator=generator, dtype=x.dtype))
    padded = x.new_zeros(rows, x.shape[1])
    padded[: len(x)] = x * torch.where(reflections.diagonal() < 0, -1.0, 1.0)[:, None].to(x.dtype)
    return torch.ormqr(reflections, scales, padded)
