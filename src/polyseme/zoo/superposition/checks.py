"""Checks of the toy model of superposition, and what dictionaries and matrix factorisations recover from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.activations import TensorSource
from polyseme.core.binding import Binding
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.dictionaries import ReLUConfig
from polyseme.evaluation.recovery import cosines, nearest_cosine
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.superposition.exact import best_polygon
from polyseme.zoo.superposition.toy import REPRESENTED, Networks, SuperpositionToy, features, train
from polyseme.zoo.tools.checks import NOTHING, Check, Line, Value, fill, mean, share
from polyseme.zoo.tools.geometry import dimensionality, gaps
from polyseme.zoo.tools.stack import Draws

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
DICTIONARY = Line("MMCS of {n} tied ReLU latents", "≥ 0.95", at_least=0.95)
FACTORISED = Line(
    "most features with cosine ≥ 0.95 to one of {how}'s {m} directions", "≤ {m}, the rank", source="derived"
)


def variant(config: SuperpositionToy, most_seeds: int | None = None, **fixed: Any) -> SuperpositionToy:
    """The config of an experiment: the fields that define it, and the user's for the others; it is validated."""
    given = {name: getattr(config, name) for name in SuperpositionToy.model_fields}
    return SuperpositionToy.model_validate({**given, "seeds": config.seeds[:most_seeds], **PLAIN, **fixed})


def spread(values: Float[Tensor, " network"]) -> Value:
    """A mean over networks, with the range as its note."""
    return mean(values, f"{float(values.min()):.3f} to {float(values.max()):.3f}")


