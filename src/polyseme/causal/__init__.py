"""Exact causal effects of latents by full forward passes, each with its null; directions to read and to write."""

from polyseme.causal.directions import (
    Probe,
    difference_of_means,
    duals,
    leaks,
    linear_probe,
    optimal_probe,
    surgical_steering,
)
from polyseme.causal.effect import CausalConfig, CausalEffects, Effect, Statistic, causal_effects

__all__ = [
    "CausalConfig",
    "CausalEffects",
    "Effect",
    "Probe",
    "Statistic",
    "causal_effects",
    "difference_of_means",
    "duals",
    "leaks",
    "linear_probe",
    "optimal_probe",
    "surgical_steering",
]
