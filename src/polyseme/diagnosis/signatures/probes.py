"""What a linear probe reads of the features, and what one that is not linear reads beyond it."""

import numpy as np
from jaxtyping import Int

from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.reading import halves, mean_r_squared, probe, random_units, whitened
from polyseme.diagnosis.signatures.lines import at_least, of_rows

READ = 0.9
"""R² from which a feature counts as read."""


def linear_read(seen: Observations) -> Line:
    """Mean R² of linear probes for the features on held-out rows; the null is the same with the rows shuffled."""
    rng, targets = seen.rng("linear_read"), seen.features.carried
    fit, held_out = halves(len(seen.vectors), rng)
    inputs, truth = whitened(seen.vectors, fit), targets[held_out]
    predicted = probe(inputs, targets, fit, held_out)
    shuffled = probe(inputs, targets[rng.permutation(len(targets))], fit, held_out)
    found = of_rows(seen, lambda rows: mean_r_squared(truth[rows], predicted[rows]), len(truth), rng)
    null = mean_r_squared(truth, shuffled)
    return at_least(seen, "linear_read", found, READ, len(truth), null=null, note="null: rows shuffled")


def probe_gap(seen: Observations) -> Line:
    """R² that a probe with a layer of ReLUs reads beyond a linear one, less the gap it shows on shuffled targets.

    Subtracting the control is selectivity (Hewitt & Liang 2019): a probe that can learn anything earns nothing.
    """
    rng, targets = seen.rng("probe_gap"), seen.features.carried
    fit, held_out = halves(len(seen.vectors), rng)
    inputs, truth = whitened(seen.vectors, fit), targets[held_out]
    wide = random_units(inputs, rng)
    # The wider probe needs more shrinkage; it is given the better of two, chosen on rows it was not fitted on.
    inner, outer = (fit[half] for half in halves(len(fit), rng))
    ridge = max((1e-4, 1e-2), key=lambda r: mean_r_squared(targets[outer], probe(wide, targets, inner, outer, r)))
    linear, flexible = probe(inputs, targets, fit, held_out), probe(wide, targets, fit, held_out, ridge)
    shuffled = targets[rng.permutation(len(targets))]
    control = mean_r_squared(shuffled[held_out], probe(wide, shuffled, fit, held_out, ridge)) - mean_r_squared(
        shuffled[held_out], probe(inputs, shuffled, fit, held_out)
    )

    def gap(rows: Int[np.ndarray, " row"]) -> float:
        return mean_r_squared(truth[rows], flexible[rows]) - mean_r_squared(truth[rows], linear[rows]) - control

    found, note = of_rows(seen, gap, len(truth), rng), "null: targets shuffled, taken off"
    return at_least(seen, "probe_gap", found, seen.config.margin, len(truth), null=control, note=note)
