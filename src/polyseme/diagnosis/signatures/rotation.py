"""Whether one orthogonal transform would give every feature a neuron of its own."""

import numpy as np

from polyseme.diagnosis.geometry import purity, turned, turned_purity, varimax, worst_purity
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.lines import at_least, not_measured, of_directions
from polyseme.diagnosis.signatures.neuron_axes import SHARED

_MOST = 8
"""Features turned among themselves; more are not."""


def rotation(seen: Observations) -> Line:
    """Purity of the neurons after the best rotation, against as many directions drawn at random.

    Two directions in four dimensions are nearly orthogonal by chance now and then: siblings, where there are any, are
    summed with the network as in `arrangement`.
    """
    n, d = seen.features.directions.shape
    found, sets, rng = of_directions(seen, turned_purity), seen.networks, seen.rng("rotation")
    draws = seen.config.affordable(n * max(n, d))
    null = sum((turned_purity(rng.standard_normal((draws, n, d))) for _ in sets), np.zeros(draws)) / len(sets)
    tested = float(np.mean([turned_purity(D) for D in sets]))
    note = "null: random directions"
    return at_least(seen, "rotation", found, seen.config.pure, n, "features", null=null, tested=tested, note=note)


def worst_rotation(seen: Observations) -> Line:
    """The same for the one axis that is shared most: two features of many that collide leave `rotation` high."""
    n, d = seen.features.directions.shape
    found = of_directions(seen, lambda D: worst_purity(turned(D)))
    null = float(worst_purity(turned(seen.rng("worst_rotation").standard_normal((50, n, d)))).mean())
    return at_least(seen, "worst_rotation", found, SHARED, n, "features", null=null, note="null: random directions")


def variable_rotation(seen: Observations) -> Line:
    """Purity of the neurons for the best rotation of the *variables*, against neurons drawn at random.

    Neurons that read x + y and x − y are pure in those, though what x and y write need not be orthogonal. Variables are
    put on one scale first, that of their deviation. The p-value is of the mean over the network and its siblings, as in
    `rotation`: four neurons are pure in two turned variables by chance now and then.
    """
    n, d = seen.features.directions.shape
    name, threshold, sets, rng = "variable_rotation", seen.config.pure, seen.networks, seen.rng("variable_rotation")
    if not 2 <= n <= _MOST or d > 256:
        why = f"needs 2 to {_MOST} features and at most 256 neurons"
        return not_measured(name, threshold, why, n, "features")
    scale = seen.features.values.std(0)[:, None]
    found = of_directions(seen, lambda D: purity(varimax(D * scale)))
    draws = seen.config.affordable(n * d, most=1 << 18)
    null = purity(varimax(rng.standard_normal((draws, n, d))))
    if len(sets) > 1:
        null = rng.choice(null, (seen.config.n_null, len(sets))).mean(1)
    tested = float(np.mean([purity(varimax(D * scale)) for D in sets]))
    note = "null: random neurons"
    return at_least(seen, name, found, threshold, n, "features", null=null, tested=tested, note=note)
