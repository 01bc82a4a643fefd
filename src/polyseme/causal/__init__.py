"""Exact causal effects of latents by full forward passes, each with its null; directions to read and to write."""

from polyseme.causal.config import CausalConfig
from polyseme.causal.directions import (
    Probe,
    difference_of_means,
    duals,
    leaks,
    linear_probe,
    optimal_probe,
    surgical_steering,
)
from polyseme.causal.effect import causal_effects, n_predicted
from polyseme.causal.meaning import Meanings
from polyseme.causal.result import EXPECTED, SIZES, CausalEffects, Expected, Size, array_names

__all__ = [
    "EXPECTED",
    "SIZES",
    "CausalConfig",
    "CausalEffects",
    "Expected",
    "Meanings",
    "Probe",
    "Size",
    "array_names",
    "causal_effects",
    "difference_of_means",
    "duals",
    "leaks",
    "linear_probe",
    "n_predicted",
    "optimal_probe",
    "surgical_steering",
]
