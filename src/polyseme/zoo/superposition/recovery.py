"""What a dictionary must recover from the toy model of superposition, and what a matrix factorisation cannot."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations import TensorSource
from polyseme.core.binding import Binding
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.dictionaries import ReLUConfig
from polyseme.evaluation.recovery import cosines, nearest_cosine
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.superposition.checks import variant
from polyseme.zoo.superposition.toy import REPRESENTED, Networks, SuperpositionToy, features, train
from polyseme.zoo.tools.checks import NOTHING, Check, Line, Value, mean
from polyseme.zoo.tools.stack import Draws

DICTIONARY = Line("MMCS of {n} tied ReLU latents", "≥ 0.95", at_least=0.95)
FACTORISED = Line(
    "most features with cosine ≥ .95 to one of {how}'s {m} directions", "≤ {m}, the rank", source="derived"
)


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
    """The hidden layer of every network, `[row, d]`, on rows with a feature on: the others are all at 0."""
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
