"""Control: tokens drawn at random from the corpus's own frequencies."""

from typing import ClassVar, Literal

from polyseme.controls.transform import TokenControl, Transform


class UnigramTokens(TokenControl):
    """Tokens drawn at random from the corpus's own frequencies."""

    kept: ClassVar[str] = "the corpus's token frequencies and document lengths; the network"
    lost: ClassVar[str] = "which tokens come together, in documents and in contexts"
    transform: ClassVar[Transform] = "unigram"

    kind: Literal["unigram_tokens"] = "unigram_tokens"
