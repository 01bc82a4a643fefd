"""Geometry of feature vectors: how much of a dimension each has."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def dimensionality(vectors: Float[Tensor, "*batch feature d"]) -> Float[Tensor, "*batch feature"]:
    """D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)²: the share of a dimension that feature i has to itself; 0 for a zero vector.

    Elhage et al. 2022, "The geometry of superposition". The capacity C_i = (W_i · W_i)² / Σ_j (W_i · W_j)² of Scherlis
    et al. 2022 (eq. 1) is the same number.
    """
    gram = vectors @ vectors.mT
    squared = gram.diagonal(dim1=-2, dim2=-1)
    shared = gram.square().sum(-1)
    return torch.where(shared > 0, squared.square() / shared.clamp(min=torch.finfo(shared.dtype).tiny), 0.0)


def gaps(vectors: Float[Tensor, "*batch feature 2"]) -> Float[Tensor, "*batch feature"]:
    """Angles between neighbours of vectors in a plane, in degrees; they sum to 360."""
    angle = torch.rad2deg(torch.atan2(vectors[..., 1], vectors[..., 0])).sort(-1).values
    return torch.cat([angle.diff(dim=-1), angle[..., :1] + 360 - angle[..., -1:]], dim=-1)


def haar(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """A Haar-distributed orthogonal matrix, in float64: QR of a Gaussian one, with the signs of R's diagonal."""
    Q, R = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return Q * R.diagonal().sign()


def polygon(k: int, length: float = 1.0) -> Float[np.ndarray, "k 2"]:
    """A regular k-gon's corners, the first at (length, 0)."""
    angle = 2 * np.pi * np.arange(k) / k
    return length * np.stack([np.cos(angle), np.sin(angle)], axis=1)
