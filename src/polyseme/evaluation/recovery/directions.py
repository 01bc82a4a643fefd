"""How well directions match the true ones; firing only decides which latents are dead."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.evaluation.stability import random_directions

COVERED = 0.9
"""A feature is covered by a living latent of at least this cosine."""
OWN = 0.7
"""From this cosine up a latent counts as a copy of a feature."""
RELATED = 0.05
"""Features whose being on correlates less than this are unrelated, for hedging."""

Cosines = Float[np.ndarray, "n_latents feature"]


def cosines(
    directions: Float[Tensor, "n_latents d"],
    truth: Float[Tensor, "feature d"],
    *,
    alive: Bool[np.ndarray, " n_latents"] | None = None,
) -> Cosines:
    """Cosine of every latent's direction with every feature's; 0 for the dead and for zero directions."""
    a = torch.nn.functional.normalize(directions.detach().cpu().double(), dim=1).numpy()
    b = torch.nn.functional.normalize(truth.detach().cpu().double(), dim=1).numpy()
    if alive is not None:
        a = a * np.asarray(alive)[:, None]
    return np.clip(a @ b.T, -1.0, 1.0)


def random_cosines(n_latents: int, truth: Float[Tensor, "feature d"], *, seed: int) -> Cosines:
    """`cosines` of as many random directions: the chance level of every metric of directions."""
    return cosines(random_directions(n_latents, truth.shape[1], seed=seed), truth.cpu())


def nearest_cosine(of: Cosines) -> Float[np.ndarray, " feature"]:
    """Each feature's largest cosine with a latent, signed: a latent that writes the opposite is another latent.

    Its mean is MMCS, the mean max cosine similarity (Sharkey et al. 2022; Braun et al. 2025, appendix).
    """
    return of.max(axis=0)


def length_ratio(
    of: Cosines, lengths: Float[np.ndarray, "n_latents feature"], truth: Float[np.ndarray, " feature"]
) -> Float[np.ndarray, " feature"]:
    """‖direction‖ of each feature's nearest latent over ‖feature‖; its mean is ML2R (Braun et al. 2025, appendix).

    Args:
        of: cosines; the nearest latent is that of the largest.
        lengths: lengths of the latents' directions, one for each feature where a latent's length depends on what it
            stands for.
        truth: lengths of the features' directions.
    """
    columns = np.arange(of.shape[1])
    return np.where(truth > 0, lengths[of.argmax(axis=0), columns] / np.where(truth > 0, truth, 1), np.nan)


def copies(of: Cosines) -> Int[np.ndarray, " feature"]:
    """How many latents have each feature for their nearest, at a cosine of at least `OWN`."""
    own = of.argmax(axis=1)
    return np.bincount(own[of.max(axis=1) >= OWN], minlength=of.shape[1])


def hedging(
    of: Cosines, truth: Float[Tensor, "feature d"], correlation: Float[np.ndarray, "feature feature"]
) -> Float[np.ndarray, " n_latents"]:
    """How far each latent's direction leans to the features that go with its own.

        hᵢ = Σⱼ ρⱼ cᵢⱼ / Σⱼ |ρⱼ|        cᵢⱼ = (⟨w, fⱼ⟩ − ⟨w, f⟩⟨f, fⱼ⟩) / (1 − ⟨f, fⱼ⟩²)

    over the features j whose being on correlates (|ρⱼ| ≥ 0.05) with that of the latent's own feature f, its nearest;
    cᵢⱼ is what the unit vector w has of fⱼ beyond what f has of it. 0 for a latent that is a feature, and on average
    for random directions, which know nothing of ρ; positive where correlated features are mixed in and anticorrelated
    ones subtracted. After Chanin et al. 2025, Feature hedging, whose cause this is; the measure is ours.

    Returns:
        NaN for the dead, for latents that resemble no feature (largest cosine under 0.5), and where nothing correlates.
    """
    units = torch.nn.functional.normalize(truth.detach().cpu().double(), dim=1).numpy()
    gram = np.clip(units @ units.T, -1.0, 1.0)
    own = of.argmax(axis=1)
    with_own = np.take_along_axis(of, own[:, None], 1)
    overlap = gram[own]
    left = 1 - overlap**2
    related = np.where((np.abs(correlation) >= RELATED) & ~np.eye(len(gram), dtype=bool), correlation, 0.0)[own]
    # A feature parallel to the own one cannot be distinguished from it.
    related = np.where(left > 1e-6, related, 0.0)
    component = (of - with_own * overlap) / np.where(left > 1e-6, left, 1)
    weight = np.abs(related).sum(axis=1)
    known = (with_own[:, 0] >= 0.5) & (weight > 0)
    return np.where(known, (related * component).sum(axis=1) / np.where(known, weight, 1), np.nan)
