"""What travels between stages: batches of activations with their ids, and sparse latents."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.binding import BindingLike, bound
from polyseme.core.errors import InputError

P = TypeVar("P")


def joined(places: Sequence[P], vectors: Mapping[P, Float[Tensor, "*_rows _"]]) -> Float[Tensor, "*rows d"]:
    """The vectors of some places side by side, in their order; those of a single place themselves, not a copy."""
    return vectors[places[0]] if len(places) == 1 else torch.cat([vectors[place] for place in places], dim=-1)


@dataclass(frozen=True)
class Batch:
    """Vectors for one dictionary; `y is x` for an autoencoder, other sites' vectors for a transcoder.

    Attributes:
        x: what the dictionary reads: the vectors of all its binding's reads, side by side in their order.
        y: what it must reconstruct: those of its writes in the same way.
        token: the token at which each vector was read.
        document: its document's index in the corpus split.
        position: its position in its window.
    """

    x: Float[Tensor, "batch d_in"]
    y: Float[Tensor, "batch d_out"]
    token: Int[Tensor, " batch"]
    document: Int[Tensor, " batch"]
    position: Int[Tensor, " batch"]


@dataclass(frozen=True)
class SiteBatch:
    """Vectors of every site of a study, read in the same forward pass at the same tokens.

    Attributes:
        acts: site name to vectors; all have the same number of rows.
        token, document, position: as in `Batch`.
    """

    acts: dict[str, Float[Tensor, "batch d"]]
    token: Int[Tensor, " batch"]
    document: Int[Tensor, " batch"]
    position: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.token)

    def at(self, binding: BindingLike) -> Batch:
        """The batch of a dictionary with this binding."""
        chosen = bound(binding)
        x = joined(chosen.reads, self.acts)
        y = x if chosen.is_autoencoder else joined(chosen.writes, self.acts)
        return Batch(x, y, self.token, self.document, self.position)


@dataclass(frozen=True)
class Latents:
    """Sparse latent activations, ragged: row b owns entries `offsets[b]:offsets[b + 1]`.

    Attributes:
        values: activations, non-zero only.
        indices: the latent of each entry; within a row ascending and unique.
        offsets: start of each row and the end, int64.
        n_latents: width of the dense equivalent.
        leading: axes of the encoded vectors before the last, which the rows fill in order; None: one axis of rows.
    """

    values: Float[Tensor, " entry"]
    indices: Int[Tensor, " entry"]
    offsets: Int[Tensor, " batch_plus_1"]
    n_latents: int
    leading: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        l0 = len(self.values) / max(1, self.n_rows)
        return f"Latents(shape={list(self.shape)}, {len(self.values):,} active, L0 {l0:.4g})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense equivalent, `[..., n_latents]`."""
        return (*(self.leading if self.leading is not None else (self.n_rows,)), self.n_latents)

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> Int[Tensor, " entry"]:
        """The row of each entry."""
        counts = self.offsets[1:] - self.offsets[:-1]
        return torch.repeat_interleave(counts)

    @property
    def l0(self) -> Float[Tensor, "*leading"]:
        """Active latents of each vector."""
        return (self.offsets[1:] - self.offsets[:-1]).to(torch.float32).view(self.shape[:-1])

    def dense(self) -> Float[Tensor, "*leading n_latents"]:
        """The dense equivalent; for tests and small n."""
        out = self.values.new_zeros(self.n_rows, self.n_latents)
        out[self.rows, self.indices.long()] = self.values
        return out.view(self.shape)

    def of(self, latent: int) -> Float[Tensor, "*leading"]:
        """The activations of one latent, zeros included.

        Raises:
            InputError: there is no such latent.
        """
        out, here = self.values.new_zeros(self.n_rows), self.indices == check_latent(latent, self.n_latents)
        out[self.rows[here]] = self.values[here]
        return out.view(self.shape[:-1])

    @classmethod
    def from_dense(cls, z: Float[Tensor, "*leading n_latents"]) -> "Latents":
        """Keep the non-zero entries of `z`."""
        flat = z.reshape(-1, z.shape[-1])
        rows, indices = flat.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(flat))
        offsets = torch.zeros(len(flat) + 1, dtype=torch.int64, device=z.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        return cls(flat[rows, indices], indices.to(torch.int32), offsets, z.shape[-1], tuple(z.shape[:-1]))


def check_latent(latent: object, n_latents: int) -> int:
    """The latent of this index, counted from 0.

    Raises:
        InputError: there is no such latent.
    """
    try:
        index = -1 if isinstance(latent, bool) else operator.index(latent)  # pyright: ignore[reportArgumentType]
    except TypeError:
        index = -1
    if 0 <= index < n_latents:
        return index
    fix = f"latents are 0 to {n_latents - 1:,}"
    raise InputError(f"there is no latent {latent} in a dictionary of {n_latents:,}", where="latent", fix=fix)
