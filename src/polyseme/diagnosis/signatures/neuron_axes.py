"""Whether the features lie along the neurons."""

import numpy as np

from polyseme.diagnosis.geometry import concentration, purity, rotations, worst_purity
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.lines import at_least, of_directions

SHARED = 0.75
"""Share of its response to one feature below which a neuron counts as shared."""
ON_NEURONS = 0.8
"""Share of features' squared length on single neurons from which they count as written to neurons."""
_WIDEST = 64
"""A null of rotations of more dimensions is drawn in a subspace: the purity it gives is higher, the test stricter."""
_NULL = "null: random rotations of the site"


def neuron_purity(seen: Observations) -> Line:
    """How far each neuron answers to one feature, against the same features under random rotations of the site."""
    D, found, null = seen.features.directions, of_directions(seen, purity), float("nan")
    # In one dimension there is nothing to rotate, and nothing to test: a single feature there is along the neuron.
    if D.shape[1] > 1:
        reduced = D if D.shape[1] <= _WIDEST else np.linalg.qr(D.T)[1].T[:, :_WIDEST]
        turns = rotations(seen.config.draws(seen.config.n_null // 4), reduced.shape[1], seen.rng("neuron_purity"))
        null = purity(reduced @ turns)
    return at_least(seen, "neuron_purity", found, seen.config.pure, len(D), "features", null=null, note=_NULL)


def worst_neuron(seen: Observations) -> Line:
    """The same for the one neuron that is shared most, against the same features under random rotations."""
    D, found, null = seen.features.directions, of_directions(seen, worst_purity), float("nan")
    if D.shape[1] <= _WIDEST:
        null = float(worst_purity(D @ rotations(50, D.shape[1], seen.rng("worst_neuron"))).mean())
    return at_least(seen, "worst_neuron", found, SHARED, len(D), "features", null=null, note=_NULL)


def neuron_concentration(seen: Observations) -> Line:
    """How far each feature is written to one neuron; features that collide on one score as high as aligned ones."""
    n, width = seen.features.directions.shape
    found = of_directions(seen, concentration)
    return at_least(seen, "neuron_concentration", found, ON_NEURONS, n, "features", null=1 / width)
