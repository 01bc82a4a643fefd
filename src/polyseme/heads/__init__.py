"""Attention heads: what they attend to and what they copy."""
