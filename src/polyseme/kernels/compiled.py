"""The inner loops of a training step in C (`kernels.c`), for float32 on a CPU where they were built.

They do what takes longest beside the encoder's product: the k largest of each row, or all above a bound, while the
product comes block by block (torch's operations look at every number some four times, these once or twice, in cache); a
reconstruction together with the products that its gradient needs (the decoder's rows are still in cache); such products
alone, block by block of the decoder, where rows have many entries; and sums of rows. Everything works without them:
`kernels`, `entries` and `selection` ask `usable` and go by torch's operations otherwise.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.kernels.library import POINTER, SIZE, loaded
from polyseme.kernels.loops import Loop, check_offsets, check_places

_STRIDE = 64
"""Columns between two looks at how many places a row has left (`kernels.c`)."""


_ABOVE = Loop(
    "polyseme_above",
    "rows",
    "tile:f32[rows,n] bias:f32[n] bounds:f32[n] n:i64 first:i32 counts:i64[rows]? starts:i64[rows]? values:f32[found]? "
    "latents:i32[found]?",
)
_GATHER = Loop(
    "polyseme_gather",
    "rows",
    "values:f32[places] latents:i32[places] starts:i64[blocks*rows] counts:i64[blocks*rows] blocks:i64 rows:i64 "
    "offsets:i64[rows] out_values:f32[found] out_latents:i32[found]",
)
_TOP = (
    "tile:f32[rows,n]? bias:f32[n]? n:i64 first:i32 k:i64 room:i64 values:f32[rows,room] latents:i32[rows,room] "
    "counts:i32[rows] bounds:f32[rows]"
)
_TAKE = Loop("polyseme_top_k_take", "rows", _TOP.replace("?", ""))
_FINISH = Loop("polyseme_top_k_finish", "rows", _TOP)
_BAGS = (
    "weight:f32[n,d] indices:i32[entries] order:i32[places]? offsets:i32[bags+1] values:f32[entries] goal:f32[bags,d]? "
    "out:f32[bags,d] dots:f32[entries]? d:i64"
)
_SUM = Loop("polyseme_sum_bags", "bags", _BAGS)
_RESIDUAL = Loop("polyseme_residual_and_dot", "bags", _BAGS.replace("goal:f32[bags,d]?", "goal:f32[bags,d]"))
_NONZERO = Loop(
    "polyseme_nonzero",
    "bags",
    "values:f32[entries] offsets:i32[bags+1] counts:i64[bags]? starts:i64[bags+1]? kept:i32[found]?",
)
_DOT = Loop(
    "polyseme_dot",
    "bags",
    "weight:f32[n,d] indices:i32[entries] offsets:i32[bags+1] g:f32[bags,d] dots:f32[entries] next:i64[bags] n:i64 "
    "d:i64 block:i64",
)
_EXACT = Loop(
    "polyseme_exact",
    "bags",
    "x:f32[bags,d] weight:f32[n,d] bias:f32[n] indices:i32[entries] offsets:i32[bags+1] out:f32[entries] d:i64",
)
# Of the function that works on no rows: it is called by itself, and checked as if it were a loop.
_SORT = Loop("polyseme_sort_by_latent", "n", "latents:i32[entries] starts:i32[n+1] order:i32[entries]")


class TopK:
    """The k largest positive pre-activations of each row, taken in block by block of latents.

    A row holds candidates in places of its own; when they are full the k largest are kept and the kth becomes the
    bound that later ones must exceed. So a number is compared once, and few are moved.

    Args:
        rows: how many.
        k: entries a row, at most.
    """

    def __init__(self, rows: int, k: int):
        self._k, self._room = k, self.places(k)
        self._held = {
            "values": torch.empty(rows, self._room, dtype=torch.float32, device="cpu"),
            "latents": torch.empty(rows, self._room, dtype=torch.int32, device="cpu"),
            "counts": torch.zeros(rows, dtype=torch.int32, device="cpu"),
            "bounds": torch.zeros(rows, dtype=torch.float32, device="cpu"),
        }

    @staticmethod
    def places(k: int) -> int:
        """Candidates of a row that are held at a time, each of eight bytes."""
        return 2 * (k + _STRIDE)

    def take(self, rows: slice, tile: Float[Tensor, "rows block"], bias: Float[Tensor, " block"], first: int) -> None:
        """The products of `rows` with a block of latents, the first of which is `first`; blocks come in order."""
        n, width = tile.shape
        held = {name: tensor[rows] for name, tensor in self._held.items()}
        _TAKE(n, tile=tile, bias=bias, n=width, first=first, k=self._k, room=self._room, **held)

    def finish(self) -> tuple[Float[Tensor, " entry"], Int[Tensor, " entry"], Int[Tensor, " rows"]]:
        """Values, latents (ascending in a row, the first of equals) and entries a row, when all blocks were taken."""
        values, latents, counts, _ = self._held.values()
        _FINISH(len(counts), n=0, first=0, k=self._k, room=self._room, **self._held)
        return packed(values, latents, counts.to(torch.int64))


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
        counts = torch.empty(n, dtype=torch.int64, device="cpu")
        block: dict[str, Tensor | float | None] = {"tile": tile, "bias": bias, "bounds": bounds, "n": width}
        _ABOVE(n, **block, first=first, counts=counts)
        ends = counts.cumsum(0)
        total = int(ends[-1])
        values, latents = (torch.empty(total, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.int32))
        if total:
            _ABOVE(n, **block, first=first, starts=ends - counts, values=values, latents=latents)
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
        starts = torch.arange(0, rows * places, places, dtype=torch.int64, device="cpu")
        values, latents = gathered(values, latents, starts, counts, counts)
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
    blocks = len(counts) // max(1, rows)
    is_whole = len(counts) == blocks * rows and bool((counts.view(blocks, rows).sum(0) == a_row).all())
    is_inside = len(counts) == 0 or int(torch.minimum(starts.min(), counts.min())) >= 0
    if not (is_whole and is_inside) or (len(counts) and int((starts + counts).max()) > len(values)):
        raise InputError("pieces are not all among the entries", where="gathered", fix="give pieces of these entries")
    n_found = int(ends[-1]) if rows else 0
    found = torch.empty(n_found, dtype=torch.float32, device="cpu")
    where = torch.empty(n_found, dtype=torch.int32, device="cpu")
    pieces: dict[str, Tensor] = {"values": values, "latents": latents, "starts": starts, "counts": counts}
    _GATHER(rows, **pieces, blocks=blocks, rows=rows, offsets=ends - a_row, out_values=found, out_latents=where)
    return found, where


def nonzero(
    values: Float[Tensor, " entry"], offsets: Int[Tensor, " bag_plus_1"]
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " bag_plus_1"]]:
    """Which entries are not zero, and where each bag's begin among them, and the end."""
    bags = len(offsets) - 1
    check_offsets("nonzero", offsets, len(values))
    counts = torch.empty(bags, dtype=torch.int64, device="cpu")
    starts = torch.zeros(bags + 1, dtype=torch.int64, device="cpu")
    _NONZERO(bags, values=values, offsets=offsets, counts=counts)
    torch.cumsum(counts, 0, out=starts[1:])
    kept = torch.empty(int(starts[-1]), dtype=torch.int32, device="cpu")
    if len(kept):
        _NONZERO(bags, values=values, offsets=offsets, starts=starts, kept=kept)
    return kept, starts


