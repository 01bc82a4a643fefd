"""The toy `modular_addition`."""

from polyseme.zoo.modular_addition import checks
from polyseme.zoo.modular_addition.toy import ModularAdditionToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    ModularAdditionToy,
    (
        Experiment(
            "grokking",
            "slow",
            "generalisation, key frequencies, single-frequency neurons, phases",
            checks.grokking,
            resumable=True,
        ),
        Experiment(
            "without-decay",
            "slow",
            "weight decay 0: memorised, never generalised",
            checks.without_decay,
            resumable=True,
        ),
    ),
    {"progress": checks.draw_progress, "frequencies": checks.draw_frequencies},
)
