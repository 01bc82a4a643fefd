"""Whether what one variable writes depends on another."""

import numpy as np

from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.reading import halves, probe
from polyseme.diagnosis.signatures.lines import at_least, mean_of_rows, not_measured

_MOST = 24


def gating(seen: Observations) -> Line:
    """Share of the site's held-out variance that products of two variables explain beyond variables and squares.

    The null is the same with each row's products taken from another row. Where a variable is written only in the
    absence of another, no direction stands for it, though a lookup of the pair would.
    """
    rng, threshold, vectors = seen.rng("gating"), seen.config.margin, seen.vectors
    x = seen.features.carried
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    first, second = np.triu_indices(min(_MOST, x.shape[1]), k=1)
    products = x[:, first] * x[:, second]
    needed = 8 * (2 * x.shape[1] + products.shape[1])
    if not len(first) or needed > len(x):
        return not_measured("gating", threshold, f"needs two variables and {needed} rows")
    fit, held_out = halves(len(x), rng)
    alone = np.concatenate([x, x**2], axis=1)
    truth = vectors[held_out]
    total = float(((truth - vectors[fit].mean(0)) ** 2).sum(1).mean())

    def error(design: np.ndarray) -> np.ndarray:
        return ((truth - probe(design, vectors, fit, held_out, ridge=1e-3)) ** 2).sum(1)

    apart = error(alone)
    gain = (apart - error(np.concatenate([alone, products], axis=1))) / total
    shuffled = products[rng.permutation(len(products))]
    null = float((apart - error(np.concatenate([alone, shuffled], axis=1))).mean()) / total
    found = mean_of_rows(seen, gain, rng)
    return at_least(seen, "gating", found, threshold, len(gain), null=null, note="null: products of other rows")
