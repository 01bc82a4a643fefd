"""Whether the outputs are carried by units and pairs of them, or by the whole code alone."""

import numpy as np
from jaxtyping import Float

from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.reading import halves, mean_r_squared, probe, whitened
from polyseme.diagnosis.signatures.lines import at_most, not_measured, of_rows

CHANCE = 0.1
"""R² up to which an output counts as unread."""
CONSTANT = 1e-6
"""Deviation over the largest value up to which an output counts as constant: single precision gives no fewer."""
_UNITS = 24


def output_joint(seen: Observations) -> Line:
    """R² with which the site's units and their products in pairs predict the network's outputs, on held-out rows.

    Near 0 for an output that varies and that the network computes from this site, no unit and no pair of units
    carries it, only the code as a whole: the site is compositional, or the output is computed later.
    """
    outputs = None if seen.outputs is None else _varying(seen.outputs)
    if outputs is None or outputs.shape[1] == 0:
        return not_measured("output_joint", CHANCE, "no output that varies")
    rng = seen.rng("output_joint")
    fit, held_out = halves(len(seen.vectors), rng)
    x = whitened(seen.vectors, fit)
    first, second = np.triu_indices(min(_UNITS, x.shape[1]))
    design = np.concatenate([x, x[:, first] * x[:, second]], axis=1)
    if 4 * design.shape[1] > len(fit):
        return not_measured("output_joint", CHANCE, f"needs {8 * design.shape[1]} rows")
    truth, predicted = outputs[held_out], probe(design, outputs, fit, held_out, ridge=1e-3)
    found = of_rows(seen, lambda rows: mean_r_squared(truth[rows], predicted[rows]), len(truth), rng)
    note = "passed: no unit and no pair of units carries the output"
    return at_most("output_joint", found, CHANCE, len(truth), note=note)


def _varying(outputs: Float[np.ndarray, "row output"]) -> Float[np.ndarray, "row varying"]:
    return outputs[:, np.flatnonzero(outputs.std(0) > CONSTANT * np.abs(outputs).max(0))]
