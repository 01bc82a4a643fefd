"""The inner loops of a training step in C (`kernels.c`), where they were built and a CPU in float32 asks for them.

They do what takes longest beside the encoder's product: the k largest of each row, or all above a bound, while the
product comes block by block (torch's operations look at every number some four times, these once or twice, in cache); a
reconstruction together with the products that its gradient needs (the decoder's rows are still in cache); such products
alone, block by block of the decoder, where rows have many entries; and sums of rows. Everything works without them:
`kernels`, `entries` and `selection` ask `usable` and go by torch's operations otherwise.
"""

import ctypes

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.native import POINTER, SIZE, loaded, run

_STRIDE = 64
"""Columns between two looks at how many places a row has left (`kernels.c`)."""


class _Above(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("tile", "bias", "bounds")),
        *(("n", SIZE), ("first", ctypes.c_int32)),
        *((name, POINTER) for name in ("counts", "starts", "values", "latents")),
    )


class _Gather(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("values", "latents", "starts", "counts")),
        *(("blocks", SIZE), ("rows", SIZE)),
        *((name, POINTER) for name in ("offsets", "out_values", "out_latents")),
    )


class _Top(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("tile", "bias")),
        *(("n", SIZE), ("first", ctypes.c_int32), ("k", SIZE), ("room", SIZE)),
        *((name, POINTER) for name in ("values", "latents", "counts", "bounds")),
    )


class _Bags(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("weight", "indices", "order", "offsets", "values", "goal", "out", "dots")),
        ("d", SIZE),
    )


class _Nonzero(ctypes.Structure):
    _fields_ = tuple((name, POINTER) for name in ("values", "offsets", "counts", "starts", "kept"))


class _Dots(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("weight", "indices", "offsets", "g", "dots", "next")),
        *((name, SIZE) for name in ("n", "d", "block")),
    )


class TopK:
    """The k largest positive pre-activations of each row, taken in block by block of latents.

    A row holds candidates in places of its own; when they are full the k largest are kept and the kth becomes the
    bound that later ones must exceed. So a number is compared once, and few are moved.

    Args:
        rows: how many.
        k: entries a row, at most.
    """

    def __init__(self, rows: int, k: int):
        self._k = k
        self._room = self.places(k)
        self._values = torch.empty(rows, self._room)
        self._latents = torch.empty(rows, self._room, dtype=torch.int32)
        self._counts = torch.zeros(rows, dtype=torch.int32)
        self._bounds = torch.zeros(rows)

    @staticmethod
    def places(k: int) -> int:
        """Candidates of a row that are held at a time, each of eight bytes."""
        return 2 * (k + _STRIDE)

    def take(self, rows: slice, tile: Float[Tensor, "rows block"], bias: Float[Tensor, " block"], first: int) -> None:
        """The products of `rows` with a block of latents, the first of which is `first`; blocks come in order."""
        state = (t[rows] for t in (self._values, self._latents, self._counts, self._bounds))
        n, width = tile.shape
        run("polyseme_top_k_take", n, _Top, tile, bias, width, first, self._k, self._room, *state)

    def finish(self) -> tuple[Float[Tensor, " entry"], Int[Tensor, " entry"], Int[Tensor, " rows"]]:
        """Values, latents (ascending in a row, the first of equals) and entries a row, when all blocks were taken."""
        n, state = len(self._counts), (self._values, self._latents, self._counts, self._bounds)
        run("polyseme_top_k_finish", n, _Top, None, None, 0, 0, self._k, self._room, *state)
        return packed(self._values, self._latents, self._counts.to(torch.int64))