def pentagon(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """Five features in two dimensions at p = 0.05 end as a regular pentagon."""
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
    """The best k-gons of one length and one bias where one feature is on at a time, computed in float64."""
    checks: list[Check] = []
    for k, expected in POLYGONS.items():
        for what, value, target in zip(("length", "bias", "loss"), best_polygon(k), expected, strict=True):
            slack = 1e-4 * (target if what == "loss" else 1)
            checks.append(replace(POLYGON, within=slack).fill(Value(value), target=target, what=what, k=k, slack=slack))
    return checks


def capacities(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """Capacity, by the Jacobian of x → WᵀWx, equals dimensionality; its sum is at most the number of dimensions."""
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
    """D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)², computed from the unit vectors Ŵ."""
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
    """Features of a correlated pair are orthogonal, of an anticorrelated one antipodal; three pairs share a plane."""
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
    """A share of the networks that trained; not measured where fewer than half did."""
    return line.fill(share(hits[stack.trained], note=note + stack.left_out), stack.unmeasured)


def _partners(vectors: Float[Tensor, "network feature d"]) -> Float[Tensor, "network pair"]:
    """Cosine of features 2i and 2i + 1."""
    return torch.nn.functional.cosine_similarity(vectors[:, ::2], vectors[:, 1::2], dim=-1)


def _neighbours(vectors: Float[Tensor, "network feature 2"]) -> Bool[Tensor, "network pair"]:
    """Whether features 2i and 2i + 1 are neighbours in the plane."""
    rank = torch.atan2(vectors[..., 1], vectors[..., 0]).argsort(-1).argsort(-1)
    steps = (rank[:, ::2] - rank[:, 1::2]).abs()
    return (steps == 1) | (steps == vectors.shape[1] - 1)


def recovery(config: SuperpositionToy, reporter: Reporter) -> list[Check]:
    """n tied latents find the features in the hidden layer; factorisations of rank m cannot."""
    chosen = variant(config, 8, density=config.density[:1])
    stack = train(chosen, reporter)
    sites = hidden_vectors(stack, 50_000)
    others = [factorised(h, chosen.n_hidden, seed=seed) for h, seed in zip(sites, stack.grid.seeds, strict=True)]
    found = {
        "dictionary": dictionaries(stack, sites, reporter),
        **{how: [of[how] for of in others] for how in ("SVD", "NMF")},
    }
    scores: dict[str, Tensor] = {}
    recovered: dict[str, Tensor] = {}
    for how, directions in found.items():
        nearest = [
            torch.from_numpy(nearest_cosine(cosines(rows, vectors[vectors.norm(dim=1) > REPRESENTED])))
            for rows, vectors in zip(directions, stack.vectors, strict=True)
        ]
        scores[how] = torch.stack([of.mean() for of in nearest])
        recovered[how] = torch.stack([(of >= 0.95).sum() for of in nearest])
    n, least = len(stack), f"least {float(scores['dictionary'].min()):.3f}"
    words: dict[str, Any] = {"n": chosen.n_features, "m": chosen.n_hidden}
    if stack.untrained:
        return [DICTIONARY.fill(NOTHING, stack.untrained, **words)]
    checks = [DICTIONARY.fill(mean(scores["dictionary"], least), **words)]
    for how in ("SVD", "NMF"):
        most = float(recovered[how].max())
        found = Value(most, n, note=f"MMCS {mean(scores[how]).shown('.3f')}", holds=most <= chosen.n_hidden)
        checks.append(FACTORISED.fill(found, how=how, **words))
    return checks


def hidden_vectors(stack: Networks, n: int) -> list[Tensor]:
    """The hidden layer of every network, `[row, d]`, on rows with a feature on; it is 0 on the others."""
    draws = Draws([derive_seed(seed, "rows") for seed in stack.grid.seeds], "recovery")
    x = features(stack.config, draws, stack.densities, n)
    return [rows[rows.any(1)] @ W.T for rows, W in zip(x, stack.W, strict=True)]


def dictionaries(
    stack: Networks, sites: Sequence[Float[Tensor, "_ d"]], reporter: Reporter, *, n_tokens: int = 500_000
) -> list[Tensor]:
    """Directions of n tied ReLU latents trained on each network's vectors."""
    built = ReLUConfig(n_latents=stack.config.n_features, tie_weights=True, coefficient=0.3)
    rows = min(len(h) for h in sites)
    named = {f"network {i}": h[:rows] for i, h in enumerate(sites)}
    jobs = [
        Job(name, built.build(stack.config.n_hidden, seed=seed), Binding.at(name), seed)
        for name, of_network in zip(named, stack.grid.seeds, strict=True)
        for seed in [derive_seed(of_network, "dictionary")]
    ]
    config = TrainingConfig(n_tokens=n_tokens, batch_size=512, lr=1e-2)
    fit(jobs, TensorSource(named, seed=jobs[0].seed), config, reporter=reporter)
    return [job.dictionary.write_directions() for job in jobs]


def factorised(h: Float[Tensor, "row d"], rank: int, *, seed: int) -> dict[str, Tensor]:
    """The directions of factorisations of the hidden layer of at most its own rank, `[component, d]` each."""
    return {"SVD": _svd(h), "NMF": _nmf(h, rank, make_generator(seed, "factorisation"))}


def _svd(h: Float[Tensor, "row d"]) -> Float[Tensor, "component d"]:
    """Right singular vectors, each turned to the side where most of its variance lies."""
    Vh = torch.linalg.svd(h, full_matrices=False).Vh
    along = h @ Vh.T
    positive, negative = along.clamp(min=0).square().sum(0), along.clamp(max=0).square().sum(0)
    return Vh * torch.where(positive >= negative, 1.0, -1.0)[:, None]


def _nmf(h: Float[Tensor, "row d"], rank: int, generator: torch.Generator) -> Float[Tensor, "component d"]:
    """Components of the factorisation h − min h ≈ AB, A, B ≥ 0, by 200 multiplicative updates (Lee & Seung 2001)."""
    V = h - h.amin(0)
    a, b = (torch.rand(shape, generator=generator) + 0.1 for shape in ((len(h), rank), (rank, h.shape[1])))
    for _ in range(200):
        a = a * (V @ b.T) / (a @ (b @ b.T)).clamp(min=1e-12)
        b = b * (a.T @ V) / ((a.T @ a) @ b).clamp(min=1e-12)
    return b