def sort_by_latent(
    latents: Int[Tensor, " entry"], n_latents: int
) -> tuple[Int[Tensor, " entry"], Int[Tensor, " n_latents_plus_1"]]:
    """The entries sorted by latent (stable), and where each latent's begin; all int32."""
    order = torch.empty(len(latents), dtype=torch.int32, device="cpu")
    starts = torch.zeros(n_latents + 1, dtype=torch.int32, device="cpu")
    _SORT.check(n_latents, {"latents": latents, "starts": starts, "order": order})
    check_places("sort_by_latent", latents, n_latents)
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
    """`tiles.bag_sum` into `out`; `order` has the entries as the bags have them, where that is not their own order."""
    n, d = out.shape
    _check_entries("sum_bags", indices, offsets, len(weight), len(indices) if order is None else len(order))
    if order is not None:
        check_places("sum_bags", order, len(indices))
    _SUM(n, weight=weight, indices=indices, order=order, values=values, offsets=offsets, out=out, d=d)


def residual_and_dot(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    values: Float[Tensor, " entry"],
    goal: Float[Tensor, "bag d"],
    residual: Float[Tensor, "bag d"],
) -> Float[Tensor, " entry"]:
    """r = Σ values × weight[indices] − goal of each bag into `residual`, and ⟨r, weight[index]⟩ of each entry."""
    dots = torch.empty(len(values), dtype=torch.float32, device="cpu")
    n, d = goal.shape
    entries = {"weight": weight, "indices": indices, "offsets": offsets, "values": values}
    _check_entries("residual_and_dot", indices, offsets, len(weight), len(indices))
    _RESIDUAL(n, **entries, goal=goal, out=residual, dots=dots, d=d)
    return dots


def dot(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    g: Float[Tensor, "bag d"],
    block: int,
) -> Float[Tensor, " entry"]:
    """⟨g[bag], weight[index]⟩ of each entry, `block` rows of the weight after the other; indices ascend in a bag."""
    dots, following = torch.empty(len(indices), dtype=torch.float32, device="cpu"), offsets[:-1].to(torch.int64)
    (n, d), entries = weight.shape, {"weight": weight, "indices": indices, "offsets": offsets}
    _check_entries("dot", indices, offsets, n, len(indices))
    if block < 1:
        raise InputError(f"blocks of {block} rows", where="dot", fix="give at least one")
    _DOT(len(g), **entries, g=g, dots=dots, next=following, n=n, d=d, block=block)
    return dots


def exact(
    x: Float[Tensor, "bag d"],
    weight: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
) -> Float[Tensor, " entry"]:
    """`exact.exact_affine`."""
    out = torch.empty(len(indices), dtype=torch.float32, device="cpu")
    _check_entries("exact", indices, offsets, len(weight), len(indices))
    n, d = x.shape
    _EXACT(n, x=x, weight=weight, bias=bias, indices=indices, offsets=offsets, out=out, d=d)
    return out


def _check_entries(where: str, indices: Tensor, offsets: Tensor, n: int, places: int) -> None:
    check_places(where, indices, n)
    check_offsets(where, offsets, places)
