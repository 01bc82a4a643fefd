"""From a corpus and a tokenizer to windows: split, sample, encode, pack."""

import hashlib
import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from polyseme.core.errors import InputError
from polyseme.core.progress import Progress, Reporter, Silent
from polyseme.core.seeds import derive_seed
from polyseme.corpora.document import Corpus, Document, Split, content_key, split_of
from polyseme.corpora.encoding import Encoded, Encoder, Tally
from polyseme.corpora.pack import Windows, pack_encoded
from polyseme.corpora.records import LeftOut
from polyseme.corpora.special import SpecialTokens, Tokenizer

_Ids = TypeVar("_Ids", list[int], range)

_CHARS_A_TOKEN = 8
"""Characters held for each wanted token before a sample is tried; more are fetched when they prove too few."""
_LONGEST = 1_000_000
"""Characters of a text that a stretch of it is looked for in, so that no book is held for a page of it."""


def load_windows(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    split: Split,
    context: int,
    max_tokens: int | None = None,
    document_tokens: int | None = None,
    heldout_fraction: float = 0.1,
    seed: int = 0,
    allow_fewer: bool = False,
    special_tokens: SpecialTokens = "parse",
    reporter: Reporter | None = None,
    progress: Progress | None = None,
) -> Windows:
    """Take one side of a corpus's split and pack it into windows.

    Without `max_tokens`, documents come in the corpus's order. With it, they come in the order of the SHA-256 of
    seed and key, so that a small sample covers the whole corpus and a larger one begins with the same documents; the
    corpus is read to its end, but no more text is held than the sample needs.

    Windows and documents open and close as the tokenizer does it by itself (`polyseme.corpora.special.frame`).

    Args:
        corpus: the documents.
        tokenizer: the tokenizer of the network that will read them.
        split: which side of the split.
        context: tokens a window.
        max_tokens: counted tokens wanted; the last window is filled up beyond them. None for all there are.
        document_tokens: largest number of tokens of each document, one stretch of it at a place drawn by `seed`: more
            documents in the same number of tokens, so that intervals over documents rest on many.
        heldout_fraction: share of documents on the held-out side.
        seed: seed of the order under `max_tokens` and of the stretches.
        allow_fewer: where there is less than `max_tokens`, take that and report it.
        special_tokens: what becomes of the tokenizer's control tokens (`<|im_start|>`) where a text spells them out:
            `parse` reads them as such, and they are special; `text` reads them as the plain text they are.
        reporter: receives what was left out, and what is particular about how the text is read.
        progress: receives how many tokens are made.

    Raises:
        InputError: the corpus, or this side of it, is empty or smaller than wanted; the tokenizer fails on a text.
    """
    if not 0 <= heldout_fraction <= 1:
        raise InputError(f"a held-out fraction of {heldout_fraction} is not between 0 and 1", where="heldout_fraction")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}", where="max_tokens", fix="ask for at least one token")
    encoder = Encoder(tokenizer, special_tokens)
    left_out: LeftOut = getattr(corpus, "left_out", None) or LeftOut()
    padding = (tokenizer.pad_token_id, *encoder.frame.opening, tokenizer.eos_token_id, 0)
    budget = None if max_tokens is None else max_tokens * _CHARS_A_TOKEN
    most = math.inf if max_tokens is None else max_tokens

    def advance(done: int) -> None:
        # All of them are made when the last window is full, which the caller says.
        if done < most:
            (progress or Silent()).update(done)

    while True:
        selection = _Selection(corpus, split, heldout_fraction, seed, budget, document_tokens)
        tally = Tally()
        windows = pack_encoded(
            _encoded(selection.documents(), encoder, left_out, tally, document_tokens, seed, advance),
            context=context,
            opening=encoder.frame.opening,
            closing=encoder.frame.closing,
            pad_id=next(token for token in padding if token is not None),
            max_tokens=max_tokens,
        )
        if budget is None or max_tokens is None or windows.n_tokens >= max_tokens or not selection.turned_away:
            break
        budget *= 2
    left_out.report(reporter or Silent())
    wanted = max_tokens
    if allow_fewer and wanted is not None and 0 < windows.n_tokens < wanted:
        (reporter or Silent()).message(
            f"{split}: {windows.n_tokens:,} tokens, which is all there are, instead of {wanted:,}"
        )
        wanted = None
    _check_size(windows, selection, split, heldout_fraction, wanted, document_tokens)
    for note in encoder.notes(tally):
        (reporter or Silent()).message(f"{split}: {note}")
    return windows


