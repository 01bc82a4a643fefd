"""Arrangements of directions: how many there are to a dimension, how they overlap, and how random ones would."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from polyseme.core.records import Interval

Directions = Float[np.ndarray, "*batch feature d"]


def rank(directions: Directions, floor: float) -> Int[np.ndarray, "*batch"]:
    """How many singular values are at least `floor` times the largest."""
    values = np.linalg.svd(directions, compute_uv=False)
    return np.asarray((values >= floor * values[..., :1]).sum(-1))


def unit(directions: Directions) -> Directions:
    """Every direction at length 1; a zero one stays zero."""
    norms = np.linalg.norm(directions, axis=-1, keepdims=True)
    return directions / np.maximum(norms, 1e-30)


def cosines(directions: Directions) -> Float[np.ndarray, "*batch feature feature"]:
    """Cosine of every pair, 0 on the diagonal."""
    directions = unit(directions)
    found = directions @ directions.swapaxes(-1, -2)
    index = np.arange(found.shape[-1])
    found[..., index, index] = 0
    return found


def overlaps(
    directions: Directions, two_sided: Bool[np.ndarray, " feature"]
) -> Float[np.ndarray, "*batch feature feature"]:
    """Cosine of the ways in which every pair of features is written, 0 on the diagonal.

    A feature with values of both signs is written both ways along its line, so that its cosines have no sign.
    """
    found = cosines(directions)
    return np.where(two_sided[:, None] | two_sided, np.abs(found), found)


def purity(directions: Directions) -> Float[np.ndarray, "*batch"]:
    """Share of the neurons' squared response that each neuron's first feature makes: Σ_j max_i D²_ij / Σ_ij D²_ij.

    1 where every neuron answers to one feature; for features that write alike, each at every neuron, 1 / features.
    """
    squared = directions**2
    return np.asarray(squared.max(-2).sum(-1) / np.maximum(squared.sum((-1, -2)), 1e-300))


def concentration(directions: Directions) -> Float[np.ndarray, "*batch"]:
    """Share of the features' squared length on each one's first neuron: Σ_i max_j D²_ij / Σ_ij D²_ij."""
    return purity(directions.swapaxes(-1, -2))


def turned(directions: Directions) -> Float[np.ndarray, "*batch feature feature"]:
    """The features after the orthogonal transform that brings them nearest to axes of their own.

    With D = USVᵀ that transform takes D to USUᵀ = (DDᵀ)^½, the nearest to a diagonal by Procrustes. Lengths are taken
    out first: a long feature's small part on a short one's axis would otherwise count as the larger.
    """
    values, vectors = np.linalg.eigh(unit(directions) @ unit(directions).swapaxes(-1, -2))
    return (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ vectors.swapaxes(-1, -2)


def turned_purity(directions: Directions) -> Float[np.ndarray, "*batch"]:
    """`purity` of the features `turned`: those that are orthogonal reach 1, more features than dimensions cannot."""
    return purity(turned(directions))


def worst_purity(directions: Directions) -> Float[np.ndarray, "*batch"]:
    """Least share that its first feature makes of a neuron's response, over neurons that respond at all.

    A neuron responds where its largest entry is at least 0.3 of the largest of all: two features that collide on one
    neuron out of many leave `purity` high.
    """
    squared = directions**2
    first, every = squared.max(-2), np.maximum(squared.sum(-2), 1e-300)
    responds = first >= 0.09 * first.max(-1, keepdims=True)
    return np.asarray(np.where(responds, first / every, 1).min(-1))


def varimax(directions: Directions, n_steps: int = 60, n_starts: int = 3) -> Directions:
    """The features turned among themselves so that each neuron answers to as few as may be, Σ D⁴ at a maximum.

    Kaiser 1958, with rows and columns swapped: the rotation R acts on features, and RD is returned. The best of a few
    starts, as 45° from the maximum is a stationary point too.
    """
    best = directions
    for start in rotations(n_starts, directions.shape[-2], np.random.default_rng(0)):
        turned = start @ directions
        for _ in range(n_steps):
            # One step of the fixed point: the polar factor of the gradient D³Dᵀ.
            u, _, vt = np.linalg.svd((turned**3) @ directions.swapaxes(-1, -2))
            turned = (u @ vt) @ directions
        better = (turned**4).sum((-1, -2)) > (best**4).sum((-1, -2))
        best = np.where(better[..., None, None], turned, best)
    return best


def rotations(n: int, d: int, rng: np.random.Generator) -> Float[np.ndarray, "n d d"]:
    """Haar-distributed orthogonal matrices: QR of Gaussians with the signs of R's diagonal."""
    q, r = np.linalg.qr(rng.standard_normal((n, d, d)))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]


def random_arrangements(
    directions: Float[np.ndarray, "feature d"], n: int, rng: np.random.Generator
) -> dict[str, Float[np.ndarray, "n feature d"]]:
    """What the three re-initialisations of a matrix make of it: Gaussian, the same spectrum, the same entries."""
    rows, columns = directions.shape
    values = np.linalg.svd(directions, full_matrices=False).S
    left, right = (np.linalg.qr(rng.standard_normal((n, size, len(values))))[0] for size in (rows, columns))
    return {
        "Gaussian": rng.standard_normal((n, rows, columns)),
        "same spectrum": (left * values) @ right.swapaxes(-1, -2),
        "same entries": rng.permuted(np.broadcast_to(directions.ravel(), (n, directions.size)), axis=1).reshape(
            n, rows, columns
        ),
    }


def p_value(value: float, null: Float[np.ndarray, " draw"], *, larger: bool) -> float:
    """Share of the draws at least as extreme as the value, itself counted among them (Phipson & Smyth 2010)."""
    slack = 1e-9 * max(1.0, abs(value))
    extreme = null >= value - slack if larger else null <= value + slack
    return (1 + int(extreme.sum())) / (1 + len(null))


def percentiles(
    values: Sequence[float] | Float[np.ndarray, " n"], method: str = "bootstrap over rows", level: float = 0.95
) -> Interval:
    """The percentile interval of replicates."""
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1 - tail])
    return Interval(low=float(low), high=float(high), level=level, method=method)


def resample(
    statistic: Callable[[Int[np.ndarray, " row"]], float], n: int, n_resamples: int, rng: np.random.Generator
) -> Interval:
    """The percentile interval of a statistic of row numbers drawn with replacement."""
    return percentiles([statistic(rng.integers(0, n, n)) for _ in range(n_resamples)])
