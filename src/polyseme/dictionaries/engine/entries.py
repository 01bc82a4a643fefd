"""Codes in two layouts, sparse entries and a dense tile, with the same six operations; and the gradient buffers.

Every architecture's mathematics is written once over these operations. With f the values, W the decoder, g the
gradient of the loss in the reconstruction and b, j the row and latent of an entry:

    decode      ŷ_b = Σ_j f_bj W_j            dot       ∂f_bj = ⟨g_b, W_j⟩
    by_latent   s_j = Σ_b t_bj                outer     ∂W_j  = Σ_b t_bj g_b
    take        p_j at every entry            residual_and_dot   r = ŷ − y and ⟨r_b, W_j⟩, together

`pre` holds the pre-activations; `active` gives the codes without entries of value 0 where that saves work, and which of
the entries those are; `outer` adds to the gradient of that name, whose row `first` is latent 0's.

Sparse entries are used when few latents are active, dense tiles (a few rows, a block of latents or all) otherwise.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.kernels import compiled
from polyseme.kernels.tiles import (
    affine,
    affine_by_parts,
    affine_into,
    bag_sum,
    gather_dot,
    nonzero,
    residual_and_dot,
    sort_by_latent,
    sum_by_latent,
)
from polyseme.kernels.tuning import DEFAULT, Tuning


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

    def at(self, indices: Int[Tensor, " some"]) -> "GradientsAt":
        """The rows `indices` of buffers that have begun, numbered from 0."""
        return GradientsAt(self, indices)

    def finish(self) -> None:
        """Zero what nothing was added to."""
        for name, buffer in self._buffers.items():
            buffer[self._begun[name] :].zero_()

    def __getitem__(self, name: str) -> Tensor:
        return self._buffers[name]


class GradientsAt:
    """Some rows of the gradient buffers, numbered from 0; what is added beyond the last is dropped.

    Args:
        all_rows: of which.
        indices: those rows.
    """

    def __init__(self, all_rows: Gradients, indices: Int[Tensor, " some"]):
        self._all, self._indices = all_rows, indices

    def fresh(self, name: str, rows: slice) -> None:  # noqa: ARG002  as in `Gradients`: these have begun
        return None

    def add(self, name: str, value: Tensor, start: int = 0) -> None:
        """Add `value` to the rows of `name` from `start` on."""
        indices = self._indices[start : start + len(value)]
        self._all.add_at(name, indices, value[: len(indices)])


class SparseEntries:
    """Entries in row order; within a row, indices unique.

    Args:
        pre: pre-activation of each entry.
        indices: its latent, int32.
        offsets: start of each row's entries, and the end.
        n_latents: width of the dense equivalent.
        ascending: indices ascend within a row.
        tuning: of the operations.
    """

    def __init__(
        self,
        pre: Float[Tensor, " entry"],
        indices: Int[Tensor, " entry"],
        offsets: Int[Tensor, " bag_plus_1"],
        n_latents: int,
        *,
        ascending: bool = False,
        tuning: Tuning = DEFAULT,
    ):
        self.pre, self.indices, self.offsets, self.n_latents = pre, indices, offsets.to(torch.int32), n_latents
        self.ascending, self.tuning = ascending, tuning
        self._active: tuple[SparseEntries, Tensor] | None = None

    def like(self, pre: Tensor, indices: Tensor, offsets: Tensor, n_latents: int | None = None) -> "SparseEntries":
        """Other entries, otherwise the same."""
        n = self.n_latents if n_latents is None else n_latents
        return SparseEntries(pre, indices, offsets, n, ascending=self.ascending, tuning=self.tuning)

    @functools.cached_property
    def bags(self) -> Int[Tensor, " entry"]:
        """The row of each entry, int32."""
        n_bags = len(self.offsets) - 1
        rows = torch.arange(n_bags, dtype=torch.int32, device=self.offsets.device)
        return rows.repeat_interleave(self.offsets[1:] - self.offsets[:-1], output_size=len(self.indices))

    @functools.cached_property
    def _order(self) -> tuple[Tensor, Tensor]:
        """The entries sorted by latent (rows ascending in each), and where each latent starts."""
        return sort_by_latent(self.indices, self.n_latents, self.tuning)

    def rows(self, rows: slice) -> tuple["SparseEntries", slice]:
        """The entries of some rows, and which of all they are."""
        offsets = self.offsets[rows.start : rows.stop + 1]
        own = slice(int(offsets[0]), int(offsets[-1]))
        return self.like(self.pre[own], self.indices[own], offsets - own.start), own

    def pieces(self, most: int) -> Iterator[tuple[slice, "SparseEntries"]]:
        """Rows and their entries, about `most` of them at a time."""
        n_rows = len(self.offsets) - 1
        count = min(n_rows, -(-len(self.pre) // most))
        if count <= 1:
            yield slice(0, n_rows), self
            return
        for rows in (slice(i * n_rows // count, (i + 1) * n_rows // count) for i in range(count)):
            yield rows, self.rows(rows)[0]

    def between(self, first: int, end: int) -> tuple["SparseEntries", Int[Tensor, " kept"]]:
        """The entries of latents `first` to `end`, which are numbered from 0 again; and which of all they are."""
        own, kept = self.of((self.indices >= first) & (self.indices < end))
        return own.like(own.pre, own.indices - first, own.offsets, end - first), kept

    def of(self, inside: Bool[Tensor, " entry"]) -> tuple["SparseEntries", Int[Tensor, " kept"]]:
        """Some of the entries, and which of all they are."""
        kept, offsets = nonzero(inside.to(self.pre), self.offsets, self.tuning)
        return self.like(self.pre[kept], self.indices[kept], offsets), kept

    def where(self, kept: Bool[Tensor, " entry"], pre: Float[Tensor, " entry"]) -> "SparseEntries":
        """Some of the entries, with other pre-activations."""
        if bool(kept.all()):
            return self.like(pre, self.indices, self.offsets)
        before = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
        torch.cumsum(kept, 0, out=before[1:])
        return self.like(pre[kept], self.indices[kept], before[self.offsets.long()])

    def renumbered(self, names: Int[Tensor, " n_latents"], n_latents: int) -> "SparseEntries":
        """The same entries; latent j is latent names[j] of `n_latents`, ascending (int32)."""
        return self.like(self.pre, names[self.indices], self.offsets, n_latents)

    def take(self, per_latent: Float[Tensor, " n_latents"]) -> Tensor:
        return per_latent.index_select(0, self.indices)

    def active(self, values: Tensor) -> "tuple[SparseEntries, Tensor | slice]":
        kept, offsets = nonzero(values, self.offsets, self.tuning)
        if len(kept) > 0.8 * len(values):
            return self, slice(None)
        # Values and their gradients are mostly 0 at the same entries: sorted once.
        if self._active is None or not torch.equal(self._active[1], kept):
            self._active = self.like(self.pre[kept], self.indices[kept], offsets), kept
        return self._active

    def decode(self, values: Tensor, weight: Float[Tensor, "n_latents d"]) -> Float[Tensor, "bag d"]:
        return bag_sum(weight, self.indices, self.offsets, values, tuning=self.tuning)

    def dot(self, g: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]) -> Tensor:
        block = self._block(weight)
        if block is not None:
            return compiled.dot(weight, self.indices, self.offsets, g, block)
        return gather_dot(g, weight, self.bags, self.indices, self.offsets)

    def residual_and_dot(
        self,
        values: Tensor,
        goal: Float[Tensor, "bag d"],
        weight: Float[Tensor, "n_latents d"],
        residual: Float[Tensor, "bag d"],
    ) -> Tensor:
        dots = None
        if self._block(weight) is None:
            dots = residual_and_dot(weight, self.indices, self.offsets, values, goal, residual, self.tuning)
        if dots is not None:
            return dots
        active, at = self.active(values)
        bag_sum(weight, active.indices, active.offsets, values[at], residual, self.tuning).sub_(goal)
        return self.dot(residual, weight)

    def _block(self, weight: Float[Tensor, "n_latents d"]) -> int | None:
        """How many latents' rows stay in cache, where `dot` is worth doing block by block; else None."""
        block = max(1, self.tuning.cached_bytes // (weight.shape[1] * weight.element_size()))
        blocks, rows = -(-self.n_latents // block), len(self.offsets) - 1
        # Every row of g is read once for each block: less than a row of the weight for every entry?
        worth = self.ascending and blocks > 1 and len(self.indices) >= 3 * blocks * rows
        return block if worth and self.tuning.in_loops(weight) else None

    def by_latent(self, t: Tensor) -> Float[Tensor, " n_latents"]:
        if t.device.type == "cpu":
            return torch.bincount(self.indices, t, self.n_latents).to(t)  # in order; half the time of `index_add_`
        order, starts = self._order  # elsewhere that would add in any order, and no two runs be the same
        return torch.segment_reduce(t[order], "sum", offsets=starts.long(), initial=0)

    def outer(
        self, name: str, t: Tensor, rows: Float[Tensor, "bag d"], grads: Gradients | GradientsAt, first: int = 0
    ) -> None:
        order, starts = self._order
        fresh = grads.fresh(name, slice(first, first + self.n_latents))
        # On a GPU every tile gathers all entries again, and its memory is not scarce.
        least = self.n_latents if rows.is_cuda else 1
        for part in self.tuning.tiles(self.n_latents, 8 * rows.shape[1] * rows.element_size(), least=least):
            out = None if fresh is None else fresh[part]
            sums = sum_by_latent(rows, self.bags, t, order, starts[part.start : part.stop + 1], out, self.tuning)
            if fresh is None:
                grads.add(name, sums, first + part.start)


def concatenated(parts: Sequence[SparseEntries]) -> SparseEntries:
    """Entries of rows that follow each other, all in one order, as one."""
    if len(parts) == 1:
        return parts[0]
    offsets, end = [parts[0].offsets[:1]], 0
    for part in parts:
        offsets.append(part.offsets[1:] + end)
        end += len(part.pre)
    pre, indices = torch.cat([part.pre for part in parts]), torch.cat([part.indices for part in parts])
    return parts[0].like(pre, indices, torch.cat(offsets))


def replaced(found: SparseEntries, again: Int[Tensor, " some"], rest: SparseEntries) -> SparseEntries:
    """`found`, with the entries of `rest` in the rows `again`, which are its rows."""
    starts, counts = found.offsets[:-1].long(), found.offsets.diff().long()
    starts[again], counts[again] = rest.offsets[:-1].long() + len(found.pre), rest.offsets.diff().long()
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shift = torch.repeat_interleave(starts - offsets[:-1], counts)
    places = shift + torch.arange(len(shift), device=shift.device)
    pre, indices = torch.cat([found.pre, rest.pre])[places], torch.cat([found.indices, rest.indices])[places]
    return found.like(pre, indices, offsets)


class DenseTile:
    """Some latents of a few rows, every one of them.

    Args:
        pre: their pre-activations.
        latents: which; of the operations below `decode` and `residual_and_dot` know no others.
        n_latents: of all; None: these.
        tuning: of the operations.
    """

    def __init__(
        self,
        pre: Float[Tensor, "bag some"],
        latents: slice | None = None,
        n_latents: int | None = None,
        tuning: Tuning = DEFAULT,
    ):
        self.pre, self._tuning = pre, tuning
        self._latents, self._n_latents = latents or slice(0, pre.shape[1]), n_latents or pre.shape[1]

    def take(self, per_latent: Float[Tensor, " n_latents"]) -> Tensor:
        return per_latent[self._latents]

    def active(self, values: Tensor) -> "tuple[DenseTile, slice]":  # noqa: ARG002  zeros cost a product nothing more
        return self, slice(None)

    def decode(self, values: Tensor, weight: Float[Tensor, "n_latents d"]) -> Float[Tensor, "bag d"]:
        total: Tensor | None = None
        for part in self._parts(weight):
            product = affine(values[:, part].contiguous(), weight[self._latents][part].t(), None)
            total = product if total is None else total.add_(product)
        assert total is not None
        return total

    def dot(self, g: Float[Tensor, "bag d"], weight: Float[Tensor, "n_latents d"]) -> Tensor:
        return affine_by_parts(g, weight[self._latents], None, torch.empty_like(self.pre), self._tuning)

    def residual_and_dot(
        self,
        values: Tensor,
        goal: Float[Tensor, "bag d"],
        weight: Float[Tensor, "n_latents d"],
        residual: Float[Tensor, "bag d"],
    ) -> Tensor:
        torch.sub(self.decode(values, weight), goal, out=residual)
        return self.dot(residual, weight)

    def by_latent(self, t: Tensor) -> Float[Tensor, " n_latents"]:
        sums = t.new_zeros(self._n_latents)
        torch.mv(t.t(), t.new_ones(len(t)), out=sums[self._latents])  # twice as fast as a sum over rows
        return sums

    def outer(
        self, name: str, t: Tensor, rows: Float[Tensor, "bag d"], grads: Gradients | GradientsAt, first: int = 0
    ) -> None:
        start, end = first + self._latents.start, first + self._latents.stop
        fresh = grads.fresh(name, slice(start, end))
        for part in self._parts(rows):
            left = t[:, part].contiguous().t()
            if fresh is None:
                grads.add(name, affine(left, rows.t(), None), start + part.start)
            else:
                affine_into(left, rows.t(), None, fresh[part])

    def _parts(self, vectors: Float[Tensor, "n d"]) -> Iterator[slice]:
        """Slices of these latents, so that products take little room, and are of few shapes whatever the width of
        the whole (`onednn`)."""
        return self._tuning.tiles(self.pre.shape[1], 16 * vectors.shape[1] * vectors.element_size())


Codes = SparseEntries | DenseTile
"""Pre-activations of the latents that matter to a step, in either layout."""
