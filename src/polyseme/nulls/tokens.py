"""Nulls of the tokens: windows of the same shape, boundaries and special tokens, with less structure in between."""

from abc import abstractmethod
from typing import ClassVar

from polyseme.corpora import Windows
from polyseme.nulls.protocol import Null, Target


class TokenNull(Null):
    """Tokens from which something was destroyed; a kind of it says how, what that keeps and what it destroys."""

    targets: ClassVar[Target] = "tokens"

    @abstractmethod
    def replace(self, windows: Windows, vocabulary: int) -> Windows:
        """The windows with other tokens at every counted place.

        Args:
            windows: of one side of a corpus.
            vocabulary: tokens that the network embeds.
        """
