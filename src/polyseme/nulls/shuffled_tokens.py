"""Null: the tokens of each document in random order."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from polyseme.core.seeds import derive_seed
from polyseme.corpora import Windows
from polyseme.nulls.tokens import TokenNull


class ShuffledTokens(TokenNull):
    """The tokens of each document in random order."""

    kept: ClassVar[str] = "each document's own tokens and their counts; the network"
    lost: ClassVar[str] = "the order of tokens, and so every context"

    kind: Literal["shuffled_tokens"] = "shuffled_tokens"

    def replace(self, windows: Windows, vocabulary: int) -> Windows:  # noqa: ARG002  its own tokens
        rng = np.random.default_rng(derive_seed(self.seed, "shuffle_within_document"))
        counted = ~windows.special
        tokens, document = windows.tokens.copy(), windows.document[counted]
        places = np.argsort(document, kind="stable")
        drawn = np.lexsort((rng.random(len(document)), document))
        shuffled = np.empty_like(tokens[counted])
        shuffled[places] = tokens[counted][drawn]
        tokens[counted] = shuffled
        return dataclasses.replace(windows, tokens=tokens)
