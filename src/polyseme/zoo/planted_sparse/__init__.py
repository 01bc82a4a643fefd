"""The toy `planted_sparse`."""

from polyseme.zoo.planted_sparse import checks
from polyseme.zoo.planted_sparse.toy import PlantedSparseToy
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.toy import Entry

ENTRY = Entry(
    PlantedSparseToy,
    (
        Experiment(
            "distribution",
            "fast",
            "frequencies, L0, correlation, hierarchy and exclusion of drawn data",
            checks.distribution,
        ),
        Experiment("chance", "fast", "MCC of random directions", checks.chance),
        Experiment(
            "order",
            "slow",
            "L1 < BatchTopK ≈ JumpReLU on recovery and reconstruction",
            checks.order,
            resumable=True,
            version=2,
        ),
    ),
    {"distribution": checks.sampled_and_exact, "fronts": checks.fronts},
)
