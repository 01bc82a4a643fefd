"""Corpora: where text comes from, split by document and packed into token windows.

A corpus is one file here and one line in `CorpusConfig`.
"""

from typing import Annotated, Any, get_args

from pydantic import Field

from polyseme.core.config import Config
from polyseme.corpora.document import Corpus, Document, Split, content_key, split_of
from polyseme.corpora.huggingface import HuggingFaceCorpusConfig
from polyseme.corpora.jsonl import JsonlCorpusConfig
from polyseme.corpora.loading import load_windows
from polyseme.corpora.pack import PADDING, Windows, load_saved_windows, pack, save_windows
from polyseme.corpora.parquet import ParquetCorpusConfig
from polyseme.corpora.special import SpecialTokens, Tokenizer
from polyseme.corpora.stdlib import StdlibCorpusConfig
from polyseme.corpora.text import TextCorpusConfig

CorpusConfig = Annotated[
    StdlibCorpusConfig
    | TextCorpusConfig
    | JsonlCorpusConfig
    | ParquetCorpusConfig
    | HuggingFaceCorpusConfig,
    Field(discriminator="kind"),
]  # fmt: skip
"""The table of corpora: any of their configs; `kind` says which."""


def _table(union: Any) -> dict[str, type[Config]]:
    return {config.model_fields["kind"].default: config for config in get_args(get_args(union)[0])}


CORPORA: dict[str, type[Config]] = _table(CorpusConfig)
"""Each corpus's `kind` and config."""

__all__ = [
    "CORPORA",
    "PADDING",
    "Corpus",
    "CorpusConfig",
    "Document",
    "HuggingFaceCorpusConfig",
    "JsonlCorpusConfig",
    "ParquetCorpusConfig",
    "SpecialTokens",
    "Split",
    "StdlibCorpusConfig",
    "TextCorpusConfig",
    "Tokenizer",
    "Windows",
    "content_key",
    "load_saved_windows",
    "load_windows",
    "pack",
    "save_windows",
    "split_of",
]
