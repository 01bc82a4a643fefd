"""Null: tokens drawn at random from the corpus's own frequencies."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from polyseme.core.seeds import derive_seed
from polyseme.corpora import Windows
from polyseme.nulls.tokens import TokenNull


class UnigramTokens(TokenNull):
    """Tokens drawn at random from the corpus's own frequencies."""

    kept: ClassVar[str] = "the corpus's token frequencies and document lengths; the network"
    lost: ClassVar[str] = "which tokens come together, in documents and in contexts"

    kind: Literal["unigram_tokens"] = "unigram_tokens"

    def replace(self, windows: Windows, vocabulary: int) -> Windows:  # noqa: ARG002  its own tokens
        rng = np.random.default_rng(derive_seed(self.seed, "unigram_tokens"))
        counted = ~windows.special
        tokens = windows.tokens.copy()
        pool = tokens[counted]
        tokens[counted] = pool[rng.integers(0, max(1, len(pool)), len(pool))]
        return dataclasses.replace(windows, tokens=tokens)
