"""The toy `scaling`."""

from polyseme.zoo.scaling import toy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    toy.ScalingToy,
    (Experiment("scaled", "fast", "answers that change under positive scaling, with and without biases", toy.scaled),),
    {"flips": toy.flips_figure},
)
