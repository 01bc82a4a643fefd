"""BatchTopK: the k × batch largest pre-activations of a whole batch (Bussmann et al. 2024, eq. 6)."""

from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Width
from polyseme.core.precision import wide
from polyseme.dictionaries.base import CountedBase
from polyseme.dictionaries.engine.activation import Activation, Step
from polyseme.dictionaries.engine.entries import Codes, SparseEntries
from polyseme.dictionaries.engine.exact import exact_above, exact_top_k
from polyseme.dictionaries.engine.selection import Encoder, select_batch_top_k


class BatchTopKConfig(CountedBase):
    """On average k latents per vector, shared out over the batch; a learned threshold outside training."""

    architecture: Literal["batch_topk"] = "batch_topk"
    """Architecture of the dictionary."""
    k: Width | Annotated[float, Field(gt=0, le=2**24)] = 32
    """Active latents per vector, on average: a fraction is shared out over the batch like a whole number."""

    @property
    def active_latents(self) -> float:
        return self.k

    def activation(self, zeros: Float[Tensor, " n_latents"], _spread: float, /) -> "BatchTopK":
        return BatchTopK(self.k, zeros.new_tensor(-1.0), k_aux=self.k_aux, aux_coefficient=self.aux_coefficient)


@final
class BatchTopK(Activation):
    """f = ReLU(pre) on the batch's k × rows largest entries, 0 elsewhere; ∂pre = ∂f where f > 0.

    Outside training a vector's code must not depend on its neighbours: f = pre where pre > t, with t the running mean
    of the smallest value each batch kept (decay 0.95: some twenty batches, to keep up with moving weights). While t is
    unset (−1, before the first step) the batch's own top k × rows are taken. Bussmann, Leask & Nanda 2024, BatchTopK
    sparse autoencoders.

    Args:
        k: active latents per vector, on average.
        threshold: t, a buffer.
        k_aux, aux_coefficient: of AuxK.
        prefixes: ends of nested dictionaries, for Matryoshka.
    """

    unit_norm = True
    by_threshold = False
    decay = 0.95

    def __init__(
        self, k: float, threshold: Tensor, *, k_aux: int | None, aux_coefficient: float, prefixes: Tensor | None = None
    ):
        self._k, self.k_aux, self.aux_coefficient, self.prefixes = k, k_aux, aux_coefficient, prefixes
        self._threshold = threshold
        # The smallest value that the last step kept: it saves work and changes no choice, but which products make the
        # values depends on it, and so do their last bits.
        self._guess = torch.zeros_like(threshold)
        self._smallest: Tensor | None = None  # of a step that may still be taken
        self.buffers = {"threshold": threshold}
        self.carried = {"guess": self._guess}

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        if not training and float(self._threshold) >= 0:
            return exact_above(encoder, self._threshold)
        if not training:
            return exact_top_k(encoder, min(encoder.n_latents, max(1, round(self._k))))
        entries = select_batch_top_k(encoder, self._k, float(self._guess))
        self._smallest = entries.pre.min() if len(entries.pre) else None
        return entries

    def stepped(self) -> None:
        smallest, self._smallest = self._smallest, None
        if smallest is None:
            return
        self._guess.copy_(smallest)
        if float(self._threshold) < 0:
            self._threshold.copy_(smallest)
        else:
            self._threshold.lerp_(smallest, 1 - self.decay)

    def values(self, codes: Codes, _b_enc: Float[Tensor, " n_latents"], /) -> Tensor:
        return codes.pre

    def pull_back(self, _codes: Codes, _values: Tensor, d_values: Tensor, _step: Step, /) -> Tensor:
        return d_values

    def bar(self, least: Float[Tensor, " row"], _live: Bool[Tensor, " n_latents"], /) -> Float[Tensor, " row"]:
        return self._threshold.clamp(min=0).expand_as(least)

    def fold(self, gain: Float[Tensor, " n_latents"], _shift: Float[Tensor, " n_latents"], /) -> None:
        if float(self._threshold) >= 0:
            self._threshold.copy_(wide(self._threshold) * gain[0])  # unit decoder norms: one gain for all
