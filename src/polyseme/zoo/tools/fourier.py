"""Fourier analysis over Z_p: which frequencies a network of modular addition uses, and how far it relies on them.

Nanda et al. 2023, section 5 (progress measures) and appendix C.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def basis(p: int) -> Float[Tensor, "p p"]:
    """Orthonormal rows: the constant, then cos and sin of every frequency 1 … (p − 1) / 2."""
    x = torch.arange(p, dtype=torch.float64)
    k = torch.arange(1, (p - 1) // 2 + 1, dtype=torch.float64)
    angle = 2 * torch.pi * torch.outer(k, x) / p
    waves = torch.stack([angle.cos(), angle.sin()], dim=1).reshape(p - 1, p) * (2 / p) ** 0.5
    return torch.cat([torch.full((1, p), p**-0.5, dtype=torch.float64), waves])


def power(table: Float[Tensor, "p column"]) -> Float[Tensor, " frequency"]:
    """Squared norm of the table in each frequency's cos and sin, over its first axis; the constant is left out."""
    parts = basis(len(table)) @ table.double()
    return parts[1:].square().sum(1).reshape(-1, 2).sum(1)


def key_frequencies(neuron_to_logit: Float[Tensor, "neuron p"]) -> Int[Tensor, " key"]:
    """Frequencies, from 1, that hold more than an even share of W_L = W_out W_U's squared norm, strongest first."""
    found = power(neuron_to_logit.T)
    order = found.argsort(descending=True)
    return order[: int((found > found.mean()).sum())] + 1


def residual(neuron_to_logit: Float[Tensor, "neuron p"], keys: Int[Tensor, " key"]) -> float:
    """Share of W_L's squared norm outside the cos and sin of `keys`; the constant counts as outside."""
    total = neuron_to_logit.double().square().sum()
    return float(1 - power(neuron_to_logit.T)[keys - 1].sum() / total)


def gini(values: Float[Tensor, " n"]) -> float:
    """Gini coefficient: 0 for equal values, near 1 for one that has all."""
    ordered = values.double().sort().values
    n = len(ordered)
    rank = torch.arange(1, n + 1, dtype=torch.float64)
    return float((2 * rank - n - 1) @ ordered / (n * ordered.sum()))


def sum_waves(p: int, keys: Int[Tensor, " key"]) -> Float[Tensor, "wave pair"]:
    """Orthonormal rows over the pairs a p + b: cos and sin of 2π k (a + b) / p for every key."""
    if len(keys) == 0:
        return torch.zeros(0, p * p, dtype=torch.float64)
    pair = torch.arange(p * p)
    total = ((pair // p + pair % p) % p).double()
    angle = 2 * torch.pi * torch.outer(keys.double(), total) / p
    return torch.cat([angle.cos(), angle.sin()]) * (2 / p**2) ** 0.5


def restricted_logits(logits: Float[Tensor, "pair p"], keys: Int[Tensor, " key"]) -> Float[Tensor, "pair p"]:
    """Only the constant over pairs and the waves of a + b at the key frequencies."""
    waves, table = sum_waves(logits.shape[1], keys), logits.double()
    return table.mean(0) + waves.T @ (waves @ table)


def excluded_logits(logits: Float[Tensor, "pair p"], keys: Int[Tensor, " key"]) -> Float[Tensor, "pair p"]:
    """Everything but the waves of a + b at the key frequencies."""
    waves, table = sum_waves(logits.shape[1], keys), logits.double()
    return table - waves.T @ (waves @ table)


def loss_on(logits: Float[Tensor, "pair p"], pairs: Tensor) -> float:
    """Mean cross-entropy over the chosen pairs, nats."""
    p = logits.shape[1]
    pair = torch.arange(p * p)
    target = (pair // p + pair % p) % p
    return float(cross_entropy(logits.double()[pairs], target[pairs]))


def single_frequency(neurons: Float[Tensor, "pair neuron"], p: int) -> Float[Tensor, "neuron frequency"]:
    """Share of each neuron's variance over all pairs that one frequency explains; 0 for a constant neuron.

    A frequency's terms are cos and sin of a, of b, and their four products.
    """
    F = basis(p)
    table = neurons.double().T.reshape(-1, p, p)
    coefficients = F @ table @ F.T
    total = coefficients.square().sum((1, 2)) - coefficients[:, 0, 0].square()
    n = (p - 1) // 2
    of_a = coefficients[:, 1:, 0].square().reshape(-1, n, 2).sum(-1)
    of_b = coefficients[:, 0, 1:].square().reshape(-1, n, 2).sum(-1)
    both = coefficients[:, 1:, 1:].square().reshape(-1, n, 2, n, 2).sum((2, 4)).diagonal(dim1=1, dim2=2)
    return torch.where(total[:, None] > 1e-12, (of_a + of_b + both) / total[:, None].clamp(min=1e-300), 0.0)


def wave_explained(neurons: Float[Tensor, "pair neuron"], neuron_to_logit: Float[Tensor, "neuron p"], k: int) -> float:
    """Share of variance of the neurons along W_L's directions of frequency k that cos and sin of k (a + b) explain.

    W_L ≈ Σ_k u_k cos(w_k c) + v_k sin(w_k c); u_k · neurons should be cos(w_k (a + b)), and v_k · neurons its sine.
    """
    p = neuron_to_logit.shape[1]
    directions = (basis(p)[2 * k - 1 : 2 * k + 1] @ neuron_to_logit.double().T).T
    along = neurons.double() @ directions
    along = along - along.mean(0)
    waves = sum_waves(p, torch.tensor([k]))
    return float((waves @ along).square().sum() / along.square().sum())
