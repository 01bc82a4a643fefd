"""The toy `skip_trigram`."""

from polyseme.zoo.skip_trigram import checks
from polyseme.zoo.skip_trigram.toy import SkipTrigramToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    SkipTrigramToy,
    (
        Experiment("exact", "fast", "the hand-built head to 1e-4, and its additive nulls", checks.exact),
        Experiment("trained", "fast", "no additive table fits a trained head", checks.trained),
    ),
    {"attention": checks.attention_figure},
)
