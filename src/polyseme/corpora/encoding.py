"""Documents to token ids, with the places of control tokens known, and notes about how they were read."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Int

from polyseme.core.errors import InputError
from polyseme.corpora.document import Document, first_line
from polyseme.corpora.records import LeftOut
from polyseme.corpora.special import SpecialTokens, Tokenizer, control_tokens, encode_plainly, frame, spelling_of

_BATCH_DOCUMENTS = 64
_BATCH_CHARS = 1 << 20
_SAMPLE_CHARS = 100_000
_NOTABLE = 0.01
"""Share of unknown tokens from which it is said."""


@dataclass(frozen=True)
class Encoded:
    """A document as token ids.

    Attributes:
        name: the document's name.
        ids: token ids, without anything that packing puts around them.
        special: which of them are control tokens that the document spells out.
        n_bytes: UTF-8 bytes of the text, control tokens left out.
        spaced: which of them stand after white space that no token holds; None where tokens hold their own.
    """

    name: str
    ids: Int[np.ndarray, " token"]
    special: Bool[np.ndarray, " token"]
    n_bytes: int
    spaced: Bool[np.ndarray, " token"] | None = None

    def cut(self, start: int, stop: int) -> "Encoded":
        """Some tokens of the document in a row, with their share of its bytes."""
        share = (stop - start) / max(1, len(self.ids))
        spaced = None if self.spaced is None else self.spaced[start:stop]
        return Encoded(self.name, self.ids[start:stop], self.special[start:stop], round(self.n_bytes * share), spaced)


@dataclass
class Tally:
    """What was found in the documents that were packed.

    Attributes:
        n_tokens: tokens that count.
        n_unknown: those of them that stand for text outside the tokenizer's vocabulary.
        n_documents: documents in which a control token is spelt out.
        spelt: control tokens spelt out, by spelling.
        n_sampled: characters of the first documents, white space and marks left out.
        n_lost: those of them that are in no token.
        n_bare_chats: chats written without a template.
    """

    n_tokens: int = 0
    n_unknown: int = 0
    n_documents: int = 0
    spelt: Counter[str] = field(default_factory=Counter[str])
    n_sampled: int = 0
    n_lost: int = 0
    n_bare_chats: int = 0


class Encoder:
    """Encodes documents for one network.

    Args:
        tokenizer: the network's tokenizer.
        special_tokens: whether control tokens that a text spells out are read as such or as plain text.
    """

    def __init__(self, tokenizer: Tokenizer, special_tokens: SpecialTokens = "parse"):
        self.tokenizer = tokenizer
        self.special_tokens: SpecialTokens = special_tokens
        self.frame = frame(tokenizer)
        self.control = control_tokens(tokenizer)
        self._control_ids = np.array(sorted(self.control.spelling), dtype=np.int32)
        self._spaces_lost = spelling_of(tokenizer) == "pieces"

    def encode(self, documents: Iterable[Document], left_out: LeftOut) -> Iterator[tuple[Document, Encoded]]:
        """Each document, as it is read, with its ids; some documents at a time.

        Raises:
            InputError: a document cannot be encoded, and `left_out` leaves nothing out.
        """
        for batch in _batches(documents):
            found = iter(self._ids([d for d in batch if d.form == "text"]))
            for document in batch:
                try:
                    yield self._one(document, next(found) if document.form == "text" else None)
                except InputError as error:
                    left_out.take(error)

    def _one(self, document: Document, ids: list[int] | None) -> tuple[Document, Encoded]:
        if document.form == "ids":
            return self._given(document)
        if document.form == "messages":
            document = replace(document, text=self._written(document))
            # A template writes control tokens; what special_tokens says is about texts.
            return document, self._encoded(document, self._ids_of_one(document, "parse"), parse=True)
        found = self._ids_of_one(document, self.special_tokens) if ids is None else ids
        return document, self._encoded(document, found, parse=self.special_tokens == "parse")

    def _ids(self, batch: Sequence[Document]) -> list[list[int] | None]:
        """Ids of each text; None of all where the tokenizer fails on one of them."""
        try:
            return [*self._read([document.text for document in batch], self.special_tokens)] if batch else []
        except Exception:  # noqa: BLE001 - the document at fault is looked for one by one
            return [None] * len(batch)

    def _ids_of_one(self, document: Document, special_tokens: SpecialTokens) -> list[int]:
        try:
            return self._read([document.text], special_tokens)[0]
        except Exception as error:
            raise InputError(
                f"the tokenizer fails on this document ({first_line(error)})",
                where=document.name,
                fix="use a tokenizer with a token for unknown text, or leave the document out",
            ) from error

    def _read(self, texts: list[str], special_tokens: SpecialTokens) -> list[list[int]]:
        if special_tokens == "text" or self._backend is None:
            return encode_plainly(self.tokenizer, texts, special_tokens)
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def _written(self, document: Document) -> str:
        """The text of a chat: what the tokenizer's template makes of it, else its contents, a line each."""
        tokenizer: Any = self.tokenizer
        messages: list[dict[str, Any]] = json.loads(document.text)
        if getattr(tokenizer, "chat_template", None) is None:
            return "\n".join(_spoken(message["content"]) for message in messages if message.get("content") is not None)
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:
            raise InputError(
                f"the tokenizer's chat template cannot write this chat ({first_line(error)})",
                where=document.name,
                fix='correct the messages, or set `errors = "skip"` to leave such chats out',
            ) from error

    def _given(self, document: Document) -> tuple[Document, Encoded]:
        """A document that came as token ids."""
        ids = np.array(json.loads(document.text), dtype=np.int64)
        size = len(self.tokenizer)
        if int(ids.max()) >= size:
            raise InputError(
                f"token id {int(ids.max())} is outside the vocabulary of the network's tokenizer, which has {size}",
                where=document.name,
                fix="give ids that this network's tokenizer made, or name the column of texts",
            )
        ids = ids.astype(np.int32)
        special = np.isin(ids, self._control_ids)
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id  # without the one the other serves for it
        around = {*self.frame.opening, *self.frame.closing, eos if pad is None else pad}
        places = self._within(ids, special, around)
        ids, special = ids[places], special[places]
        text = str(self.tokenizer.decode(ids[~special].tolist()))
        document = replace(document, text=text)
        return document, Encoded(document.name, ids, special, len(text.encode("utf-8", "surrogatepass")))

    @staticmethod
    def _within(ids: Int[np.ndarray, " token"], special: Bool[np.ndarray, " token"], around: set[int | None]) -> slice:
        """What is left without the special tokens at either end that packing puts there itself: none is doubled."""
        start, stop = 0, len(ids)
        while start < stop and special[start] and int(ids[start]) in around:
            start += 1
        while stop > start and special[stop - 1] and int(ids[stop - 1]) in around:
            stop -= 1
        return slice(start, stop)

    @cached_property
    def _backend(self) -> Any | None:
        """A copy of the tokenizer that has no words among its special tokens, where it has some."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not self.control.words:
            return None
        from tokenizers import Tokenizer as Backend

        parts = json.loads(backend.to_str())
        kept = [token for token in parts["added_tokens"] if token["id"] not in self.control.words]
        if len(kept) == len(parts["added_tokens"]):
            return None
        copy: Any = Backend.from_str(json.dumps({**parts, "added_tokens": kept}))
        copy.no_truncation()
        copy.no_padding()
        return copy

    def _encoded(self, document: Document, found: Sequence[int], *, parse: bool) -> Encoded:
        ids = np.asarray(found, dtype=np.int32)
        special = np.zeros(len(ids), dtype=bool)
        if parse:
            special = np.isin(ids, self._control_ids)
            special &= ~self._unknown(ids, document.text)
        size = len(document.text.encode("utf-8", "surrogatepass"))
        for token, n in zip(*np.unique(ids[special], return_counts=True), strict=True):
            size -= int(n) * len(self.control.spelling[int(token)].encode("utf-8", "surrogatepass"))
        places = self._within(ids, special, {*self.frame.opening})
        spaced = self._spaced(document.text, len(ids), parse=parse) if self._spaces_lost else None
        return Encoded(
            document.name, ids[places], special[places], max(0, size), None if spaced is None else spaced[places]
        )

    def _spaced(self, text: str, n: int, *, parse: bool) -> Bool[np.ndarray, " token"] | None:
        """Which tokens stand after white space that is in no token."""
        offsets = self._offsets(text, parse=parse)
        if len(offsets) != n:
            return None
        spaced, before = np.zeros(n, dtype=bool), 0
        for i, (start, stop) in enumerate(offsets):
            spaced[i] = any(c.isspace() for c in text[before:start])
            before = max(before, stop)
        return spaced

    def _offsets(self, text: str, *, parse: bool) -> list[tuple[int, int]]:
        """Each token's first character and the one after its last."""
        if parse and self._backend is not None:
            return self._backend.encode(text, add_special_tokens=False).offsets
        options = {"add_special_tokens": False, "split_special_tokens": not parse, "padding": False}
        found = self.tokenizer([text], return_offsets_mapping=True, truncation=False, verbose=False, **options)
        return found["offset_mapping"][0]

    def _unknown(self, ids: Int[np.ndarray, " token"], text: str) -> Bool[np.ndarray, " token"]:
        """Tokens that stand for unknown text, where the token for it has another role and `text` does not spell it."""
        token = self.tokenizer.unk_token_id
        spelt = None if token is None else self.control.spelling.get(token)
        if spelt is None or spelt in text:
            return np.zeros(len(ids), dtype=bool)
        return ids == token

    def count(self, tally: Tally, document: Document, encoded: Encoded) -> None:
        """Add what is in a document to the tally."""
        token = self.tokenizer.unk_token_id
        counted = encoded.ids[~encoded.special]
        if document.form == "messages":
            tally.n_bare_chats += getattr(self.tokenizer, "chat_template", None) is None
        tally.n_tokens += len(counted)
        tally.n_unknown += 0 if token is None else int((counted == token).sum())
        if self.special_tokens == "parse" or encoded.special.any():
            found = Counter(self.control.spelling[token] for token in encoded.ids[encoded.special].tolist())
        else:
            found = Counter(self._spellings.findall(document.text))
        tally.spelt += found
        tally.n_documents += bool(found)
        if tally.n_sampled < _SAMPLE_CHARS:
            self._sample(tally, document.text[:_SAMPLE_CHARS])

    @cached_property
    def _spellings(self) -> "re.Pattern[str]":
        longest_first = sorted(self.control.spelling.values(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _sample(self, tally: Tally, text: str) -> None:
        """Look for characters that no token covers; a tokenizer without offsets is not looked at."""
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            return
        covered = bytearray(len(text))
        for start, stop in self._offsets(text, parse=self.special_tokens == "parse"):
            covered[start:stop] = b"\1" * (stop - start)
        # Marks merge with the letter before them, and many tokenizers leave out control characters on purpose.
        held = [bool(c) for c, char in zip(covered, text, strict=True) if unicodedata.category(char)[0] not in "ZCM"]
        tally.n_sampled += len(held)
        tally.n_lost += len(held) - sum(held)

    def notes(self, tally: Tally) -> list[str]:
        """What a reader should know about how the documents were encoded, one sentence each."""
        notes = [self.frame.note] if self.frame.note else []
        if tally.n_bare_chats:
            notes.append(
                f"the tokenizer has no chat template, so {tally.n_bare_chats:,} chats are read as the contents of "
                "their messages, a line each, without roles"
            )
        if tally.spelt:
            most = ", ".join(f"{name} {n:,} times" for name, n in tally.spelt.most_common(4))
            kinds = f"{most}{', …' if len(tally.spelt) > 4 else ''}"
            where = f"{tally.spelt.total():,} control tokens spelt out in {tally.n_documents:,} documents ({kinds})"
            notes.append(
                f'{where} are read as such and count in no statistic; special_tokens = "text" reads them as plain text'
                if self.special_tokens == "parse"
                else f'{where} are read as plain text; special_tokens = "parse" reads them as control tokens'
            )
        if tally.n_unknown >= max(1, _NOTABLE * tally.n_tokens):
            name = self.tokenizer.convert_ids_to_tokens(self.tokenizer.unk_token_id or 0)
            share = tally.n_unknown / tally.n_tokens
            notes.append(
                f"{share:.1%} of the tokens are {name}: that much of the text is outside the tokenizer's vocabulary, "
                "and the network does not read it"
            )
        if tally.n_lost >= max(1, 0.1 * _NOTABLE * tally.n_sampled):
            share = tally.n_lost / tally.n_sampled
            notes.append(
                f"{share:.1%} of the characters in a sample are in no token: the tokenizer drops them, and the network "
                "does not read them"
            )
        return notes


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of bounded number and size."""
    held: list[Document] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document.text)
        if len(held) >= _BATCH_DOCUMENTS or size >= _BATCH_CHARS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _spoken(content: object) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = cast(list[Any], content) if isinstance(content, list) else []
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)
