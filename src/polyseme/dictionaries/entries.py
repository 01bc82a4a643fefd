"""Codes in two layouts, sparse entries and a dense tile, with the same six operations; and the gradient buffers.

Every architecture's mathematics is written once over these operations. With f the values, W the decoder, g the
gradient of the loss in the reconstruction and b, j the row and latent of an entry:

    decode      ŷ_b = Σ_j f_bj W_j            dot       ∂f_bj = ⟨g_b, W_j⟩
    by_latent   s_j = Σ_b t_bj                outer     ∂W_j  = Σ_b t_bj g_b
    take        p_j at every entry            residual_and_dot   r = ŷ − y and ⟨r_b, W_j⟩, together

Sparse entries are used when few latents are active, the dense tile (a few rows, all latents) otherwise.
"""

import functools
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme import native
from polyseme.dictionaries import compiled
from polyseme.dictionaries.kernels import (
    CACHED_BYTES,
    affine,
    bag_sum,
    gather_dot,
    nonzero,
    residual_and_dot,
    sort_by_latent,
    sum_by_latent,
    tiles,
)


class Gradients:
    """The gradient buffers of one step, never zeroed first: what is new overwrites, what has begun is added to.

    Args:
        buffers: parameter name to its buffer.
    """

    def __init__(self, buffers: Mapping[str, Tensor]):
        self._buffers = buffers
        self._begun = dict.fromkeys(buffers, 0)

    def add(self, name: str, value: Tensor, start: int = 0) -> None:
        """Add `value` to the rows of `name` from `start` on; rows are begun in order."""
        stop, begun = start + len(value), self._begun[name]
        part = self._buffers[name][start:stop]
        if start == begun:
            part.copy_(value)
            self._begun[name] = stop
        else:
            assert stop <= begun, "a piece lies partly in rows that have begun"
            part.add_(value)

    def fresh(self, name: str, rows: slice) -> Tensor | None:
        """Those rows of `name` to be overwritten, when nothing was added to them yet; else None."""
        if rows.start != self._begun[name]:
            return None
        self._begun[name] = rows.stop
        return self._buffers[name][rows]

    def add_at(self, name: str, indices: Int[Tensor, " some"], value: Tensor) -> None:
        """Add `value` to the rows `indices` of a buffer that has begun."""
        assert self._begun[name] == len(self._buffers[name])
        self._buffers[name].index_add_(0, indices, value)

    def finish(self) -> None:
        """Zero what nothing was added to."""
        for name, buffer in self._buffers.items():
            buffer[self._begun[name] :].zero_()

    def __getitem__(self, name: str) -> Tensor:
        return self._buffers[name]


@runtime_checkable
class Codes(Protocol):
    """Pre-activations of the latents that matter to a step, in one of two layouts."""

    @property
    def pre(self) -> Tensor:
        """Pre-activations, one per entry."""
        ...

    def take(self, per_latent: Float[Tensor, " n_latents"]) -> Tensor:
        """A per-latent vector, broadcastable against `pre`."""
        ...

    def active(self, values: Tensor) -> "tuple[Codes, Tensor | slice]":
        """The codes without entries of value 0 where that saves work, and which of the entries those are."""
        ...

    def decode(self, values: Tensor, weight: Float[Tensor, "n_latents d"]) -> Float[Tensor, "bag d"]:
        """Σ over each row's entries of value × weight[latent]."""
        ...

    def dot(self, g: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]) -> Tensor:
        """⟨g[row], weight[latent]⟩ at every entry."""
        ...

    def residual_and_dot(
        self, values: Tensor, goal: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]
    ) -> tuple[Float[Tensor, "bag d"], Tensor]:
        """r = decode(values) − goal, and `dot` of r."""
        ...

    def by_latent(self, t: Tensor) -> Float[Tensor, " n_latents"]:
        """Sum over each latent's entries."""
        ...

    def outer(self, name: str, t: Tensor, rows: Float[Tensor, "bag d"], grads: Gradients) -> None:
        """Add Σ over each latent's entries of t × rows[row] to the gradient `name`."""
        ...


