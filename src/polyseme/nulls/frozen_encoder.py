"""Null: a dictionary whose encoder's directions are random and are not trained."""

from typing import ClassVar, Literal

from polyseme.dictionaries import Direction
from polyseme.nulls.dictionaries import DictionaryNull


class FrozenEncoder(DictionaryNull):
    """Read directions stay as they were drawn; write directions, biases and thresholds are trained.

    Source: Korznikov et al. 2026, Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random Baselines?
    """

    kept: ClassVar[str] = "the network, its text, the architecture, and a trained decoder with biases and thresholds"
    lost: ClassVar[str] = "learned read directions: they are random and are not trained"
    frozen: ClassVar[tuple[Direction, ...]] = ("read",)

    kind: Literal["frozen_encoder"] = "frozen_encoder"
