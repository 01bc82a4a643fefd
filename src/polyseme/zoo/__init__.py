"""Toys: networks whose features are known, and what each of them is held against."""

from polyseme.zoo.absolute_value.toy import AbsoluteValueToy
from polyseme.zoo.absorption.toy import AbsorptionToy
from polyseme.zoo.bit_extraction.toy import BitExtractionToy
from polyseme.zoo.compressed_computation.toy import CompressedComputationToy
from polyseme.zoo.correlated_pairs.toy import CorrelatedPairsToy
from polyseme.zoo.datapoint_features.toy import DatapointFeaturesToy
from polyseme.zoo.hedging.toy import HedgingToy
from polyseme.zoo.incidental.toy import IncidentalToy
from polyseme.zoo.induction.toy import InductionToy
from polyseme.zoo.missed_solution.toy import MissedSolutionToy
from polyseme.zoo.modular_addition.toy import ModularAdditionToy
from polyseme.zoo.planted_sparse.toy import PlantedSparseToy
from polyseme.zoo.probe_steering.toy import ProbeSteeringToy
from polyseme.zoo.product.toy import ProductToy
from polyseme.zoo.scaling.toy import ScalingToy
from polyseme.zoo.skip_trigram.toy import SkipTrigramToy
from polyseme.zoo.superposition.toy import SuperpositionToy
from polyseme.zoo.tools.checks import COSTS, Check, Cost, Experiment
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth
from polyseme.zoo.universal_and.toy import UniversalAndToy
from polyseme.zoo.wrong_l0.toy import WrongL0Toy

TOYS: dict[str, type[Toy]] = {
    "absolute_value": AbsoluteValueToy,
    "absorption": AbsorptionToy,
    "compressed_computation": CompressedComputationToy,
    "universal_and": UniversalAndToy,
    "superposition": SuperpositionToy,
    "bit_extraction": BitExtractionToy,
    "correlated_pairs": CorrelatedPairsToy,
    "datapoint_features": DatapointFeaturesToy,
    "hedging": HedgingToy,
    "incidental": IncidentalToy,
    "induction": InductionToy,
    "missed_solution": MissedSolutionToy,
    "modular_addition": ModularAdditionToy,
    "planted_sparse": PlantedSparseToy,
    "probe_steering": ProbeSteeringToy,
    "product": ProductToy,
    "scaling": ScalingToy,
    "skip_trigram": SkipTrigramToy,
    "wrong_l0": WrongL0Toy,
}
"""One line a toy."""

__all__ = ["COSTS", "TOYS", "Check", "Cost", "Experiment", "Sample", "Toy", "TrainedToy", "Truth"]
