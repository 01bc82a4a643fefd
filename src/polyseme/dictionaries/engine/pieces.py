"""The pieces of a batch that a step goes through: each adds to all gradients, so that many entries take little memory
and few entries little time."""

from collections.abc import Iterator

from polyseme.dictionaries.engine.activation import Activation
from polyseme.dictionaries.engine.entries import SparseEntries, concatenated
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.tuning import spans


def pieces(encoder: Encoder, activation: Activation) -> Iterator[tuple[slice, SparseEntries | Encoder]]:
    """Some rows after the other and their entries, about `most_entries` at a time; the encoder of those rows where
    entries are too many to be gathered one by one.

    A selection by the batch, or of a fixed number a row, is made once; one by thresholds is made for as many rows at a
    time as have about one piece of entries, estimated from the rows before. On a GPU, where launches cost more than
    memory, all entries are one piece.
    """
    n_rows, of_a_block = len(encoder.x), encoder.tuning.block[0]
    most, least, of_a_tile = encoder.tuning.most_entries, max(1, of_a_block // 4), max(1, of_a_block // 2)
    if encoder.x.device.type != "cpu":
        most, least, of_a_block, of_a_tile = 2**62, n_rows, n_rows, n_rows
    waiting: list[SparseEntries] = []
    begun = end = 0  # of the rows of those, and of all rows that are done
    n_asked = least if activation.by_threshold else n_rows
    while end < n_rows:
        start, end = end, min(n_rows, end + n_asked)
        part = encoder.rows(slice(start, end))
        entries = activation.select(part, training=True)
        if entries is None:  # the rest of a block is not asked about
            end = min(n_rows, start + of_a_block)
        if end == n_rows:
            encoder.clear_cache()
        if waiting and (entries is None or sum(len(e.pre) for e in (*waiting, entries)) > most):
            yield slice(begun, start), _drained(waiting)
        if entries is None:
            for rows in spans(end, of_a_tile, start):  # half a block: as fast, in half the memory
                yield rows, encoder.rows(rows)
            continue
        if len(entries.pre) > most:
            for rows, some in entries.pieces(most):
                yield slice(start + rows.start, start + rows.stop), some
        else:
            begun = begun if waiting else start
            waiting.append(entries)
        fitting = most * len(part.x) // max(1, len(entries.pre))
        n_asked = max(least, min(of_a_block, 1 << (max(1, fitting).bit_length() - 1)))
    if waiting:
        yield slice(begun, n_rows), _drained(waiting)


def _drained(parts: list[SparseEntries]) -> SparseEntries:
    """All of them as one, which alone is kept."""
    together = concatenated(parts)
    parts.clear()
    return together
