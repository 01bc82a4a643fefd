"""Firings and windows made by hand."""

import numpy as np
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.corpora import Windows


def text(tokens, *, windows_of_a_document=2):
    """Windows of these token ids, none of them special, one row a window."""
    n, context = tokens.shape
    document = np.repeat(np.arange(n) // windows_of_a_document, context).reshape(n, context).astype(np.int32)
    names = tuple(f"document {i}" for i in range(int(document.max()) + 1))
    lengths = np.bincount(document.reshape(-1))
    return Windows(tokens.astype(np.int32), document, np.zeros_like(tokens, dtype=bool), names, lengths)


def zipfian(rng, n, context, vocabulary):
    """Token ids with frequencies that fall as 1 / rank."""
    share = 1 / np.arange(1, vocabulary + 1)
    return rng.choice(vocabulary, size=(n, context), p=share / share.sum())


def fired(windows, activations):
    """The firings of a dictionary with these activations at the tokens of the windows, in their order."""
    row, column = (~windows.special).nonzero()
    ids = (windows.tokens[row, column], windows.document[row, column], row, column)
    return Firings(csr_array(np.asarray(activations, np.float32)), *(np.asarray(x, np.int32) for x in ids))
