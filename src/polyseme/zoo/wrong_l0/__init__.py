"""The toy `wrong_l0`."""

from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry
from polyseme.zoo.wrong_l0 import toy

ENTRY = Entry(
    toy.WrongL0Toy,
    (
        Experiment("k", "slow", "too small a k mixes correlated features, even from the truth", toy.right_and_low),
        Experiment("bias", "fast", "b_dec started at 0 finds features, at the mean their absences", toy.bias_start),
    ),
    {"decoders": toy.decoders},
)
