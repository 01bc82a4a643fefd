"""Whether features share a direction because they fire together."""

import numpy as np
from jaxtyping import Bool, Float

from polyseme.core.records import Evidence
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.geometry import Directions, cosines, overlaps, p_value, percentiles
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.dimensions import CO_FIRING, firing_correlations, of


def overlap_co_firing(
    directions: Directions,
    correlations: Float[np.ndarray, "feature feature"],
    two_sided: Bool[np.ndarray, " feature"],
) -> Float[np.ndarray, "*batch"]:
    """Mean correlation of firing over pairs, weighted by the square of their positive cosine.

    For a feature of both signs, cosine and correlation of values change sign together: what counts is their product.
    """
    weight = np.maximum(overlaps(directions, two_sided), 0) ** 2
    signed = two_sided[:, None] | two_sided
    along = np.where(signed, np.sign(cosines(directions)) * correlations, correlations)
    return np.asarray((weight * along).sum((-1, -2)) / np.maximum(weight.sum((-1, -2)), 1e-12))


def co_firing(seen: Observations) -> Evidence:
    """How much the features that share a direction fire together, against random directions for the same features.

    The interval resamples rows of the data: it is the firing that is estimated. Features without overlap to speak of
    (no cosine of .2) have nothing to explain, and the effect is 0.
    """
    written = of(seen)
    rng = np.random.default_rng(derive_seed(seen.config.seed, "co_firing"))
    correlations, signs = firing_correlations(written.values), written.two_sided
    c, (n, d) = overlaps(written.directions, signs), written.directions.shape
    overlapping = bool(c.max() >= 0.2)
    value = float(overlap_co_firing(written.directions, correlations, signs)) if overlapping else 0.0
    draws = seen.config.draws(max(100, min(seen.config.n_null, (1 << 22) // (n * max(n, d)))))
    null = overlap_co_firing(rng.standard_normal((draws, n, d)), correlations, signs)
    rows = len(written.values)
    replicates = [0.0] * 2
    if overlapping:
        drawn = (rng.integers(0, rows, rows) for _ in range(min(40, seen.config.n_resamples)))
        replicates = [
            float(overlap_co_firing(written.directions, firing_correlations(written.values[r]), signs)) for r in drawn
        ]
    interval, p = percentiles(replicates), p_value(value, null, larger=True)
    return Evidence(
        name="co_firing",
        effect=value,
        interval=interval,
        null=float(null.mean()),
        n=rows,
        n_unit="rows",
        threshold=CO_FIRING,
        p_corrected=p,
        passed=interval.low >= CO_FIRING and p <= seen.config.alpha,
        note="null: random directions for the same features",
    )
