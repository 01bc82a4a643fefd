"""Null: tokens drawn uniformly from the vocabulary, without the special ones in use."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from polyseme.core.seeds import derive_seed
from polyseme.corpora import PADDING, Windows
from polyseme.nulls.tokens import TokenNull


class UniformTokens(TokenNull):
    """Tokens drawn uniformly from the vocabulary, without the special ones in use."""

    kept: ClassVar[str] = "document lengths and special tokens; the network"
    lost: ClassVar[str] = "token frequencies, and which tokens come together"

    kind: Literal["uniform_tokens"] = "uniform_tokens"

    def replace(self, windows: Windows, vocabulary: int) -> Windows:
        rng = np.random.default_rng(derive_seed(self.seed, "uniform_tokens"))
        counted = ~windows.special
        in_use = np.unique(windows.tokens[windows.special & (windows.document != PADDING)])
        pool = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), in_use)
        tokens = windows.tokens.copy()
        tokens[counted] = pool[rng.integers(0, len(pool), int(counted.sum()))]
        return dataclasses.replace(windows, tokens=tokens)
