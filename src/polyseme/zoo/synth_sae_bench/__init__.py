"""The toy `synth_sae_bench`."""

from polyseme.zoo.synth_sae_bench import checks
from polyseme.zoo.synth_sae_bench.toy import SynthSaeBenchToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    SynthSaeBenchToy,
    (
        Experiment(
            "distribution", "fast", "frequencies, correlation, trees and sizes of drawn data", checks.distribution
        ),
    ),
    {"frequencies": checks.sampled_and_wanted},
)
