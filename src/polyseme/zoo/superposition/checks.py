"""Checks of the toy model of superposition."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.zoo.superposition.exact import best_polygon
from polyseme.zoo.superposition.toy import Networks, SuperpositionToy, train
from polyseme.zoo.tools.checks import Check, Line, Value, fill, mean, share
from polyseme.zoo.tools.geometry import dimensionality, gaps

SCHERLIS = "Scherlis et al. 2022, Polysemanticity and Capacity in Neural Networks (arXiv 2210.01892), eq. 1"
PLAIN: Mapping[str, Any] = {"density": (0.05,), "importance": (1.0,), "correlation": "none", "basis": "free"}
PENTAGON = (
    Line("networks whose five gaps are all 72° ± 4°", "≥ 0.90", at_least=0.9),
    Line("networks whose five dimensionalities are all 0.40 ± 0.015", "≥ 0.90", at_least=0.9),
    Line("mean norm of a feature's vector", "1.13 ± 0.02", target=1.13, within=0.02, source="computed"),
    Line("mean bias", "-0.245 ± 0.02", target=-0.245, within=0.02, source="computed"),
)
POLYGON = Line("{what} of the best {k}-gon", "{target:.7g} ± {slack:.1g}", source="derived", n_unit="solutions")
POLYGONS = {5: (1.17046, -0.28230, 0.0158256), 6: (1.32053, -0.61814, 0.0481924), 7: (1.44839, -0.96691, 0.0832712)}
"""Length, bias and loss of the best polygons."""
_MATRICES: dict[str, Any] = {"source": "derived", "paper": SCHERLIS, "n_unit": "matrices"}
CAPACITY = (
    Line("largest |capacity − dimensionality|", "≤ 1e-12", at_most=1e-12, **_MATRICES),
    Line("largest Σ capacity − m", "≤ 0 (to 1e-9 of rounding)", at_most=1e-9, **_MATRICES),
)
PAIRS = (
    Line("networks with both correlated pairs orthogonal, |cos| < 0.1", "≥ 0.90", at_least=0.9),
    Line("networks with both anticorrelated pairs antipodal, cos < −0.9", "≥ 0.90", at_least=0.9),
    Line(
        "the lowest-loss network of each density has both anticorrelated pairs antipodal, share",
        "1",
        at_least=1,
        source="published",
        n_unit="densities",
    ),
    Line(
        "networks with three correlated pairs, each side by side, or each collapsed to one direction",
        "≥ 0.90",
        at_least=0.9,
        source="published",
    ),
)


def variant(config: SuperpositionToy, most_seeds: int | None = None, **fixed: Any) -> SuperpositionToy:
    """The config of an experiment: what defines it, and of the user's config the rest; checked like any other."""
    given = {name: getattr(config, name) for name in SuperpositionToy.model_fields}
    return SuperpositionToy.model_validate({**given, "seeds": config.seeds[:most_seeds], **PLAIN, **fixed})


def spread(values: Float[Tensor, " network"]) -> Value:
    """A mean over networks, its note the range."""
    return mean(values, f"{float(values.min()):.3f} to {float(values.max()):.3f}")


