"""The toy `universal_and`."""

from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry
from polyseme.zoo.universal_and import checks, circuits, noise
from polyseme.zoo.universal_and.toy import UniversalAndToy

ENTRY = Entry(
    UniversalAndToy,
    (
        Experiment("reads", "fast", "the mean read-off with both, one or none on", checks.reads_table),
        Experiment("noise", "fast", "overlaps of a fixed draw add up as √k, as k if of one sign", noise.overlaps),
        Experiment("orthant", "fast", "gate vectors overlap; no bias helps those that share", noise.orthant),
        Experiment("chaining", "fast", "how far circuits survive, with a bias offset and without", circuits.chaining),
        Experiment("scaling", "slow", "neurons needed for all pairs of inputs in superposition", noise.scaling),
    ),
    {"reads": checks.reads_over_active, "survival": circuits.survival_over_depth},
)
