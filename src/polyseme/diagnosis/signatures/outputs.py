"""Whether the outputs are carried by units and pairs of them, or by the whole code alone."""

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.records import Evidence
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.geometry import resample_mean
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.reading import halves, probe, whitened
from polyseme.diagnosis.signatures.probes import mean

CHANCE = 0.1
"""R² up to which an output is said to be unread."""
CONSTANT = 1e-6
"""Deviation over the largest value up to which an output counts as constant: single precision gives no fewer."""
_UNITS = 24


def output_joint(seen: Observations) -> Evidence:
    """R² with which the site's units and their products in pairs predict the network's outputs, on held-out rows.

    Near 0 for an output that varies and that the network yet computes from this site, no unit and no pair of units
    carries it, only the code as a whole: the site is compositional, or the output is computed further on.
    """
    missing = Evidence(name="output_joint", effect=float("nan"), n=0, n_unit="rows", threshold=CHANCE, passed=False)
    outputs = None if seen.outputs is None else _varying(seen.outputs)
    if outputs is None or outputs.shape[1] == 0:
        return missing.model_copy(update={"note": "not measured: no output that varies"})
    rng = np.random.default_rng(derive_seed(seen.config.seed, "output_joint"))
    fit, held_out = halves(len(seen.vectors), rng)
    x = whitened(seen.vectors, fit)
    first, second = np.triu_indices(min(_UNITS, x.shape[1]))
    design = np.concatenate([x, x[:, first] * x[:, second]], axis=1)
    if 4 * design.shape[1] > len(fit):
        return missing.model_copy(update={"note": f"not measured: needs {8 * design.shape[1]} rows"})
    predicted = probe(design, outputs, fit, held_out, ridge=1e-3)

    def score(rows: Int[np.ndarray, " row"]) -> float:
        return mean(outputs[held_out][rows], predicted[rows])

    interval = resample_mean(score, len(held_out), seen.config.n_resamples, rng)
    return Evidence(
        name="output_joint",
        effect=score(np.arange(len(held_out))),
        interval=interval,
        null=0.0,
        n=len(held_out),
        n_unit="rows",
        threshold=CHANCE,
        passed=interval.high <= CHANCE,
        note="passed: no unit and no pair of units carries the output",
    )


def _varying(outputs: Float[np.ndarray, "row output"]) -> Float[np.ndarray, "row varying"]:
    return outputs[:, np.flatnonzero(outputs.std(0) > CONSTANT * np.abs(outputs).max(0))]
