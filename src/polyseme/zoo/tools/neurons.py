"""How many features a neuron answers to."""

import torch
from jaxtyping import Float
from torch import Tensor

MONOSEMANTIC = 0.9
"""A neuron is called monosemantic where one feature holds at least this share of it."""


def largest_share(weights: Float[Tensor, "*batch neuron feature"]) -> Float[Tensor, "*batch neuron"]:
    """max_j w_j² / Σ_j w_j²: a neuron's activity due to the feature it hears most, as a share; 0 if it hears none.

    For features of one distribution that are rarely on together, it is the share of the mean square activation that
    comes from one feature.
    """
    squared = weights.square()
    total = squared.sum(-1)
    largest = squared.amax(-1)
    return torch.where(total > 0, largest / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def halves(x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch half"]:
    """The positive parts of all features, then the negative ones: what neurons without a bias can tell of each."""
    return torch.relu(torch.cat([x, -x], dim=-1))


def half_names(n_features: int) -> tuple[str, ...]:
    """Names of `halves`: `+x0`, …, `-x0`, …"""
    return tuple(f"{sign}x{j}" for sign in "+-" for j in range(n_features))


def monosemantic(weights: Float[Tensor, "*batch neuron feature"]) -> Float[Tensor, " *batch"]:
    """Share of the neurons that are monosemantic; one that hears nothing is not."""
    return (largest_share(weights) >= MONOSEMANTIC).to(weights.dtype).mean(-1)