class SparseEntries:
    """Entries in row order; within a row, indices unique.

    Args:
        pre: pre-activation of each entry.
        indices: its latent, int32.
        offsets: start of each row's entries, and the end.
        n_latents: width of the dense equivalent.
        ascending: indices ascend within a row.
    """

    def __init__(
        self,
        pre: Float[Tensor, " entry"],
        indices: Int[Tensor, " entry"],
        offsets: Int[Tensor, " bag_plus_1"],
        n_latents: int,
        *,
        ascending: bool = False,
    ):
        self.pre, self.indices, self.offsets, self.n_latents = pre, indices, offsets.to(torch.int32), n_latents
        self.ascending = ascending
        self._active: tuple[SparseEntries, Tensor] | None = None

    @functools.cached_property
    def bags(self) -> Int[Tensor, " entry"]:
        """The row of each entry, int32."""
        n_bags = len(self.offsets) - 1
        rows = torch.arange(n_bags, dtype=torch.int32, device=self.offsets.device)
        return rows.repeat_interleave(self.offsets[1:] - self.offsets[:-1], output_size=len(self.indices))

    @functools.cached_property
    def _order(self) -> tuple[Tensor, Tensor]:
        """The entries sorted by latent (rows ascending in each), and where each latent starts."""
        return sort_by_latent(self.indices, self.n_latents)

    def split(self, ends: Int[Tensor, " prefix"]) -> "SparseEntries":
        """The same entries with each row cut into `len(ends)` bags at those latents; needs ascending indices."""
        groups = len(ends)
        bags = self.bags * groups + torch.bucketize(self.indices, ends, right=True, out_int32=True)
        offsets = torch.zeros((len(self.offsets) - 1) * groups + 1, dtype=torch.int32, device=bags.device)
        offsets[1:] = torch.bincount(bags, minlength=len(offsets) - 1).cumsum(0)
        out = SparseEntries(self.pre, self.indices, offsets, self.n_latents, ascending=True)
        out.__dict__["_order"] = self._order  # the order by latent is the same
        return out

    def take(self, per_latent: Float[Tensor, " n_latents"]) -> Tensor:
        return per_latent.index_select(0, self.indices)

    def active(self, values: Tensor) -> "tuple[SparseEntries, Tensor | slice]":
        kept, offsets = nonzero(values, self.offsets)
        if len(kept) > 0.8 * len(values):
            return self, slice(None)
        # Values and their gradients are mostly 0 at the same entries: sorted once.
        if self._active is None or not torch.equal(self._active[1], kept):
            pre, indices = self.pre[kept], self.indices[kept]
            self._active = SparseEntries(pre, indices, offsets, self.n_latents, ascending=self.ascending), kept
        return self._active

    def decode(self, values: Tensor, weight: Float[Tensor, "n_latents d"]) -> Float[Tensor, "bag d"]:
        return bag_sum(weight, self.indices, self.offsets, values)

    def dot(self, g: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]) -> Tensor:
        block = self._block(weight)
        if block is not None:
            return compiled.dot(weight, self.indices, self.offsets, g, block)
        return gather_dot(g, weight, self.bags, self.indices, self.offsets)

    def residual_and_dot(
        self, values: Tensor, goal: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]
    ) -> tuple[Float[Tensor, "bag d"], Tensor]:
        both = None
        if self._block(weight) is None:
            both = residual_and_dot(weight, self.indices, self.offsets, values, goal)
        if both is not None:
            return both
        active, at = self.active(values)
        residual = active.decode(values[at], weight).sub_(goal)
        return residual, self.dot(residual, weight)

    def _block(self, weight: Float[Tensor, "n_latents d"]) -> int | None:
        """How many latents' rows stay in cache, where `dot` is worth doing block by block of so many."""
        block = max(1, CACHED_BYTES // (weight.shape[1] * weight.element_size()))
        blocks, rows = -(-self.n_latents // block), len(self.offsets) - 1
        # Every row of g is read once for each block: less than a row of the weight for every entry?
        worth = self.ascending and blocks > 1 and len(self.indices) >= 3 * blocks * rows
        return block if worth and native.usable(weight) else None

    def by_latent(self, t: Tensor) -> Float[Tensor, " n_latents"]:
        if t.device.type == "cpu":
            return torch.bincount(self.indices, t, self.n_latents).to(t)  # in order; half the time of `index_add_`
        order, starts = self._order  # elsewhere that would add in any order, and no two runs be the same
        return torch.segment_reduce(t[order], "sum", offsets=starts.long(), initial=0)

    def outer(self, name: str, t: Tensor, rows: Float[Tensor, "bag d"], grads: Gradients) -> None:
        order, starts = self._order
        for part in tiles(self.n_latents, 2 * rows.shape[1] * rows.element_size()):
            fresh = grads.fresh(name, part)
            sums = sum_by_latent(rows, self.bags, t, order, starts[part.start : part.stop + 1], out=fresh)
            if fresh is None:
                grads.add(name, sums, part.start)


class DenseTile:
    """All latents of a few rows.

    Args:
        pre: their pre-activations.
    """

    def __init__(self, pre: Float[Tensor, "bag n_latents"]):
        self.pre = pre

    def take(self, per_latent: Float[Tensor, " n_latents"]) -> Tensor:
        return per_latent

    def active(self, values: Tensor) -> "tuple[DenseTile, slice]":  # noqa: ARG002  zeros cost a product nothing more
        return self, slice(None)

    def decode(self, values: Tensor, weight: Float[Tensor, "n_latents d"]) -> Float[Tensor, "bag d"]:
        return affine(values, weight.t(), None)

    def dot(self, g: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]) -> Tensor:
        return affine(g, weight, None)

    def residual_and_dot(
        self, values: Tensor, goal: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]
    ) -> tuple[Float[Tensor, "bag d"], Tensor]:
        residual = self.decode(values, weight).sub_(goal)
        return residual, self.dot(residual, weight)

    def by_latent(self, t: Tensor) -> Float[Tensor, " n_latents"]:
        return torch.mv(t.t(), t.new_ones(len(t)))  # twice as fast as a sum over rows

    def outer(self, name: str, t: Tensor, rows: Float[Tensor, "bag d"], grads: Gradients) -> None:
        fresh = grads.fresh(name, slice(0, t.shape[1]))
        product = affine(t.t(), rows.t(), None, out=fresh)
        if fresh is None:
            grads[name].add_(product)
        elif product is not fresh:
            fresh.copy_(product)
