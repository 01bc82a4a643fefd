"""Control: the tokens of each document in random order."""

from typing import ClassVar, Literal

from polyseme.controls.transform import TokenControl, Transform


class ShuffledTokens(TokenControl):
    """The tokens of each document in random order."""

    kept: ClassVar[str] = "each document's own tokens and their counts; the network"
    lost: ClassVar[str] = "the order of tokens, and so every context"
    transform: ClassVar[Transform] = "shuffle_within_document"

    kind: Literal["shuffled_tokens"] = "shuffled_tokens"