def pentagon(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """Five features in two dimensions at p = .05 end as a regular pentagon."""
    stack = train(variant(config, n_features=5, n_hidden=2), reporter)
    angle, D = gaps(stack.vectors), dimensionality(stack.vectors)
    angles = f"gaps {float(angle.min()):.1f}° to {float(angle.max()):.1f}°"
    found = (
        share(((angle - 72).abs() <= 4).all(-1), note=angles),
        share(((D - 0.4).abs() <= 0.015).all(-1), note=f"D {float(D.min()):.3f} to {float(D.max()):.3f}"),
        spread(stack.vectors.norm(dim=-1).mean(-1)),
        spread(stack.b.mean(-1)),
    )
    return fill(PENTAGON, found, stack.untrained)


def polygons(_config: SuperpositionToy, _reporter: Reporter) -> list[Check]:
    """The best k-gons of one length and one bias, where one feature is on at a time, solved for in float64."""
    checks: list[Check] = []
    for k, expected in POLYGONS.items():
        for what, value, target in zip(("length", "bias", "loss"), best_polygon(k), expected, strict=True):
            slack = 1e-4 * (target if what == "loss" else 1)
            checks.append(replace(POLYGON, within=slack).fill(Value(value), target=target, what=what, k=k, slack=slack))
    return checks


def capacities(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """Capacity, from the Jacobian of x → WᵀWx, is dimensionality; its sum is at most the number of dimensions."""
    stack = train(variant(config, **{name: getattr(config, name) for name in PLAIN}), reporter)
    drawn = [
        torch.randn(64, n, m, generator=make_generator(config.seeds[0], "capacity", n, m), dtype=torch.float64)
        for n, m in ((config.n_features, config.n_hidden), (20, 5), (50, 20))
    ]
    sets = [*drawn, stack.vectors.double()]
    apart, excess = 0.0, -math.inf
    for vectors in sets:
        capacity = _capacity(vectors)
        for other in (dimensionality(vectors), _dimensionality_as_printed(vectors)):
            apart = max(apart, float((capacity - other).abs().max()))
        excess = max(excess, float((capacity.sum(-1) - vectors.shape[-1]).max()))
    n = sum(len(vectors) for vectors in sets)
    return fill(CAPACITY, (Value(apart, n), Value(excess, n)))


def _dimensionality_as_printed(vectors: Float[Tensor, "matrix feature d"]) -> Float[Tensor, "matrix feature"]:
    """D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)², by way of the unit vectors Ŵ."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    return vectors.square().sum(-1) / (unit @ vectors.mT).square().sum(-1)


def _capacity(vectors: Float[Tensor, "matrix feature d"]) -> Float[Tensor, "matrix feature"]:
    """C_i = (∂f_i/∂x_i)² / Σ_j (∂f_i/∂x_j)² of f(x) = WᵀWx, by automatic differentiation."""

    def jacobian(of: Tensor) -> Tensor:
        def f(x: Tensor) -> Tensor:
            return of @ (of.mT @ x)

        return torch.func.jacrev(f)(torch.zeros(of.shape[0], dtype=of.dtype))

    J = torch.stack([jacobian(of) for of in vectors])
    return J.diagonal(dim1=-2, dim2=-1).square() / J.square().sum(-1)


def correlation(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """Two correlated pairs are orthogonal in each, two anticorrelated antipodal; three correlated share a plane."""
    spaced = np.linspace(0.5, 1, 5)
    few, many = tuple(400.0**-spaced), tuple(10.0**-spaced)
    pairs: dict[str, Any] = {"n_features": 4, "n_hidden": 2}
    together = train(variant(config, 8, **pairs, density=few, correlation="correlated"), reporter)
    apart = train(variant(config, 8, **pairs, density=many, correlation="anticorrelated"), reporter)
    three = train(variant(config, 8, **pairs | {"n_features": 6}, density=few, correlation="correlated"), reporter)
    within, opposed, crowded = (_partners(stack.vectors) for stack in (together, apart, three))
    antipodal = (opposed < -0.9).all(-1)
    collapsed = (crowded > 0.9).all(-1)
    side_by_side = _neighbours(three.vectors).all(-1) & (crowded > 0).all(-1)
    best = [int(torch.where(apart.densities == p, apart.loss, torch.inf).argmin()) for p in apart.densities.unique()]
    pairs_orthogonal, pairs_antipodal, best_antipodal, three_pairs = PAIRS
    together_cos, crowded_cos = (f"cos {float(of.min()):.3f} to {float(of.max()):.3f}" for of in (within, crowded))
    local = (
        "the others are in a local minimum, in which features of different pairs are antipodal: by chance two networks "
        f"in three would be; mean loss {float(apart.loss[antipodal].mean()):.1e} against "
        f"{float(apart.loss[~antipodal].mean()):.1e}"
    )
    crowd = f"{int(side_by_side.sum())} side by side, {int(collapsed.sum())} collapsed of {len(three)}; {crowded_cos}"
    return [
        _of_trained(pairs_orthogonal, (within.abs() < 0.1).all(-1), together, together_cos),
        _of_trained(pairs_antipodal, antipodal, apart, local),
        best_antipodal.fill(Value(float(antipodal[best].float().mean()), len(best))),
        _of_trained(three_pairs, side_by_side | collapsed, three, crowd),
    ]


def _of_trained(line: Line, hits: Bool[Tensor, " network"], stack: Networks, note: str) -> Check:
    """A share of the networks that trained; not measured where those are fewer than half."""
    return line.fill(share(hits[stack.trained], note=note + stack.left_out), stack.unmeasured)


def _partners(vectors: Float[Tensor, "network feature d"]) -> Float[Tensor, "network pair"]:
    """Cosine of features 2i and 2i + 1."""
    return torch.nn.functional.cosine_similarity(vectors[:, ::2], vectors[:, 1::2], dim=-1)


def _neighbours(vectors: Float[Tensor, "network feature 2"]) -> Bool[Tensor, "network pair"]:
    """Whether features 2i and 2i + 1 follow each other round the plane."""
    rank = torch.atan2(vectors[..., 1], vectors[..., 0]).argsort(-1).argsort(-1)
    steps = (rank[:, ::2] - rank[:, 1::2]).abs()
    return (steps == 1) | (steps == vectors.shape[1] - 1)
