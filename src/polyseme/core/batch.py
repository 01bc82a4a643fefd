"""What travels between stages: batches of activations with their ids, and sparse latents."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Vectors for one dictionary; `y is x` for an autoencoder, another site's vectors for a transcoder.

    Attributes:
        x: what the dictionary reads.
        y: what it must reconstruct.
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

    def at(self, x: str, y: str | None = None) -> Batch:
        """The batch of a dictionary that reads site `x` and writes site `y` (the same site by default)."""
        return Batch(self.acts[x], self.acts[y or x], self.token, self.document, self.position)


@dataclass(frozen=True)
class Latents:
    """Sparse latent activations, ragged: row b owns entries `offsets[b]:offsets[b + 1]`.

    Attributes:
        values: activations, non-zero only.
        indices: the latent of each entry; within a row ascending and unique.
        offsets: start of each row and the end, int64.
        n_latents: width of the dense equivalent.
    """

    values: Float[Tensor, " entry"]
    indices: Int[Tensor, " entry"]
    offsets: Int[Tensor, " batch_plus_1"]
    n_latents: int

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> Int[Tensor, " entry"]:
        """The row of each entry."""
        counts = self.offsets[1:] - self.offsets[:-1]
        return torch.repeat_interleave(counts)

    @property
    def l0(self) -> Float[Tensor, " batch"]:
        """Entries a row."""
        return (self.offsets[1:] - self.offsets[:-1]).to(torch.float32)

    def dense(self) -> Float[Tensor, "batch n_latents"]:
        """The dense equivalent; for tests and small n."""
        out = self.values.new_zeros(self.n_rows, self.n_latents)
        out[self.rows, self.indices.long()] = self.values
        return out

    @classmethod
    def from_dense(cls, z: Float[Tensor, "batch n_latents"]) -> "Latents":
        """Keep the non-zero entries of `z`."""
        rows, indices = z.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(z))
        offsets = torch.zeros(len(z) + 1, dtype=torch.int64, device=z.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        return cls(z[rows, indices], indices.to(torch.int32), offsets, z.shape[1])
