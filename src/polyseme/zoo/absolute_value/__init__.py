"""The toy `absolute_value`."""

from polyseme.zoo.absolute_value import checks
from polyseme.zoo.absolute_value.toy import AbsoluteValueToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    AbsoluteValueToy,
    (
        Experiment("pairs", "fast", "with room for all, each feature gets a pair of neurons", checks.pairs),
        Experiment("densities", "slow", "dense: a pair each; sparse: more, by polysemantic neurons", checks.densities),
    ),
    {"density": checks.over_density},
)
