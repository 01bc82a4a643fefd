"""Null: tokens drawn uniformly from the vocabulary, without the special ones in use."""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int

from polyseme.corpora import PADDING, Windows
from polyseme.nulls.tokens import TokenNull


class UniformTokens(TokenNull):
    """Tokens drawn uniformly from the vocabulary, without the special ones in use."""

    kept: ClassVar[str] = "document lengths and special tokens; the network"
    lost: ClassVar[str] = "token frequencies, and which tokens come together"
    stream: ClassVar[str] = "uniform_tokens"

    kind: Literal["uniform_tokens"] = "uniform_tokens"

    def draw(self, windows: Windows, vocabulary: int, rng: np.random.Generator) -> Int[np.ndarray, " counted"]:
        in_use = np.unique(windows.tokens[windows.special & (windows.document != PADDING)])
        pool = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), in_use)
        return pool[rng.integers(0, len(pool), int((~windows.special).sum()))]
