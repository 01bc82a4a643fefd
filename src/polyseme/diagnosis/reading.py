"""Reading variables from a site's vectors: linear probes, probes with a random ReLU layer, and R² on held-out rows."""

import numpy as np
from jaxtyping import Float, Int

RIDGE = 1e-4
FLOOR = 1e-4
N_UNITS = 512


def halves(n: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, " fit"], Int[np.ndarray, " held_out"]]:
    """The row numbers to fit on, and those to score on."""
    order = rng.permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def whitened(vectors: Float[np.ndarray, "row d"], fit: Int[np.ndarray, " fit"]) -> Float[np.ndarray, "row k"]:
    """Principal components of unit variance on the rows to fit on, except those below `FLOOR` of the largest."""
    centred = vectors - vectors[fit].mean(0)
    _, values, vt = np.linalg.svd(centred[fit], full_matrices=False)
    kept = values >= FLOOR * values[0]
    return centred @ oriented(centred[fit], vt[kept].T) / values[kept] * np.sqrt(len(fit))


def oriented(centred: Float[np.ndarray, "row d"], axes: Float[np.ndarray, "d k"]) -> Float[np.ndarray, "d k"]:
    """Principal axes pointed along the longer tail of the coordinates, as a decomposition leaves their signs open."""
    return axes * np.where(((centred @ axes) ** 3).sum(0) < 0, -1.0, 1.0)


def probe(
    inputs: Float[np.ndarray, "row k"],
    targets: Float[np.ndarray, "row target"],
    fit: Int[np.ndarray, " fit"],
    held_out: Int[np.ndarray, " held_out"],
    ridge: float = RIDGE,
) -> Float[np.ndarray, "held_out target"]:
    """Ridge regression with an intercept: predictions on the rows held out."""
    mean_x, mean_y = inputs[fit].mean(0), targets[fit].mean(0)
    x, y = inputs[fit] - mean_x, targets[fit] - mean_y
    if x.shape[1] <= len(fit):
        weights = np.linalg.solve(x.T @ x + ridge * len(fit) * np.eye(x.shape[1]), x.T @ y)
    else:
        weights = x.T @ np.linalg.solve(x @ x.T + ridge * len(fit) * np.eye(len(fit)), y)
    return (inputs[held_out] - mean_x) @ weights + mean_y


def random_units(inputs: Float[np.ndarray, "row k"], rng: np.random.Generator) -> Float[np.ndarray, "row unit"]:
    """The inputs beside ReLUs of random directions of them: what a probe that is not linear reads."""
    k = inputs.shape[1]
    weights = rng.standard_normal((k, N_UNITS)) / np.sqrt(k)
    return np.concatenate([inputs, np.maximum(inputs @ weights + rng.uniform(-1, 1, N_UNITS), 0)], axis=1)


def r_squared(
    targets: Float[np.ndarray, "row target"], predictions: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """1 − residual over total sum of squares of each target, not under 0; NaN for one that does not vary."""
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    residual = ((targets - predictions) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, np.maximum(1 - residual / total, 0), np.nan)


def mean_r_squared(targets: Float[np.ndarray, "row target"], predictions: Float[np.ndarray, "row target"]) -> float:
    """Mean R² over the targets that vary; 0 where none does."""
    found = r_squared(targets, predictions)
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) else 0.0
