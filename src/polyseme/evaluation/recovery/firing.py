"""Do latents fire when their features are on: precision, recall, F1, absorption and size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from polyseme.evaluation.recovery.answers import Answers, FeatureTruth


@dataclass(frozen=True)
class Scores:
    """Precision P(feature on | latent active), recall P(latent active | feature on), and their harmonic mean.

    NaN for a unit that was never on; 0 for a feature whose rows no latent shares.
    """

    precision: Float[np.ndarray, " unit"]
    recall: Float[np.ndarray, " unit"]
    f1: Float[np.ndarray, " unit"]


def feature_scores(answers: Answers) -> Scores:
    """Each feature by its own latent: the one of the highest F1."""
    return _scores(answers, np.arange(len(answers.occurred)), answers.f1.argmax(axis=1), answers.occurred)


def latent_scores(answers: Answers) -> Scores:
    """Each living latent by its own feature: the one of the highest F1."""
    return _scores(answers, answers.f1.argmax(axis=0), np.arange(len(answers.fired)), answers.fired)


def _scores(
    answers: Answers,
    feature: Int[np.ndarray, " unit"],
    latent: Int[np.ndarray, " unit"],
    on: Int[np.ndarray, " unit"],
) -> Scores:
    joint, fired, occurred = answers.joint[feature, latent], answers.fired[latent], answers.occurred[feature]
    values = (joint / np.maximum(fired, 1), joint / np.maximum(occurred, 1), answers.f1[feature, latent])
    return Scores(*(np.where(on > 0, value, np.nan) for value in values))


def chance_f1(answers: Answers, axis: int) -> float:
    """Mean F1 of the best partner if latents fired as often as they do but independently of the features.

    Expected joint rows in place of the counted ones: a latent that always fires has an F1 of 2p / (1 + p) with a
    feature on with probability p.

    Args:
        answers: for how often each is on.
        axis: 1 for features by their best latent, 0 for latents by their best feature.
    """
    occurred, fired = answers.occurred.astype(np.float64), answers.fired.astype(np.float64)
    expected = 2 * np.outer(occurred, fired) / answers.n_rows
    f1 = expected / np.maximum(occurred[:, None] + fired, 1)
    best = f1.max(axis=axis)[(occurred if axis == 1 else fired) > 0]
    return float(best.mean()) if len(best) else float("nan")


@dataclass(frozen=True)
class Absorptions:
    """One entry for each child whose parent and itself have a latent of their own.

    Attributes:
        depth: the child's ancestors, 1 for a child of a root.
        excess: P(parent's latent silent, child's active | child on) − P(parent's silent | parent on, no child on) ×
            P(child's active | child on): the absorbed share beyond what a careless parent's latent would show.
        absorbed: the first term.
    """

    depth: Int[np.ndarray, " child"]
    excess: Float[np.ndarray, " child"]
    absorbed: Float[np.ndarray, " child"]


def absorption(answers: Answers, truth: FeatureTruth) -> Absorptions:
    """Where a child's latent speaks for its parent as well, so that the parent's own is silent.

    The parent is on whenever the child is. Chanin et al. 2024, A is for absorption, infer the parent from a probe and
    the absorbing latent from its effect; here both are known. Without a child-free row of the parent there is no
    baseline and no entry.
    """
    parents, own = list(truth.parents or []), answers.own_latent
    children: dict[int, list[int]] = {}
    for child, parent in enumerate(parents):
        if parent >= 0:
            children.setdefault(parent, []).append(child)
    with_child = {parent: np.max([answers.feature_on(c) for c in of], axis=0) for parent, of in children.items()}
    rows: list[tuple[int, float, float]] = []
    for child, parent in enumerate(parents):
        if parent < 0 or own[child] < 0 or own[parent] < 0:
            continue
        on = answers.feature_on(child) == 1
        silent = answers.latent_on(int(own[parent])) == 0
        active = answers.latent_on(int(own[child])) == 1
        alone = (answers.feature_on(parent) == 1) & (with_child[parent] == 0)
        if not on.any() or not alone.any():
            continue
        absorbed = float((silent & active)[on].mean())
        careless = float(silent[alone].mean()) * float(active[on].mean())
        rows.append((int(truth.depths[child]), absorbed - careless, absorbed))
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Absorptions(table[:, 0].astype(np.int64), table[:, 1], table[:, 2])


def size_ratio(
    answers: Answers, lengths: Float[np.ndarray, " n_latents"], truth: Float[np.ndarray, " feature"]
) -> Float[np.ndarray, " feature"]:
    """Least-squares slope of the written size on the true one, over the rows where feature and own latent are both on.

        Σ (a‖w‖)(v‖f‖) / Σ (v‖f‖)²

    for activation a, write direction w, value v and feature direction f: 1 where nothing shrinks; below 1 for an L1
    penalty. NaN for a feature without a latent of its own.
    """
    own = answers.own_latent
    features = np.arange(len(own))
    products, squares = answers.products[features, own], answers.joint_squares[features, own]
    known = (own >= 0) & (squares > 0) & (truth > 0)
    slope = products / np.where(known, squares, 1)
    return np.where(known, slope * lengths[own] / np.where(truth > 0, truth, 1), np.nan)
