"""Planted sparse data as a toy: what its distribution must be, and what dictionaries find in it."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from polyseme.core.progress import Reporter
from polyseme.zoo.planted_sparse.checks import PAPER, chance, distribution, fronts, order, sampled_and_exact
from polyseme.zoo.planted_sparse.data import PlantedSparseConfig
from polyseme.zoo.tools.checks import Experiment


class PlantedSparseToy(PlantedSparseConfig):
    """One data set a seed, each with directions of its own."""

    title: ClassVar[str] = "planted sparse data"
    paper: ClassVar[str] = PAPER
    experiments: ClassVar[tuple[Experiment, ...]] = (
        Experiment(
            "distribution", "fast", "frequencies, L0, correlation, hierarchy and exclusion of drawn data", distribution
        ),
        Experiment("chance", "fast", "MCC of random directions", chance),
        Experiment("order", "slow", "L1 < BatchTopK ≈ JumpReLU on recovery and reconstruction", order, resumable=True),
    )
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]] = {
        "distribution": sampled_and_exact,
        "fronts": fronts,
    }
