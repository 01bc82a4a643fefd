"""Nulls of the dictionary: on the network itself and its own text, a dictionary whose directions are partly random."""

from typing import ClassVar

from polyseme.core.seeds import derive_seed
from polyseme.dictionaries import Direction, SparseDictionary
from polyseme.nulls.protocol import Null, Target, kind_of


class DictionaryNull(Null):
    """A dictionary some of whose directions stay as they were drawn, while everything else of it is trained.

    It says what training these directions adds to a score. The network is the real one and so are its vectors: such a
    control says nothing of what a dictionary finds in a network that has learned nothing, and no verdict rests on it.
    """

    targets: ClassVar[Target] = "dictionary"
    frozen: ClassVar[tuple[Direction, ...]]
    """Directions that training leaves as they were drawn."""

    def dictionary(self, dictionary: SparseDictionary, name: str) -> SparseDictionary:
        return dictionary.untrained(seed=derive_seed(self.seed, kind_of(self), name), frozen=self.frozen)
