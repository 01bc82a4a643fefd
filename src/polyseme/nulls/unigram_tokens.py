"""Null: tokens drawn at random from the corpus's own frequencies."""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int

from polyseme.corpora import Windows
from polyseme.nulls.tokens import TokenNull


class UnigramTokens(TokenNull):
    """Tokens drawn at random from the corpus's own frequencies."""

    kept: ClassVar[str] = "the corpus's token frequencies and document lengths; the network"
    lost: ClassVar[str] = "which tokens come together, in documents and in contexts"
    stream: ClassVar[str] = "unigram_tokens"

    kind: Literal["unigram_tokens"] = "unigram_tokens"

    def draw(self, windows: Windows, vocabulary: int, rng: np.random.Generator) -> Int[np.ndarray, " counted"]:  # noqa: ARG002
        pool = windows.tokens[~windows.special]
        return pool[rng.integers(0, max(1, len(pool)), len(pool))]
