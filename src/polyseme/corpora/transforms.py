"""Nulls of the data: windows of the same shape, boundaries and special tokens, with less structure in between."""

from dataclasses import replace

import numpy as np

from polyseme.core.seeds import derive_seed
from polyseme.corpora.pack import PADDING, Windows


def shuffle_within_document(windows: Windows, seed: int) -> Windows:
    """Permute the counted tokens of each document among the places they have in these windows.

    Preserves each document's token counts, its length and all special tokens; destroys order.
    """
    rng = np.random.default_rng(derive_seed(seed, "shuffle_within_document"))
    counted = ~windows.special
    tokens, document = windows.tokens.copy(), windows.document[counted]
    places = np.argsort(document, kind="stable")
    drawn = np.lexsort((rng.random(len(document)), document))
    shuffled = np.empty_like(tokens[counted])
    shuffled[places] = tokens[counted][drawn]
    tokens[counted] = shuffled
    return replace(windows, tokens=tokens)


def unigram_tokens(windows: Windows, seed: int) -> Windows:
    """Replace every counted token by an independent draw from the windows' own counts of tokens.

    Preserves the distribution of tokens (in expectation), lengths and special tokens; destroys order and what
    makes one document differ from another.
    """
    rng = np.random.default_rng(derive_seed(seed, "unigram_tokens"))
    counted = ~windows.special
    tokens = windows.tokens.copy()
    pool = tokens[counted]
    tokens[counted] = pool[rng.integers(0, max(1, len(pool)), len(pool))]
    return replace(windows, tokens=tokens)


def uniform_tokens(windows: Windows, vocab_size: int, seed: int) -> Windows:
    """Replace every counted token by a uniform draw from the vocabulary, without the special tokens in use.

    Preserves lengths and special tokens; destroys order and the distribution of tokens.
    """
    rng = np.random.default_rng(derive_seed(seed, "uniform_tokens"))
    counted = ~windows.special
    in_use = np.unique(windows.tokens[windows.special & (windows.document != PADDING)])
    pool = np.setdiff1d(np.arange(vocab_size, dtype=np.int32), in_use)
    tokens = windows.tokens.copy()
    tokens[counted] = pool[rng.integers(0, len(pool), int(counted.sum()))]
    return replace(windows, tokens=tokens)
