"""The one pass over held-out windows that reconstruction, look-up tables and firings share."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int

from polyseme.activations.firings import check_size, encode_windows
from polyseme.activations.reading import Reader, Reading
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding, BindingLike, located_pairs
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import Reconstructor
from polyseme.kernels.shield import shielded

Visitor = Callable[[Reading, Mapping[str, Latents]], None]
"""Sees every batch of the one network pass: the vectors of every site and the latents of every dictionary."""


def counted_documents(windows: Windows) -> Int[np.ndarray, " document"]:
    """Indices of the documents with a counted token, ascending: the rows of every `DocumentSums`.

    Raises:
        InputError: there is no counted token.
    """
    documents = np.unique(windows.document[~windows.special])
    if not len(documents):
        raise InputError(
            "there is no held-out token to evaluate on",
            where=f"{len(windows)} windows of {len(windows.names)} documents",
            fix="give a larger corpus or a larger held-out fraction",
        )
    return documents


def check_width(network: Reader, name: str, binding: Binding[Site], dictionary: Reconstructor) -> None:
    """Raise `InputError` unless the dictionary reads and writes vectors of the width of its sites."""
    check_size(network, name, binding, "reads", dictionary.d_in)
    check_size(network, name, binding, "writes", dictionary.d_out)


@shielded
def sweep(
    network: Reader,
    windows: Windows,
    dictionaries: Mapping[str, tuple[BindingLike, Reconstructor]],
    visitors: Sequence[Visitor],
    *,
    sites: Sequence[Site] = (),
    batch_windows: int = 16,
    reporter: Reporter | None = None,
) -> None:
    """One pass over the windows that feeds every visitor: the forward pass and each encoding happen once.

    Args:
        network: read in one pass for all sites.
        windows: tokens.
        dictionaries: name to (its binding, the dictionary).
        visitors: each is called with every batch.
        sites: further sites to read, where no dictionary is.
        batch_windows: windows a forward pass, at most.
        reporter: receives how many tokens are done.
    """
    counted_documents(windows)
    dictionaries = located_pairs(dictionaries, network)
    for name, (binding, dictionary) in dictionaries.items():
        check_width(network, name, binding, dictionary)
    touched = dict.fromkeys(site for binding, _ in dictionaries.values() for site in binding.places)
    for reading, latents in encode_windows(
        network, windows, dictionaries, sites=[*touched, *sites], batch_windows=batch_windows, reporter=reporter
    ):
        with torch.inference_mode():
            for visitor in visitors:
                visitor(reading, latents)
