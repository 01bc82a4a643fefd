"""Whether an overcomplete sparse code reads the features where no orthogonal, or linear, transform can."""

import numpy as np
from jaxtyping import Float, Int

from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.reading import halves, mean_r_squared, probe, whitened
from polyseme.diagnosis.signatures.lines import at_least, of_rows
from polyseme.diagnosis.variables import AT_REST

_STEPS = 150
_ROWS = 1024
_PENALTIES = (0.003, 0.01, 0.03, 0.1)


def sparse_codes(
    vectors: Float[np.ndarray, "row d"], directions: Float[np.ndarray, "feature d"], penalty: float
) -> Float[np.ndarray, "row feature"]:
    """Non-negative codes z of least ½‖h − zD‖² + λ Σ z ‖D_i‖, by accelerated proximal gradient.

    Beck & Teboulle 2009 (FISTA). The penalty is in units of the largest correlation of each row with a direction.
    """
    norms = np.linalg.norm(directions, axis=1)
    D = directions / norms[:, None]
    gram, linear = D @ D.T, vectors @ D.T
    step = 1 / float(np.linalg.eigvalsh(gram)[-1])
    shrink = step * penalty * np.maximum(linear.max(1, keepdims=True), 0)
    z = ahead = np.zeros_like(linear)
    t = 1.0
    for _ in range(_STEPS):
        new = np.maximum(ahead - step * (ahead @ gram - linear) - shrink, 0)
        grown = (1 + np.sqrt(1 + 4 * t * t)) / 2
        ahead, z, t = new + (t - 1) / grown * (new - z), new, grown
    return z / norms


def sparse_read(seen: Observations) -> Line:
    """R² of features read by a sparse code over their own directions, less that of the best linear map.

    The best linear map is at least as good as any orthogonal transform. Features that no data switch off cannot be read
    sparsely, and a site with a dimension for each feature leaves a linear map nothing to miss: both put the gain at 0.
    The null is the gain with directions drawn at random.
    """
    written, rng = seen.features, seen.rng("sparse_read")
    rows = np.sort(rng.permutation(len(seen.vectors))[: 2 * _ROWS])
    vectors, targets = seen.vectors[rows], written.values[rows]
    # Vectors are taken from where the site rests, when every feature is off.
    signed = targets.min(0) < -AT_REST
    rest = (seen.vectors - written.values @ written.directions).mean(0)
    fit, held_out = halves(len(rows), rng)
    truth, linear = targets[held_out], probe(whitened(vectors, fit), targets, fit, held_out)

    def read(D: Float[np.ndarray, "feature d"]) -> Float[np.ndarray, "held_out feature"]:
        both_ways = np.concatenate([D, -D[signed]])

        def decoded(part: Int[np.ndarray, " row"], penalty: float) -> Float[np.ndarray, "row feature"]:
            codes = sparse_codes(vectors[part] - rest, both_ways, penalty)
            out = codes[:, : len(D)].copy()
            out[:, signed] -= codes[:, len(D) :]
            return out

        penalty = max(_PENALTIES, key=lambda p: mean_r_squared(targets[fit], decoded(fit, p)))
        return decoded(held_out, penalty)

    sparse = read(written.directions)
    random = rng.standard_normal(written.directions.shape) * np.linalg.norm(written.directions, axis=1)[:, None]
    of_sparse, of_linear = mean_r_squared(truth, sparse), mean_r_squared(truth, linear)

    def gain(r: Int[np.ndarray, " row"]) -> float:
        return mean_r_squared(truth[r], sparse[r]) - mean_r_squared(truth[r], linear[r])

    null = mean_r_squared(truth, read(random)) - of_linear
    found = of_rows(seen, gain, len(truth), rng)
    note = f"R² {of_sparse:.2f} sparse, {of_linear:.2f} linear; null: random directions"
    return at_least(seen, "sparse_read", found, seen.config.margin, len(truth), null=null, note=note)
