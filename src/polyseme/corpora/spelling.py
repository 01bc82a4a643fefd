"""The exact text of single tokens, with everything that cannot be seen made visible."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from polyseme.core.text import visible
from polyseme.corpora.special import is_marker, spelling_of


class TokenTexts:
    """Token ids to visible text, for any tokenizer of transformers, or none.

    A byte-level BPE token is a byte string, not always whole characters: it is decoded on its own, and bytes that are
    part of a character show as ⟨e2⟩. SentencePiece's ▁ is a space and its <0xE2> a byte. Other pieces (WordPiece's
    ##ing) are shown as the tokenizer spells them when they stand alone; in a context they are written out.

    Args:
        tokenizer: with `convert_ids_to_tokens`, and a `backend_tokenizer` where it is a fast one; None: ids as ⟨17⟩.
        limit: longest text, in characters.
    """

    def __init__(self, tokenizer: Any | None, *, limit: int = 48):
        self._tokenizer = tokenizer
        self._limit = limit
        self._kind = spelling_of(tokenizer) or "pieces"
        self._special: frozenset[int] = frozenset(getattr(tokenizer, "all_special_ids", None) or ())
        self._known: dict[int, str] = {}
        self._following: dict[tuple[int, int], str] = {}

    def __getitem__(self, token: int) -> str:
        token = int(token)
        if token not in self._known:
            self._known[token] = self._text(token)
        return self._known[token]

    def many(self, tokens: Iterable[int]) -> tuple[str, ...]:
        """The text of each token."""
        return tuple(self[t] for t in tokens)

    def context(self, tokens: Sequence[int], spaced: Sequence[bool] | None = None) -> tuple[str, ...]:
        """The text of tokens that follow each other, such that they read on as the original text does.

        Args:
            tokens: ids in a row.
            spaced: which of them stand after white space (`Windows.spaced`); None to go by how they are decoded.
        """
        if self._kind != "pieces" or self._tokenizer is None:
            return self.many(tokens)
        out: list[str] = []
        for i, token in enumerate(map(int, tokens)):
            text = self._after(int(tokens[i - 1]) if i else token, token)
            own = str(self._tokenizer.convert_ids_to_tokens(token)).startswith(" ")
            if not own and (spaced is not None or not i):  # a space that decoding puts between any two words
                text = text.lstrip(" ")
            out.append(f" {text}" if spaced is not None and spaced[i] else text)
        return tuple(out)

    def _after(self, before: int, token: int) -> str:
        """What a token adds to the decoded text of the one before it."""
        if (before, token) not in self._following:
            one, both = (str(self._tokenizer.decode(ids)) for ids in ([before], [before, token]))  # pyright: ignore
            added = both[len(one) :] if both.startswith(one) and len(both) > len(one) else ""
            self._following[before, token] = visible(added, limit=self._limit) or self[token]
        return self._following[before, token]

    def _text(self, token: int) -> str:
        piece = None if self._tokenizer is None else self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return f"⟨{token}⟩"
        if token not in self._special or not is_marker(piece):
            if self._kind == "bytes":
                table = _bytes_of_characters()
                if all(c in table for c in piece):
                    piece = bytes(table[c] for c in piece).decode("utf-8", "surrogateescape")
            elif self._kind == "sentencepiece":
                if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                    piece = bytes([int(piece[3:5], 16)]).decode("utf-8", "surrogateescape")
                piece = piece.replace("▁", " ")
        return visible(piece, limit=self._limit) or "⟨empty⟩"


@cache
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's spelling of bytes as printable characters, backwards (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
