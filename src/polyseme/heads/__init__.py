"""Attention heads: what they attend to and what they copy."""

from polyseme.heads.circuits import Maps, copying_scores, head_maps
from polyseme.heads.patterns import Pattern, attention_patterns
from polyseme.heads.scores import HeadScoresConfig, head_scores, prefix_matching, previous_token, repeated_sequences

__all__ = [
    "HeadScoresConfig",
    "Maps",
    "Pattern",
    "attention_patterns",
    "copying_scores",
    "head_maps",
    "head_scores",
    "prefix_matching",
    "previous_token",
    "repeated_sequences",
]
