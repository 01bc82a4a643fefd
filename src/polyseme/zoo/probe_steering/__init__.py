"""The toy `probe_steering`."""

from polyseme.zoo.probe_steering import checks
from polyseme.zoo.probe_steering.toy import ProbeSteeringToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    ProbeSteeringToy,
    (
        Experiment("analytic", "fast", "duals, probes and steering vectors in closed form", checks.analytic),
        Experiment("sampled", "fast", "the same from samples, and steering through the network", checks.sampled),
        Experiment("effects", "fast", "the causal effect of removing a feature, in closed form", checks.effects),
        Experiment(
            "dictionary", "slow", "a trained dictionary reads duals and writes features", checks.dictionary, version=2
        ),
    ),
    {"directions": checks.directions_figure},
)
