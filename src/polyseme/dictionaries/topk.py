"""TopK: exactly the k largest pre-activations of each vector (Gao et al. 2024, eq. 2)."""

from typing import Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.config import Width
from polyseme.dictionaries.base import CountedBase
from polyseme.dictionaries.engine.activation import Activation, Step
from polyseme.dictionaries.engine.entries import Codes, SparseEntries
from polyseme.dictionaries.engine.exact import exact_top_k
from polyseme.dictionaries.engine.selection import Encoder, select_top_k


class TopKConfig(CountedBase):
    """The k largest positive latents of each vector; decoder rows kept at norm 1."""

    architecture: Literal["topk"] = "topk"
    """Architecture of the dictionary."""
    k: Width = 32
    """Active latents per vector (fewer where fewer are positive)."""

    @property
    def active_latents(self) -> float:
        return self.k

    def activation(self, _zeros: Float[Tensor, " n_latents"], _spread: float, /) -> "TopK":
        return TopK(self)


@final
class TopK(Activation):
    """f = ReLU(pre) on each vector's k largest entries, 0 elsewhere; ∂pre = ∂f where f > 0.

    Gao et al. 2024, Scaling and evaluating sparse autoencoders, section 2.3.
    """

    unit_norm = True
    by_threshold = False

    def __init__(self, config: TopKConfig):
        self._k, self.k_aux, self.aux_coefficient = config.k, config.k_aux, config.aux_coefficient

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        return select_top_k(encoder, self._k, ascending=False) if training else exact_top_k(encoder, self._k)

    def values(self, codes: Codes, _b_enc: Float[Tensor, " n_latents"], /) -> Tensor:
        return codes.pre

    def pull_back(self, _codes: Codes, _values: Tensor, d_values: Tensor, _step: Step, /) -> Tensor:
        return d_values

    def bar(self, least: Float[Tensor, " row"], _live: Bool[Tensor, " n_latents"], /) -> Float[Tensor, " row"]:
        return least

    def fold(self, _gain: Float[Tensor, " n_latents"], _shift: Float[Tensor, " n_latents"], /) -> None:
        return
