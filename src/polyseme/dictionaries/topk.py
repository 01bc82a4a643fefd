"""TopK: exactly the k largest pre-activations of each vector (Gao et al. 2024, eq. 2)."""

from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from polyseme.dictionaries.activation import DictionaryBase, Step
from polyseme.dictionaries.engine import SparseDictionary
from polyseme.dictionaries.entries import Codes, SparseEntries
from polyseme.dictionaries.selection import Encoder, select_top_k


class TopKConfig(DictionaryBase):
    """The k largest positive latents of each vector; decoder rows kept at norm 1."""

    architecture: Literal["topk"] = "topk"
    """Which dictionary."""
    k: int = Field(default=32, ge=1)
    """Active latents per vector (fewer where fewer are positive)."""

    def build(
        self,
        d_in: int,
        d_out: int | None = None,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> SparseDictionary:
        """An untrained dictionary; `d_out` makes it a transcoder."""
        return SparseDictionary(self, TopK(self.k), d_in, d_out, seed=seed, device=device, dtype=dtype)


@final
class TopK:
    """f = ReLU(pre) on each vector's k largest entries, 0 elsewhere; ∂pre = ∂f where f > 0."""

    unit_norm = True
    has_coefficient = False
    revives = True
    prefixes: Tensor | None = None

    def __init__(self, k: int):
        self._k = k
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        return select_top_k(encoder, self._k, ascending=not training)

    def values(self, codes: Codes, bias: Tensor) -> Tensor:
        return codes.pre

    def pull_back(self, codes: Codes, values: Tensor, d_values: Tensor, bias: Tensor, step: Step) -> Tensor:
        return d_values

    def fold(self, gain: Float[Tensor, " n_latents"]) -> None:
        return
