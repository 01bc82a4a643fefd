"""Null: a dictionary of random directions, of which only biases and thresholds are trained."""

from typing import ClassVar, Literal

from polyseme.dictionaries import Direction
from polyseme.nulls.dictionaries import DictionaryNull


class FrozenDirections(DictionaryNull):
    """Read and write directions stay as they were drawn; biases and thresholds alone are trained."""

    kept: ClassVar[str] = "the network, its text, the architecture, and trained biases and thresholds"
    lost: ClassVar[str] = "learned directions: those that are read and those that are written are random"
    frozen: ClassVar[tuple[Direction, ...]] = ("read", "write")

    kind: Literal["frozen_directions"] = "frozen_directions"
