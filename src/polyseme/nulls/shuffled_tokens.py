"""Null: the tokens of each document in random order."""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int

from polyseme.corpora import Windows
from polyseme.nulls.tokens import TokenNull


class ShuffledTokens(TokenNull):
    """The tokens of each document in random order."""

    kept: ClassVar[str] = "each document's own tokens and their counts; the network"
    lost: ClassVar[str] = "the order of tokens, and so every context"
    stream: ClassVar[str] = "shuffle_within_document"

    kind: Literal["shuffled_tokens"] = "shuffled_tokens"

    def draw(self, windows: Windows, vocabulary: int, rng: np.random.Generator) -> Int[np.ndarray, " counted"]:  # noqa: ARG002
        own, document = windows.tokens[~windows.special], windows.document[~windows.special]
        shuffled = np.empty_like(own)
        shuffled[np.argsort(document, kind="stable")] = own[np.lexsort((rng.random(len(document)), document))]
        return shuffled
