"""Closed forms of ReLU(WᵀWx + b): best polygons, two features in one dimension, lines of dimensionalities."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.zoo.superposition.toy import ReluOutput
from polyseme.zoo.tools.geometry import polygon


def one_hot_loss(response: Float[np.ndarray, "feature feature"], b: float) -> float:
    """Σ_j ∫₀¹ (δ_ij x − ReLU(G_ij x + b))² dx, averaged over the one feature i that is on: piecewise cubic, exact.

    Args:
        response: the matrix G = WᵀW.
        b: the bias that all outputs share.
    """
    target = np.eye(len(response))
    slope = np.where(response == 0, np.finfo(np.float64).tiny, response)
    with np.errstate(over="ignore"):
        zero = np.clip(-b / slope, 0, 1)
    low, high = np.where(slope > 0, zero, 0.0), np.where(slope > 0, 1.0, zero)
    s = target - response

    def primitive(x: Float[np.ndarray, "feature feature"]) -> Float[np.ndarray, "feature feature"]:
        return s * s * x**3 / 3 - s * b * x**2 + b * b * x

    silent = target**2 * (1 - high**3 + low**3) / 3
    return float((silent + primitive(high) - primitive(low)).sum(1).mean())


def best_polygon(k: int) -> tuple[float, float, float]:
    """Length, bias and loss of the best k-gon where one feature is on at a time."""
    from scipy import optimize

    corners = polygon(k)
    response = corners @ corners.T

    def loss(v: Float[np.ndarray, " 2"]) -> float:
        return one_hot_loss(v[0] ** 2 * response, float(v[1]))

    tolerance = {"xatol": 1e-10, "fatol": 1e-15, "maxiter": 5_000}
    starts = [(length, b) for length in (0.8, 1.2, 1.6) for b in (-1.2, -0.6, -0.1)]
    found = [optimize.minimize(loss, start, method="Nelder-Mead", options=tolerance) for start in starts]
    best = min(found, key=lambda result: result.fun)
    return float(abs(best.x[0])), float(best.x[1]), float(best.fun)


def antipodal_loss(p: float, r: float) -> float:
    """p²(1 + r)/6: two features of importance 1 and r along one dimension in opposite directions, no bias."""
    return p * p * (1 + r) / 6


def dropped_loss(p: float, r: float) -> float:
    """min(1, r) (p/3 − p²/4): the less important one is left out and predicted by its mean."""
    return min(1.0, r) * (p / 3 - p * p / 4)


def boundary(r: float) -> float:
    """The density where `antipodal_loss` meets `dropped_loss`: 4r/(2 + 5r) for r ≤ 1, 4/(5 + 2r) above."""
    return 4 * r / (2 + 5 * r) if r <= 1 else 4 / (5 + 2 * r)


def expected_loss(
    W: Float[Tensor, "instance d 2"],
    b: Float[Tensor, "instance 2"],
    p: Float[Tensor, " instance"],
    importance: Float[Tensor, "instance 2"],
    *,
    nodes: int = 48,
) -> Float[Tensor, " instance"]:
    """E Σ_i I_i (x_i − x'_i)² over two independent features, in float64: each has an atom at 0, the rest by quadrature.

    Args:
        W, b: the networks.
        p: the density of each.
        importance: I of each.
        nodes: nodes of the Gauss–Legendre rule on [0, 1]; as the loss has kinks, the error falls like nodes⁻².
    """
    x, weight = np.polynomial.legendre.leggauss(nodes)
    values = torch.tensor([0.0, *((x + 1) / 2)], dtype=torch.float64)
    chance = torch.cat([1 - p.double()[:, None], p.double()[:, None] * torch.from_numpy(weight / 2)], dim=1)
    grid = torch.cartesian_prod(values, values)
    losses: list[Tensor] = []
    for i in range(len(W)):
        out = ReluOutput(W[i], b[i]).double()(grid).detach()
        error = ((grid - out).square() * importance[i].double()).sum(-1).reshape(nodes + 1, nodes + 1)
        losses.append(chance[i] @ error @ chance[i])
    return torch.stack(losses)


def line_at(values: Float[np.ndarray, " n"], at: float, *, half: float = 0.005, flank: float = 0.0125) -> bool:
    """Whether values crowd at a number: at least ten within `half` of it, and twice as many as that near each flank."""
    here, left, right = (int((np.abs(values - x) <= half).sum()) for x in (at, at - flank, at + flank))
    return here >= 10 and here >= 2 * left and here >= 2 * right


def sticky(values: Float[np.ndarray, " n"], others: Sequence[float] = (3 / 4, 2 / 3, 2 / 5, 3 / 8)) -> bool:
    """Whether per-feature dimensionalities have lines at ½ and at one or more of the others."""
    return line_at(values, 1 / 2) and any(line_at(values, at) for at in others)


def vanished_first(represented: Sequence[bool]) -> int:
    """Number of features left out though a less important one is represented; 0 where those kept are a prefix."""
    kept = [i for i, is_kept in enumerate(represented) if is_kept]
    return kept[-1] + 1 - len(kept) if kept else 0
