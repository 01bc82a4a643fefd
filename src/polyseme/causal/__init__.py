"""Exact causal effects of latents by full forward passes, each with its null."""

from polyseme.causal.effect import CausalConfig, CausalEffects, causal_effects

__all__ = ["CausalConfig", "CausalEffects", "causal_effects"]