class Above:
    """Every pre-activation above its latent's bound, taken in block by block of latents, each with all its rows.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int):
        self._rows = rows
        self._values: list[Tensor] = []
        self._latents: list[Tensor] = []
        self._counts: list[Tensor] = []
        self.n_entries = 0
        """Found so far."""

    def take(
        self,
        tile: Float[Tensor, "rows block"],
        bias: Float[Tensor, " block"],
        bounds: Float[Tensor, " block"],
        first: int,
    ) -> None:
        """The products of the next rows with a block of latents, the first of which is `first`."""
        n, width = tile.shape
        counts = torch.empty(n, dtype=torch.int64)
        run("polyseme_above", n, _Above, tile, bias, bounds, width, first, counts, None, None, None)
        ends = counts.cumsum(0)
        total = int(ends[-1])
        values, latents = torch.empty(total), torch.empty(total, dtype=torch.int32)
        if total:
            run("polyseme_above", n, _Above, tile, bias, bounds, width, first, None, ends - counts, values, latents)
        self._values.append(values)
        self._latents.append(latents)
        self._counts.append(counts)
        self.n_entries += total

    def finish(self) -> tuple[Float[Tensor, " entry"], Int[Tensor, " entry"], Int[Tensor, " rows"]]:
        """Values, latents (ascending in a row) and entries a row, when all blocks were taken."""
        counts = torch.cat(self._counts)
        starts, a_row = counts.cumsum(0) - counts, counts.view(-1, self._rows).sum(0)
        values = torch.cat(self._values)
        self._values.clear()  # there may be a great many, and a copy follows
        latents = torch.cat(self._latents)
        self._latents.clear()
        return (*gathered(values, latents, starts, counts, a_row), a_row)


def packed(
    values: Float[Tensor, "rows places"], latents: Int[Tensor, "rows places"], counts: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " entry"], Int[Tensor, " entry"], Int[Tensor, " rows"]]:
    """The first `counts` of each row, one after the other."""
    rows, places = values.shape
    values, latents = values.view(-1), latents.view(-1)
    if int(counts.sum()) < len(values):
        values, latents = gathered(values, latents, torch.arange(0, rows * places, places), counts, counts)
    return values, latents, counts


def gathered(
    values: Float[Tensor, " place"],
    latents: Int[Tensor, " place"],
    starts: Int[Tensor, " pieces"],
    counts: Int[Tensor, " pieces"],
    a_row: Int[Tensor, " rows"],
) -> tuple[Float[Tensor, " entry"], Int[Tensor, " entry"]]:
    """Each row's entries, one row after the other.

    Args:
        values, latents: of all entries, wherever they are.
        starts, counts: of the pieces that rows are made of: the first piece of every row, then the second of every row.
        a_row: entries of each row, the sum of its counts.
    """
    rows, ends = len(a_row), a_row.cumsum(0)
    found, where = values.new_empty(int(ends[-1])), latents.new_empty(int(ends[-1]))
    fields = (values, latents, starts, counts, len(counts) // rows, rows, ends - a_row, found, where)
    run("polyseme_gather", rows, _Gather, *fields)
    return found, where


def nonzero(
    values: Float[Tensor, " entry"], offsets: Int[Tensor, " bag_plus_1"]
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " bag_plus_1"]]:
    """Which entries are not zero, and where each bag's begin among them, and the end."""
    assert offsets.dtype == torch.int32
    bags = len(offsets) - 1
    counts, starts = torch.empty(bags, dtype=torch.int64), torch.zeros(bags + 1, dtype=torch.int64)
    run("polyseme_nonzero", bags, _Nonzero, values, offsets, counts, None, None)
    torch.cumsum(counts, 0, out=starts[1:])
    kept = torch.empty(int(starts[-1]), dtype=torch.int32)
    if len(kept):
        run("polyseme_nonzero", bags, _Nonzero, values, offsets, None, starts, kept)
    return kept, starts


def sort_by_latent(
    latents: Int[Tensor, " entry"], n_latents: int
) -> tuple[Int[Tensor, " entry"], Int[Tensor, " n_latents_plus_1"]]:
    """The entries sorted by latent (stable), and where each latent's begin; all int32."""
    assert latents.dtype == torch.int32
    order, starts = torch.empty_like(latents), torch.zeros(n_latents + 1, dtype=torch.int32)
    pointers = (POINTER(t.data_ptr()) for t in (starts, order))
    sort = loaded().polyseme_sort_by_latent
    sort(POINTER(latents.data_ptr()), SIZE(len(latents)), SIZE(n_latents), *pointers)
    return order, starts


def sum_bags(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    values: Float[Tensor, " entry"],
    out: Float[Tensor, "bag d"],
    order: Int[Tensor, " entry"] | None = None,
) -> None:
    """Into `out`, for each bag of entries Σ values × weight[indices]; what is not a value is int32.

    Args:
        weight, indices, values: as in the sum.
        offsets: where each bag begins, and the end.
        out: overwritten.
        order: the entries as the bags have them, where that is not their own order.
    """
    assert indices.dtype == offsets.dtype == torch.int32
    assert order is None or order.dtype == torch.int32
    n, d = out.shape
    run("polyseme_sum_bags", n, _Bags, weight, indices, order, offsets, values, None, out, None, d)


def residual_and_dot(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    values: Float[Tensor, " entry"],
    goal: Float[Tensor, "bag d"],
    residual: Float[Tensor, "bag d"],
) -> Float[Tensor, " entry"]:
    """r = Σ values × weight[indices] − goal of each bag into `residual`, and ⟨r, weight[index]⟩ of each entry."""
    assert indices.dtype == offsets.dtype == torch.int32
    dots = torch.empty_like(values)
    n, d = goal.shape
    run("polyseme_residual_and_dot", n, _Bags, weight, indices, None, offsets, values, goal, residual, dots, d)
    return dots


def dot(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    g: Float[Tensor, "bag d"],
    block: int,
) -> Float[Tensor, " entry"]:
    """⟨g[bag], weight[index]⟩ of each entry, `block` rows of the weight after the other; indices ascend in a bag."""
    assert indices.dtype == offsets.dtype == torch.int32
    dots, following = g.new_empty(len(indices)), offsets[:-1].to(torch.int64)
    run("polyseme_dot", len(g), _Dots, weight, indices, offsets, g, dots, following, *weight.shape, block)
    return dots
