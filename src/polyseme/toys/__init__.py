"""Toys: networks whose features are known, and what each of them is held against."""

from polyseme.toys.checks import COSTS, Check, Cost, Experiment
from polyseme.toys.superposition import SuperpositionToy
from polyseme.toys.toy import Sample, Toy, TrainedToy, Truth

TOYS: dict[str, type[Toy]] = {
    "superposition": SuperpositionToy,
}
"""One line a toy."""

__all__ = ["COSTS", "TOYS", "Check", "Cost", "Experiment", "Sample", "Toy", "TrainedToy", "Truth"]
