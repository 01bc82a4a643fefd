"""Nulls of the tokens: windows of the same shape, boundaries and special tokens, with less structure in between."""

import dataclasses
from abc import abstractmethod
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from polyseme.core.seeds import derive_seed
from polyseme.corpora import Windows
from polyseme.nulls.protocol import Null, Target


class TokenNull(Null):
    """Tokens from which something was destroyed; a kind of it says how, what that keeps and what it destroys."""

    targets: ClassVar[Target] = "tokens"
    stream: ClassVar[str]
    """Names its random numbers."""

    @abstractmethod
    def draw(self, windows: Windows, vocabulary: int, rng: np.random.Generator) -> Int[np.ndarray, " counted"]:
        """Other tokens for every counted place, in order."""

    def windows(self, windows: Windows, vocabulary: int) -> Windows:
        tokens = windows.tokens.copy()
        rng = np.random.default_rng(derive_seed(self.seed, self.stream))
        tokens[~windows.special] = self.draw(windows, vocabulary, rng)
        return dataclasses.replace(windows, tokens=tokens)
