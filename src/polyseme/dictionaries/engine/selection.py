"""Which latents of each vector enter the code: chosen tile by tile, while a tile is in cache, never all at once."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.dictionaries.engine.entries import SparseEntries, replaced
from polyseme.kernels import compiled
from polyseme.kernels import library as native
from polyseme.kernels.int8 import Found, Int8
from polyseme.kernels.tiles import affine, affine_by_parts, top_k
from polyseme.kernels.tuning import DEFAULT, Tuning, spans


@dataclass(frozen=True)
class Encoder:
    """x Wᵀ + b in row tiles.

    Attributes:
        x: inputs, normalised and less the bias.
        weight, bias: of the encoder.
        selection: how entries are looked for: "fp32", or "auto", by bytes where they are faster (`Int8`). What is found
            is the same.
        latents: which rows of `weight` are meant, one for each bias; None: all. They are read where they are, as far as
            that is possible.
    """

    x: Float[Tensor, "batch d_in"]
    weight: Float[Tensor, "rows d_in"]
    bias: Float[Tensor, " n_latents"]
    selection: str = "auto"
    latents: Int[Tensor, " n_latents"] | None = None
    tuning: Tuning = DEFAULT
    in_bytes: "list[Int8 | None]" = field(default_factory=list["Int8 | None"], init=False, repr=False, compare=False)
    """The weights as bytes, for these vectors and all cut from them; None: of no use there; empty: not tried."""

    def rows(self, rows: slice | Tensor) -> "Encoder":
        """The encoder of some of the vectors."""
        part = dataclasses.replace(self, x=self.x[rows])
        object.__setattr__(part, "in_bytes", self.in_bytes)
        return part

    def clear_cache(self) -> None:
        """Let go of what was kept to look for entries."""
        self.in_bytes.clear()

    @property
    def n_latents(self) -> int:
        """Width of a tile."""
        return len(self.bias)

    def weights(self, some: slice = slice(None)) -> Float[Tensor, "some d_in"]:
        """The weights of some latents."""
        return self.weight[some] if self.latents is None else self.weight[self.latents[some]]

    def tiles(
        self, *, temporaries: int = 1, most: int | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "rows n_latents"]]]:
        """Rows and their pre-activations, in a buffer that the next tile overwrites.

        Args:
            temporaries: tensors of a tile's size that fill `tile_bytes` together: the more, the fewer rows.
            most: rows of a tile, at most; None: those of a block.
        """
        buffer: Tensor | None = None
        fitting = self.tuning.tile_bytes // (temporaries * self.n_latents * self.x.element_size())
        a_tile = min(max(fitting, self.tuning.least_rows // temporaries, 1), most or self.tuning.block[0])
        a_tile = 1 << (a_tile.bit_length() - 1)  # a shape that `onednn` need not cut
        weight = self.weights()
        for rows in spans(len(self.x), a_tile):
            x = self.x[rows]
            if buffer is None:
                buffer = x.new_empty(len(x), self.n_latents)
            yield rows, affine_by_parts(x, weight, self.bias, buffer[: len(x)], self.tuning)

    def blocks(self) -> Iterator[tuple[slice, slice, Float[Tensor, "rows block"]]]:
        """Rows, latents and their products, less the bias; all rows of one block of latents, then of the next."""
        rows, latents = self.tuning.block
        if self.x.device.type != "cpu":
            rows, latents = len(self.x), max(latents, self.tuning.large_block // len(self.x))
        buffer = self.x.new_empty(min(rows, len(self.x)) * min(latents, self.n_latents))
        for block in spans(self.n_latents, latents):
            weight = self.weights(block)
            for part in spans(len(self.x), rows):
                x = self.x[part]
                yield part, block, affine(x, weight, None, out=buffer[: len(x) * len(weight)].view(len(x), -1))


def joined(encoder: Encoder, parts: list[tuple[Tensor, Tensor, Tensor]], *, ascending: bool = True) -> SparseEntries:
    """The entries of all tiles; each part is values, latents (`ascending` in a row or not) and entries a row."""
    counts = torch.cat([part[2] for part in parts])
    offsets = counts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=offsets[1:])
    # Of one part `cat` would make a copy.
    values, latents = parts[0][:2] if len(parts) == 1 else (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return SparseEntries(values, latents, offsets, encoder.n_latents, ascending=ascending, tuning=encoder.tuning)


def select_above(encoder: Encoder, bound: Float[Tensor, "*n_latents"] | float) -> SparseEntries:
    """Every entry above `bound` (one for all, or one a latent)."""
    entries = _select_above(encoder, bound, most=1.0)
    assert entries is not None
    return entries


def select_if_sparse(encoder: Encoder, bound: Float[Tensor, "*n_latents"] | float) -> SparseEntries | None:
    """`select_above`, or None as soon as more than `max_density` of all entries are found (or of a first tile's)."""
    return _select_above(encoder, bound, most=encoder.tuning.max_density)


def _select_above(encoder: Encoder, bound: Tensor | float, *, most: float) -> SparseEntries | None:
    if encoder.tuning.in_loops(encoder.x, encoder.weight):
        bounds = torch.as_tensor(bound, dtype=encoder.bias.dtype).expand(encoder.n_latents).contiguous()
        room = min(encoder.n_latents // 16, max(64, int(2 * most * encoder.n_latents)))
        proven = _by_int8(encoder, None, room, lambda w, x: w.above(x, bounds, room), lambda e: select_above(e, bound))
        if proven is not None:
            return proven
        found = compiled.Above(len(encoder.x))
        for _, latents, products in encoder.blocks():
            found.take(products, encoder.bias[latents], bounds[latents], latents.start)
            if found.n_entries > most * len(encoder.x) * encoder.n_latents:
                return None
        return joined(encoder, [found.finish()])
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, pre in encoder.tiles():
        parts.append(above(pre, bound))
        if len(parts) == 1 and len(parts[0][0]) > most * pre.numel():
            return None
    return joined(encoder, parts)


def above(pre: Float[Tensor, "rows n_latents"], bound: Float[Tensor, "*any"] | float) -> tuple[Tensor, Tensor, Tensor]:
    """Values, latents (int32) and entries a row, of a tile's entries above `bound`."""
    n_latents = pre.shape[1]
    flat = active(pre > bound)
    rows = flat.div(n_latents, rounding_mode="floor")
    return pre.view(-1)[flat], (flat - rows * n_latents).to(torch.int32), torch.bincount(rows, minlength=len(pre))


def active(mask: Tensor) -> Int[Tensor, " entry"]:
    """Flat positions of the true elements of `mask`, ascending; eight elements are looked at as one word."""
    flat = mask.view(-1)
    if flat.numel() % 8 or flat.device.type != "cpu":
        return flat.nonzero().view(-1)
    words = flat.view(torch.int64).nonzero().view(-1)
    within = flat.view(-1, 8)[words].view(-1).nonzero().view(-1)
    return words[within >> 3] * 8 + (within & 7)


def select_top_k(encoder: Encoder, k: int, *, ascending: bool) -> SparseEntries:
    """The at most k largest positive entries of each row.

    Args:
        encoder: of the vectors.
        k: entries a row, at most.
        ascending: sort them by latent.
    """
    k = min(k, encoder.n_latents)
    if encoder.tuning.in_loops(encoder.x, encoder.weight):
        proven = _by_int8(encoder, k, k, lambda w, x: w.top_k(x, k), lambda e: streamed_top_k(e, k))
        return streamed_top_k(encoder, k) if proven is None else proven
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, pre in encoder.tiles():
        values, latents = top_k(pre, k)
        if ascending:
            latents, order = torch.sort(latents, dim=1)
            values = values.gather(1, order)
        keep = values > 0
        counts = keep.sum(1)
        values, latents = values.view(-1), latents.to(torch.int32).view(-1)
        if int(counts.sum()) < len(values):
            values, latents = values[keep.view(-1)], latents[keep.view(-1)]
        parts.append((values, latents, counts))
    return joined(encoder, parts, ascending=ascending)


def by_bytes(rows: int, n_latents: int, d: int, k: int) -> bool:
    """Whether `select_top_k` goes by bytes, on a CPU in float32."""
    return native.usable() and Int8.pays(rows, n_latents, d, k)


def streamed_top_k(encoder: Encoder, k: int) -> SparseEntries:
    """`select_top_k` while the product comes block by block, and no tile of all latents is ever made."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in (encoder.rows(rows) for rows in spans(len(encoder.x), encoder.tuning.block[0])):
        top = compiled.TopK(len(part.x), k)
        for own, latents, products in part.blocks():
            top.take(own, products, encoder.bias[latents], latents.start)
        parts.append(top.finish())
    return joined(encoder, parts)


def _by_int8(
    encoder: Encoder,
    k: int | None,
    places: int,
    find: Callable[[Int8, Tensor], Found],
    in_float32: Callable[[Encoder], SparseEntries],
) -> SparseEntries | None:
    """What `find` proves by products of bytes, and the rows that it cannot prove as `in_float32` has them.

    Args:
        encoder: of the vectors.
        k: of the k largest; None for all above a bound.
        places: of a row in what `find` returns.
        find: in some vectors (`Int8.top_k`, `Int8.above`).
        in_float32: the selection without bytes.

    Returns:
        None where bytes are of no use: the processor, the shapes, or a sample in which many rows cannot be proven, or
        have more candidates than can be scored in the time of all products of floats.
    """
    rows, latents = len(encoder.x), encoder.n_latents
    if encoder.selection != "auto" or not Int8.pays(rows, latents, encoder.x.shape[1], k):
        return None
    known = encoder.in_bytes
    if not known:
        weights = Int8(encoder.x, encoder.weights(), encoder.bias)
        known.append(weights if weights.is_finite else None)
    weights = known[0]
    if weights is None:
        return None
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    unproven: list[Tensor] = []
    sample = encoder.tuning.sample
    a_part = max(sample, encoder.tuning.tile_bytes // (32 * places))
    for part in (slice(0, sample), *spans(rows, a_part, sample)):
        values, where, counts, scored = find(weights, encoder.x[part])
        failed = (counts < 0).nonzero().view(-1)
        if part.start == 0 and (4 * len(failed) > len(counts) or 16 * int(scored.sum()) > len(counts) * latents):
            known[0] = None
            return None
        unproven.append(failed + part.start)
        parts.append(compiled.packed(values, where, counts.clamp_(min=0)))
    found, again = joined(encoder, parts), torch.cat(unproven)
    if not len(again):
        return found
    own = (
        dataclasses.replace(encoder, x=encoder.x[some], selection="fp32")
        for some in again.split(encoder.tuning.block[0])
    )
    by_floats = [in_float32(part) for part in own]
    rest = joined(encoder, [(e.pre, e.indices, e.offsets.diff().long()) for e in by_floats])
    return replaced(found, again, rest)


def select_batch_top_k(encoder: Encoder, k: float, guess: float) -> SparseEntries:
    """The k × rows largest positive entries of the whole batch; ties go to the lowest row, then latent.

    Entries under 0.97 × `guess` are left out; the result does not depend on the guess, for when fewer are left than
    wanted, or far more, the batch is encoded again with one of its own, and in the end without any.
    """
    wanted = max(1, round(min(k, encoder.n_latents) * len(encoder.x)))
    survivors: SparseEntries | None = None
    if guess > 0:
        survivors = _select_above(
            encoder, 0.97 * guess, most=encoder.tuning.many * wanted / (len(encoder.x) * encoder.n_latents)
        )
    if survivors is None or len(survivors.pre) < wanted:
        _, pre = next(encoder.tiles(temporaries=8))
        share = max(1, wanted * len(pre) // len(encoder.x))
        guess = float(torch.topk(pre.view(-1), share, sorted=False).values.min())
        for bound in (0.97 * guess, 0.8 * guess, 0.0):
            survivors = select_above(encoder, max(0.0, bound))
            if len(survivors.pre) >= wanted or bound <= 0:
                break
    assert survivors is not None
    pre = survivors.pre
    if len(pre) <= wanted:
        return survivors
    smallest = torch.topk(pre, wanted, sorted=False).values.min()
    keep = pre > smallest
    ties = (pre == smallest).nonzero().view(-1)
    keep[ties[: wanted - int(keep.sum())]] = True
    counts = torch.bincount(survivors.bags[keep], minlength=len(encoder.x))
    return joined(encoder, [(pre[keep], survivors.indices[keep], counts)])
