"""The toy `induction`."""

from polyseme.zoo.induction import checks
from polyseme.zoo.induction.toy import InductionToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    InductionToy,
    (
        Experiment(
            "two-layers", "slow", "induction learned, by a head that attends to the token before", checks.two_layers
        ),
        Experiment("one-layer", "slow", "one layer cannot", checks.one_layer),
        Experiment(
            "general", "slow", "any token matched, by a head that reads what the token before was", checks.general
        ),
    ),
    {"attention": checks.draw_attention, "general": checks.draw_general},
)
