"""The toy `bit_extraction`."""

from polyseme.zoo.bit_extraction import checks
from polyseme.zoo.bit_extraction.toy import BitExtractionToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    BitExtractionToy,
    (
        Experiment("look-up", "fast", "every label right, six units wide", checks.look_up),
        Experiment("probes", "fast", "no linear probe reads the label before the last layer", checks.probes),
        Experiment("verdict", "slow", "the diagnosis says compositional, or abstains", checks.verdict),
    ),
    {"probes": checks.probes_figure},
)
