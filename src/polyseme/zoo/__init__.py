"""The zoo: networks whose features are known, and what each of them should show."""

from polyseme.zoo import (
    absolute_value,
    absorption,
    bit_extraction,
    compressed_computation,
    correlated_pairs,
    datapoint_features,
    hedging,
    incidental,
    induction,
    missed_solution,
    modular_addition,
    planted_sparse,
    probe_steering,
    product,
    scaling,
    skip_trigram,
    superposition,
    synth_sae_bench,
    universal_and,
    wrong_l0,
)
from polyseme.zoo.tools.checks import COSTS, Check, Cost, Experiment
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

TOYS: dict[str, Entry] = {
    "absolute_value": absolute_value.ENTRY,
    "absorption": absorption.ENTRY,
    "compressed_computation": compressed_computation.ENTRY,
    "universal_and": universal_and.ENTRY,
    "superposition": superposition.ENTRY,
    "bit_extraction": bit_extraction.ENTRY,
    "correlated_pairs": correlated_pairs.ENTRY,
    "datapoint_features": datapoint_features.ENTRY,
    "hedging": hedging.ENTRY,
    "incidental": incidental.ENTRY,
    "induction": induction.ENTRY,
    "missed_solution": missed_solution.ENTRY,
    "modular_addition": modular_addition.ENTRY,
    "planted_sparse": planted_sparse.ENTRY,
    "probe_steering": probe_steering.ENTRY,
    "product": product.ENTRY,
    "scaling": scaling.ENTRY,
    "skip_trigram": skip_trigram.ENTRY,
    "synth_sae_bench": synth_sae_bench.ENTRY,
    "wrong_l0": wrong_l0.ENTRY,
}
"""One line a toy."""

__all__ = ["COSTS", "TOYS", "Check", "Cost", "Entry", "Experiment", "Sample", "Toy", "TrainedToy", "Truth"]
