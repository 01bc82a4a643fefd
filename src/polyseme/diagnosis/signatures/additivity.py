"""Whether what the inputs write to the site adds up."""

import numpy as np
import torch
from jaxtyping import Bool

from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.lines import at_most, of_rows

ADDITIVE = 0.05
"""Share of interaction up to which a site is called additive."""


def additivity(seen: Observations) -> Line:
    """Share of the variance that is interaction between halves of the input's coordinates (positions, for tokens).

    For rows a, b and a random half S of the coordinates, h(a_S b_S̄) + h(b_S a_S̄) − h(a) − h(b) is 0 for every sum of
    functions of single coordinates. Its mean square over 4 Var h is the share; the null is exactly 0.
    """
    rng = seen.rng("additivity")
    n = min(512, len(seen.inputs) // 2)
    order = rng.permutation(len(seen.inputs))
    a, b = (torch.from_numpy(part) for part in (order[:n], order[n : 2 * n]))
    half = torch.from_numpy(_halves(seen, n, rng))
    x, y = seen.inputs[a], seen.inputs[b]
    crossed = seen.read(torch.where(half, x, y)) + seen.read(torch.where(half, y, x))
    residual = ((crossed - seen.vectors[a.numpy()] - seen.vectors[b.numpy()]) ** 2).sum(1)
    variance = 4 * float(seen.vectors.var(0).sum())
    found = of_rows(seen, lambda rows: float(residual[rows].mean()) / variance, n, rng)
    return at_most("additivity", found, ADDITIVE, n, "pairs of rows", note="passed: additive")


def _halves(seen: Observations, n: int, rng: np.random.Generator) -> Bool[np.ndarray, "pair coordinate"]:
    """Random halves of the coordinates, those that hold one variable together; of the positions, for tokens."""
    width = seen.inputs.shape[1]
    columns = seen.variables.columns if seen.variables else ()
    if not columns:
        return rng.random((n, width)) < 0.5
    drawn, found = rng.random((n, len(columns))) < 0.5, np.zeros((n, width), dtype=bool)
    for i, held in enumerate(columns):
        found[:, held] = drawn[:, i : i + 1]
    return found
