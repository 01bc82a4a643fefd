"""What the toy model of superposition is held against."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.zoo.superposition.exact import best_polygon
from polyseme.zoo.superposition.networks import Stack, SuperpositionConfig, train
from polyseme.zoo.tools.checks import Check, Source, check, mean_interval, not_measured, share_interval
from polyseme.zoo.tools.geometry import dimensionality, gaps

ELHAGE = "Elhage et al. 2022, Toy Models of Superposition (arXiv 2209.10652)"
SCHERLIS = "Scherlis et al. 2022, Polysemanticity and Capacity in Neural Networks (arXiv 2210.01892), eq. 1"
PLAIN: Mapping[str, Any] = {"density": (0.05,), "importance": (1.0,), "correlation": "none", "basis": "free"}


def variant(config: SuperpositionConfig, most_seeds: int | None = None, **fixed: Any) -> SuperpositionConfig:
    """The config of an experiment: what defines it, and of the user's config the rest; checked like any other."""
    given = {name: getattr(config, name) for name in SuperpositionConfig.model_fields}
    return SuperpositionConfig.model_validate({**given, "seeds": config.seeds[:most_seeds], **PLAIN, **fixed})


def share_check(
    name: str, hits: Bool[Tensor, " network"], *, source: Source = "proposed", note: str = "", why: str = ""
) -> Check:
    """At least nine networks in ten."""
    if why:
        return not_measured(name, reference="≥ 0.90", source=source, paper=ELHAGE, why=why)
    value, interval = share_interval(int(hits.sum()), len(hits))
    return check(
        name,
        value,
        reference="≥ 0.90",
        source=source,
        paper=ELHAGE,
        at_least=0.9,
        interval=interval,
        n=len(hits),
        note=note,
    )


def mean_check(
    name: str,
    values: Float[Tensor, " network"],
    target: float,
    tolerance: float,
    *,
    digits: int = 3,
    why: str = "",
) -> Check:
    """A mean over networks within a tolerance of a computed one."""
    reference = f"{target:.{digits}f} ± {tolerance:g}"
    if why:
        return not_measured(name, reference=reference, source="computed", paper=ELHAGE, why=why)
    value, interval = mean_interval(values.double().numpy())
    return check(
        name,
        value,
        reference=reference,
        source="computed",
        paper=ELHAGE,
        at_least=target - tolerance,
        at_most=target + tolerance,
        interval=interval,
        n=len(values),
        note=f"{float(values.min()):.3f} to {float(values.max()):.3f}",
    )


def pentagon(config: SuperpositionConfig, reporter: Reporter) -> Sequence[Check]:
    """Five features in two dimensions at p = .05 end as a regular pentagon."""
    stack = train(variant(config, n_features=5, n_hidden=2), reporter)
    angle, D, why = gaps(stack.vectors), dimensionality(stack.vectors), stack.untrained
    return [
        share_check(
            "networks whose five gaps are all 72° ± 4°",
            ((angle - 72).abs() <= 4).all(-1),
            note=f"gaps {float(angle.min()):.1f}° to {float(angle.max()):.1f}°",
            why=why,
        ),
        share_check(
            "networks whose five dimensionalities are all 0.40 ± 0.015",
            ((D - 0.4).abs() <= 0.015).all(-1),
            note=f"D {float(D.min()):.3f} to {float(D.max()):.3f}",
            why=why,
        ),
        mean_check(
            "mean norm of a feature's vector", stack.vectors.norm(dim=-1).mean(-1), 1.13, 0.02, digits=2, why=why
        ),
        mean_check("mean bias", stack.b.mean(-1), -0.245, 0.02, why=why),
    ]


POLYGONS = {5: (1.17046, -0.28230, 0.0158256), 6: (1.32053, -0.61814, 0.0481924), 7: (1.44839, -0.96691, 0.0832712)}


def polygons(_config: SuperpositionConfig, _reporter: Reporter) -> Sequence[Check]:
    """The best k-gons of one length and one bias, where one feature is on at a time, solved for in float64."""
    lines: list[Check] = []
    for k, expected in POLYGONS.items():
        for what, value, reference in zip(("length", "bias", "loss"), best_polygon(k), expected, strict=True):
            slack = 1e-4 * (reference if what == "loss" else 1)
            lines.append(
                check(
                    f"{what} of the best {k}-gon",
                    value,
                    reference=f"{reference:.7g} ± {slack:.1g}",
                    source="derived",
                    paper=ELHAGE,
                    at_least=reference - slack,
                    at_most=reference + slack,
                    n=1,
                    n_unit="solutions",
                )
            )
    return lines


def capacities(config: SuperpositionConfig, reporter: Reporter) -> Sequence[Check]:
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
    common: dict[str, Any] = {"source": "derived", "paper": SCHERLIS, "n": n, "n_unit": "matrices"}
    return [
        check("largest |capacity − dimensionality|", apart, reference="≤ 1e-12", at_most=1e-12, **common),
        check("largest Σ capacity − m", excess, reference="≤ 0 (to 1e-9 of rounding)", at_most=1e-9, **common),
    ]


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


def correlation(config: SuperpositionConfig, reporter: Reporter) -> Sequence[Check]:
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
    return [
        _of_trained(
            "networks with both correlated pairs orthogonal, |cos| < 0.1",
            (within.abs() < 0.1).all(-1),
            together,
            note=f"cos {float(within.min()):.3f} to {float(within.max()):.3f}",
        ),
        _of_trained(
            "networks with both anticorrelated pairs antipodal, cos < −0.9",
            antipodal,
            apart,
            note="the others are in a local minimum, in which features of different pairs are antipodal: by chance two "
            f"networks in three would be; mean loss {float(apart.loss[antipodal].mean()):.1e} against "
            f"{float(apart.loss[~antipodal].mean()):.1e}",
        ),
        check(
            "the lowest-loss network of each density has both anticorrelated pairs antipodal, share",
            float(antipodal[best].float().mean()),
            reference="1",
            source="published",
            paper=ELHAGE,
            at_least=1,
            n=len(best),
            n_unit="densities",
        ),
        _of_trained(
            "networks with three correlated pairs, each side by side, or each collapsed to one direction",
            side_by_side | collapsed,
            three,
            source="published",
            note=f"{int(side_by_side.sum())} side by side, {int(collapsed.sum())} collapsed of {len(three)}; "
            f"cos {float(crowded.min()):.3f} to {float(crowded.max()):.3f}",
        ),
    ]


def _of_trained(
    name: str, hits: Bool[Tensor, " network"], stack: Stack, *, note: str, source: Source = "proposed"
) -> Check:
    """A share of the networks that trained; not measured where those are fewer than half."""
    return share_check(name, hits[stack.trained], source=source, note=note + stack.left_out, why=stack.unmeasured)


def _partners(vectors: Float[Tensor, "network feature d"]) -> Float[Tensor, "network pair"]:
    """Cosine of features 2i and 2i + 1."""
    return torch.nn.functional.cosine_similarity(vectors[:, ::2], vectors[:, 1::2], dim=-1)


def _neighbours(vectors: Float[Tensor, "network feature 2"]) -> Bool[Tensor, "network pair"]:
    """Whether features 2i and 2i + 1 follow each other round the plane."""
    rank = torch.atan2(vectors[..., 1], vectors[..., 0]).argsort(-1).argsort(-1)
    steps = (rank[:, ::2] - rank[:, 1::2]).abs()
    return (steps == 1) | (steps == vectors.shape[1] - 1)
