"""The toy `superposition`."""

from polyseme.zoo.superposition import checks, figures, sweeps
from polyseme.zoo.superposition.toy import SuperpositionToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    SuperpositionToy,
    (
        Experiment("pentagon", "fast", "five features in two dimensions form a regular pentagon", checks.pentagon),
        Experiment("polygons", "fast", "the best k-gons for one feature at a time, solved for", checks.polygons),
        Experiment("capacity", "fast", "capacity is dimensionality, and dimensions bound its sum", checks.capacities),
        Experiment("correlation", "slow", "pairs on together are orthogonal, others antipodal", checks.correlation),
        Experiment(
            "recovery",
            "slow",
            "a dictionary finds the features, a matrix factorisation not",
            checks.recovery,
            version=2,
        ),
        Experiment("phases", "slow", "two features in one dimension: where superposition begins", sweeps.phases),
        Experiment("importance", "slow", "as density rises the least important vanish first", sweeps.importance),
        Experiment("stickiness", "long", "dimensionalities stick at fractions (the first seed)", sweeps.stickiness),
    ),
    {
        "geometry": figures.geometry,
        "weights": figures.weights,
        "dimensionality": figures.dimensionalities,
        "phases": figures.phases,
    },
)