def _encoded(
    documents: Iterator[Document],
    encoder: Encoder,
    left_out: LeftOut,
    tally: Tally,
    document_tokens: int | None,
    seed: int,
    advance: Callable[[int], None],
) -> Iterator[Encoded]:
    """The documents as they are packed; whatever is taken is counted in `tally`."""
    done = 0
    for document, encoded in encoder.encode(documents, left_out):
        if document_tokens is not None:
            places = _stretch(range(len(encoded.ids)), document_tokens, document.text, seed)
            encoded = encoded.cut(places.start, places.stop)
        encoder.count(tally, document, encoded)
        advance(done)
        done += len(encoded.ids)
        yield encoded


def _stretch(ids: _Ids, most: int, text: str, seed: int) -> _Ids:
    """At most `most` tokens in a row, from a place that only the text and the seed decide."""
    if len(ids) <= most:
        return ids
    start = derive_seed(seed, "stretch", content_key(text)) % (len(ids) - most + 1)
    return ids[start : start + most]


@dataclass
class _Selection:
    """The documents of one side in the order they are packed, holding about `budget` characters at most."""

    corpus: Corpus
    split: Split
    heldout_fraction: float
    seed: int
    budget: int | None
    document_tokens: int | None
    seen: int = 0
    """Documents of the whole corpus so far."""
    turned_away: int = 0
    """Documents of this side that the budget had no room for."""
    _heap: list[tuple[int, int, Document]] = field(default_factory=list[tuple[int, int, Document]])

    def documents(self) -> Iterator[Document]:
        if self.budget is None:
            return self._side()
        held = 0
        for i, document in enumerate(self._side()):
            # The heap's head is the document that would come last: highest rank first, then the later one.
            heapq.heappush(self._heap, (-self._rank(document), -i, document))
            held += self._length(document)
            while held - self._length(self._heap[0][2]) >= self.budget:
                held -= self._length(heapq.heappop(self._heap)[2])
                self.turned_away += 1
        return (document for _, _, document in sorted(self._heap, key=lambda entry: entry[:2], reverse=True))

    def _length(self, document: Document) -> int:
        """Characters of the document that can be used."""
        most = len(document.text) if self.document_tokens is None else self.document_tokens * _CHARS_A_TOKEN
        return min(len(document.text), most)

    def _side(self) -> Iterator[Document]:
        for document in self.corpus.documents():
            self.seen += 1
            if split_of(document.key, self.heldout_fraction) == self.split:
                if self.document_tokens is not None and document.form == "text" and len(document.text) > _LONGEST:
                    places = _stretch(range(len(document.text)), _LONGEST, document.text, self.seed)
                    document = replace(document, text=document.text[places.start : places.stop])
                yield document

    def _rank(self, document: Document) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{document.key}".encode()).digest()[:16], "big")


def _check_size(
    windows: Windows,
    selection: _Selection,
    split: Split,
    heldout_fraction: float,
    max_tokens: int | None,
    document_tokens: int | None,
) -> None:
    where = f"the {split} side of the corpus (heldout_fraction {heldout_fraction:g})"
    if selection.seen == 0:
        raise InputError(
            "the corpus is empty: it holds no document with text in it",
            where="corpus",
            fix="check the corpus's paths, field or column",
        )
    if not windows.names:
        raise InputError(
            f"all {selection.seen} documents fall on the other side of the split, none on this one",
            where=where,
            fix="give a corpus of more documents (for text files, a smaller `document_chars` makes more of them) "
            "or change `heldout_fraction`",
        )
    if len(windows) == 0:
        raise InputError("the documents hold no token", where=where, fix="check that the tokenizer fits the corpus")
    if max_tokens is not None and windows.n_tokens < max_tokens:
        raise InputError(
            f"the corpus is too small: it has {windows.n_tokens:,} of {max_tokens:,} tokens",
            where=where,
            fix=f"ask for at most {windows.n_tokens:,} tokens, or give a larger corpus"
            + ("" if document_tokens is None else f" or a larger document_tokens than {document_tokens}"),
        )
