"""Whether features share a direction because they fire together."""

import numpy as np
from jaxtyping import Bool, Float

from polyseme.diagnosis.geometry import Directions, cosines, overlaps, percentiles
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.dimensions import CO_FIRING, firing_correlations
from polyseme.diagnosis.signatures.lines import Estimate, at_least


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


def co_firing(seen: Observations) -> Line:
    """How much the features that share a direction fire together, against random directions for the same features.

    The interval resamples rows of the data: it is the firing that is estimated. Features without overlap to speak of
    (no cosine of 0.2) have nothing to explain, and the effect is 0.
    """
    written, rng = seen.features, seen.rng("co_firing")
    (n, d), rows = written.directions.shape, len(written.values)
    signs, correlations = written.two_sided, firing_correlations(written.values)
    null = overlap_co_firing(rng.standard_normal((seen.config.affordable(n * max(n, d)), n, d)), correlations, signs)
    found = Estimate(0.0, percentiles([0.0]))
    if overlaps(written.directions, signs).max() >= 0.2:
        drawn = (rng.integers(0, rows, rows) for _ in range(min(40, seen.config.n_resamples)))
        replicates = [
            float(overlap_co_firing(written.directions, firing_correlations(written.values[r]), signs)) for r in drawn
        ]
        value = float(overlap_co_firing(written.directions, correlations, signs))
        found = Estimate(value, percentiles(replicates))
    note = "null: random directions for the same features"
    return at_least(seen, "co_firing", found, CO_FIRING, rows, null=null, note=note)
