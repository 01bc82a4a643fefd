"""The toy `compressed_computation`."""

from polyseme.zoo.compressed_computation import checks
from polyseme.zoo.compressed_computation.toy import CompressedComputationToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    CompressedComputationToy,
    (
        Experiment("identity", "fast", "the residual MLP is the plain one on labels ReLU(x) + Mx", checks.identity),
        Experiment("one hot", "fast", "the exact limit p → 0: no gain without mixing", checks.one_hot),
        Experiment("sparse", "slow", "the documented density: no gain without mixing", checks.sparse),
    ),
    {"mixing": checks.loss_over_mixing},
)
