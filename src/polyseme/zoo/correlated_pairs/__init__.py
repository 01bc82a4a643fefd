"""The toy `correlated_pairs`."""

from polyseme.zoo.correlated_pairs import checks
from polyseme.zoo.correlated_pairs.toy import CorrelatedPairsToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    CorrelatedPairsToy,
    (
        Experiment("algebra", "fast", "losses of the two ways to pack two features into a dimension", checks.algebra),
        Experiment("neurons", "fast", "a neuron holds the two features of a pair", checks.neurons),
        Experiment(
            "change", "slow", "sharing by superposition gives way to sharing by correlation at ρ*", checks.change
        ),
    ),
    {"change": checks.change_figure},
)
