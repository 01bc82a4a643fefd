"""Null: a dictionary whose decoder is random and is not trained."""

from typing import ClassVar, Literal

from polyseme.dictionaries import Direction
from polyseme.nulls.dictionaries import DictionaryNull


class FrozenDecoder(DictionaryNull):
    """Write directions stay as they were drawn; read directions, biases and thresholds are trained.

    Source: Korznikov et al. 2026, Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random Baselines?
    """

    kept: ClassVar[str] = "the network, its text, the architecture, and a trained encoder with biases and thresholds"
    lost: ClassVar[str] = "learned write directions: they are random and are not trained"
    frozen: ClassVar[tuple[Direction, ...]] = ("write",)

    kind: Literal["frozen_decoder"] = "frozen_decoder"
