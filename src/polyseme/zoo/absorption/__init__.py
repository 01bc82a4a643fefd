"""The toy `absorption`."""

from polyseme.zoo.absorption import toy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    toy.AbsorptionToy,
    (
        Experiment("absorbed", "fast", "the parent's latent reads its children with a minus", toy.absorbed),
        Experiment("depth", "fast", "absorption in a tree of two generations", toy.by_depth),
    ),
    {"directions": toy.directions},
)
