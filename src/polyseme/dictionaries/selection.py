"""Which latents of each vector enter the code: chosen tile by tile, while a tile is in cache, never all at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.dictionaries.entries import SparseEntries
from polyseme.dictionaries.kernels import affine, tiles, top_k

MAX_DENSITY = 0.1
"""Above this share of active latents four dense products of a tile cost less than gathering entry by entry."""


@dataclass(frozen=True)
class Encoder:
    """x Wᵀ + b in row tiles.

    Attributes:
        x: inputs, normalised and less the bias.
        weight, bias: of the encoder.
    """

    x: Float[Tensor, "batch d_in"]
    weight: Float[Tensor, "n_latents d_in"]
    bias: Float[Tensor, " n_latents"]

    @property
    def n_latents(self) -> int:
        """Width of a tile."""
        return len(self.weight)

    def tiles(self) -> Iterator[tuple[slice, Float[Tensor, "rows n_latents"]]]:
        """Rows and their pre-activations, in a buffer that the next tile overwrites."""
        buffer: Tensor | None = None
        for rows in tiles(len(self.x), self.n_latents * self.x.element_size()):
            x = self.x[rows]
            if buffer is None:
                buffer = x.new_empty(len(x), self.n_latents)
            yield rows, affine(x, self.weight, self.bias, out=buffer[: len(x)])


def joined(parts: list[tuple[Tensor, Tensor, Tensor]], n_latents: int) -> SparseEntries:
    """The entries of all tiles; each part is values, latents and entries a row."""
    counts = torch.cat([part[2] for part in parts])
    offsets = counts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=offsets[1:])
    return SparseEntries(
        torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), offsets, n_latents
    )


def select_above(encoder: Encoder, bound: Float[Tensor, "*n_latents"] | float) -> SparseEntries:
    """Every entry above `bound` (one for all, or one a latent)."""
    return joined([above(pre, bound) for _, pre in encoder.tiles()], encoder.n_latents)


def select_if_sparse(encoder: Encoder, bound: Float[Tensor, "*n_latents"] | float) -> SparseEntries | None:
    """`select_above`, or None when the first tile is denser than `MAX_DENSITY`."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, pre in encoder.tiles():
        parts.append(above(pre, bound))
        if len(parts) == 1 and len(parts[0][0]) > MAX_DENSITY * pre.numel():
            return None
    return joined(parts, encoder.n_latents)


def above(
    pre: Float[Tensor, "rows n_latents"], bound: Float[Tensor, "*n_latents"] | float
) -> tuple[Tensor, Tensor, Tensor]:
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
    """The at most k largest positive entries of each row; `ascending` sorts them by latent."""
    k = min(k, encoder.n_latents)
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
    return joined(parts, encoder.n_latents)


def select_batch_top_k(encoder: Encoder, k: float, guess: float) -> SparseEntries:
    """The k × rows largest positive entries of the whole batch; ties go to the lowest row, then latent.

    Entries under 0.9 × `guess` are dropped while their tile is in cache; the result does not depend on the guess,
    for when fewer are left than wanted the batch is encoded again without it.
    """
    wanted = max(1, round(min(k, encoder.n_latents) * len(encoder.x)))
    if guess <= 0:
        _, pre = next(encoder.tiles())
        share = max(1, wanted * len(pre) // len(encoder.x))
        guess = float(torch.topk(pre.view(-1), share, sorted=False).values.min())
    survivors = select_above(encoder, max(0.0, 0.9 * guess))
    if len(survivors.pre) < wanted and guess > 0:
        survivors = select_above(encoder, 0.0)
    pre = survivors.pre
    if len(pre) <= wanted:
        return survivors
    smallest = torch.topk(pre, wanted, sorted=False).values.min()
    keep = pre > smallest
    ties = (pre == smallest).nonzero().view(-1)
    keep[ties[: wanted - int(keep.sum())]] = True
    counts = torch.bincount(survivors.bags[keep], minlength=len(encoder.x))
    return joined([(pre[keep], survivors.indices[keep], counts)], encoder.n_latents)
