"""The pieces of a batch that a step goes through: each adds to all gradients, so that many entries take little memory
and few entries little time."""

from collections.abc import Iterator

from polyseme.dictionaries import selection
from polyseme.dictionaries.activation import Activation
from polyseme.dictionaries.entries import SparseEntries, concatenated
from polyseme.dictionaries.kernels import spans
from polyseme.dictionaries.selection import Encoder

MOST_ENTRIES = 2**18
"""Of a piece, on a CPU: a step keeps some sixty bytes an entry, and every piece reads and writes all gradients."""


def pieces(encoder: Encoder, activation: Activation) -> Iterator[tuple[slice, SparseEntries | Encoder]]:
    """Some rows after the other and their entries, about `MOST_ENTRIES` at a time; the encoder of those rows where
    entries are too many to be gathered one by one.

    What chooses by the batch, or a fixed number a row, is asked once. On a GPU, where launches cost more than memory,
    all entries are one piece.
    """
    n_rows, on_cpu = len(encoder.x), encoder.x.device.type == "cpu"
    most = MOST_ENTRIES if on_cpu else 2**62
    a_part = selection.BLOCK[0] if on_cpu and activation.has_coefficient else n_rows
    waiting: list[SparseEntries] = []
    start = 0  # of the rows of those
    for asked in spans(n_rows, a_part):
        part = encoder.rows(asked)
        entries = activation.select(part, training=True)
        if asked.stop == n_rows:
            encoder.forget()
        if waiting and (entries is None or sum(len(e.pre) for e in (*waiting, entries)) > most):
            yield slice(start, asked.start), concatenated(waiting)
            waiting = []
        if entries is None:
            for rows in spans(asked.stop, selection.BLOCK[0], asked.start):
                yield rows, encoder.rows(rows)
        elif len(entries.pre) > most:
            for rows, some in entries.pieces(most):
                yield slice(asked.start + rows.start, asked.start + rows.stop), some
        else:
            start = start if waiting else asked.start
            waiting.append(entries)
    if waiting:
        yield slice(start, n_rows), concatenated(waiting)
