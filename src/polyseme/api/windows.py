"""Texts as the windows that everything is measured on."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyseme.core.config import Config, fingerprint
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.validation import validate_config
from polyseme.corpora import Corpus, CorpusConfig, Document, Windows, content_key, load_windows
from polyseme.networks import Network
from polyseme.networks.texts import Text, known_tokenizer

CONTEXT = 1024
"""Most tokens a window, where a network has no limit of its own or a higher one."""
CorpusLike = Text | Corpus | Windows | CorpusConfig | Mapping[str, Any]
"""What text comes from: a text, texts, a corpus, a corpus's config or the mapping of one, or windows."""


class _Given(Config):
    corpus: CorpusConfig


@dataclass(frozen=True)
class TextsCorpus:
    """A corpus made of given texts, each a document."""

    texts: Sequence[str]

    @property
    def fingerprint(self) -> str:
        return fingerprint({"texts": [content_key(text) for text in self.texts]})

    def documents(self) -> Iterator[Document]:
        return (Document(f"text {i}", content_key(text), text) for i, text in enumerate(self.texts))


def windows_of(
    network: Network,
    source: CorpusLike,
    *,
    n_tokens: int | None = None,
    context: int | None = None,
    reporter: Reporter | None = None,
) -> Windows:
    """Windows of a text, of texts, of a corpus, or the windows given.

    Args:
        network: whose tokenizer reads them.
        source: texts are documents, packed one after the other.
        n_tokens: at most that many of a corpus's tokens.
        context: tokens a window; by default the network's context, at most `CONTEXT`.
        reporter: receives messages about the texts.

    Raises:
        InputError: no text, an empty one, or a network without a tokenizer.
    """
    if isinstance(source, Windows):
        return source
    tokenizer = known_tokenizer(network.tokenizer, repr(network))
    if isinstance(source, Mapping):
        source = validate_config({"corpus": source}, _Given, where="text").corpus
    corpus: Any  # their fingerprints are cached properties, which no protocol can say
    if isinstance(source, Config):
        corpus = source.build()
    elif isinstance(source, str | Sequence):
        texts: list[object] = [source] if isinstance(source, str) else list(source)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise InputError("there is no text, or an empty one", where="text", fix="give a text or a list of texts")
        corpus = TextsCorpus([str(text) for text in texts])
    elif hasattr(source, "documents"):
        corpus = source
    else:
        fix = 'give a text, a list of texts, a corpus or its config, {"kind": "stdlib"}'
        raise InputError(f"there is no text in a {type(source).__name__}", where="text", fix=fix)
    context = context or min(network.context or CONTEXT, CONTEXT)
    windows = load_windows(
        corpus,
        tokenizer,
        split="train",
        context=context,
        max_tokens=n_tokens,
        heldout_fraction=0,
        allow_fewer=True,
        reporter=reporter,
    )
    used = int((windows.document >= 0).any(0).sum())  # one short text is not run as a whole window
    cut = {name: getattr(windows, name)[:, :used] for name in ("tokens", "document", "special")}
    spaced = None if windows.spaced is None else windows.spaced[:, :used]
    return dataclasses.replace(windows, **cut, spaced=spaced)
