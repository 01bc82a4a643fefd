"""SynthSAEBench's scores of latents: each latent beside the feature that its write direction is nearest to.

The feature is chosen by |cosine|, whatever fires; every latent counts, a dead one with 0. `firing` chooses by F1 and
leaves the dead out. Chanin & Garriga-Alonso 2026, SynthSAEBench, arXiv 2602.14687.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.evaluation.recovery.answers import Answers
from polyseme.evaluation.recovery.firing import Scores


def nearest_feature(
    directions: Float[Tensor, "n_latents d"], truth: Float[Tensor, "feature d"]
) -> Int[np.ndarray, " n_latents"]:
    """argmax_j |cos(wᵢ, fⱼ)|."""
    a, b = (torch.nn.functional.normalize(of.detach().cpu().double(), dim=1) for of in (directions, truth))
    return torch.cat([(part @ b.T).abs().argmax(1) for part in a.split(1024)]).numpy()


def first_of_its_feature(nearest: Int[np.ndarray, " n_latents"]) -> Bool[np.ndarray, " n_latents"]:
    """True for one latent of each distinct feature: the mean is the share of latents with a feature of their own."""
    first = np.zeros(len(nearest), bool)
    first[np.unique(nearest, return_index=True)[1]] = True
    return first


def nearest_scores(answers: Answers, nearest: Int[np.ndarray, " n_latents"], *, chance: bool = False) -> Scores:
    """Precision, recall and F1 of every latent as the detector of its nearest feature; 0 where there is no row for it.

    Args:
        answers: what fired.
        nearest: the feature of each latent.
        chance: expected values if the same firings were permuted over rows, instead of what was counted.
    """
    fired, occurred = answers.fired, answers.occurred[nearest]
    joint = fired * (occurred / answers.n_rows) if chance else answers.joint_with(nearest)
    return Scores(
        precision=joint / np.maximum(fired, 1),
        recall=joint / np.maximum(occurred, 1),
        f1=2 * joint / np.maximum(fired + occurred, 1),
    )
