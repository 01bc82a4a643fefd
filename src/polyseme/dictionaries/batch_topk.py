"""BatchTopK: the k × batch largest pre-activations of a whole batch (Bussmann et al. 2024, eq. 6)."""

from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Width
from polyseme.core.precision import wide
from polyseme.dictionaries.base import CountedBase
from polyseme.dictionaries.engine.activation import Activation, Nesting, Step
from polyseme.dictionaries.engine.entries import Codes, SparseEntries
from polyseme.dictionaries.engine.exact import exact_above, exact_top_k
from polyseme.dictionaries.engine.selection import Encoder, select_batch_top_k

AverageL0 = Width | Annotated[float, Field(gt=0, le=2**24)]
"""Active latents per vector, on average: a fraction is shared out over the batch like a whole number."""


class BatchTopKConfig(CountedBase):
    """On average k latents per vector, shared out over the batch; a learned threshold outside training."""

    architecture: Literal["batch_topk"] = "batch_topk"
    """Architecture of the dictionary."""
    k: AverageL0 = 32
    """Active latents per vector, on average: a fraction is shared out over the batch like a whole number."""

    @property
    def active_latents(self) -> float:
        return self.k

    def activation(self, zeros: Float[Tensor, " n_latents"], _spread: float, /) -> "BatchTopK":
        return BatchTopK(self, zeros)


@final
class Cutoff:
    """The k × rows largest entries of a batch in training; outside it, where a vector's code must not depend on its
    neighbours, every entry above t, the running mean of the smallest value that each batch kept (decay 0.95: about
    twenty batches, to keep up with moving weights). While t is unset (−1, before the first step) each vector's own k
    largest are taken.

    Args:
        zeros: of the device and dtype that it is to have.
    """

    decay = 0.95

    def __init__(self, zeros: Float[Tensor, " n_latents"]):
        self.threshold = zeros.new_tensor(-1.0)
        # The smallest value that the last step kept: it saves work and changes no choice, but which products make the
        # values depends on it, and so do their last bits.
        self.guess = torch.zeros_like(self.threshold)
        self._smallest: Tensor | None = None  # of a step that may still be taken

    def largest(self, encoder: Encoder, k: float) -> SparseEntries:
        """The selection of training; `stepped` takes in what it found."""
        entries = select_batch_top_k(encoder, k, float(self.guess))
        self._smallest = entries.pre.min() if len(entries.pre) else None
        return entries

    def above(self, encoder: Encoder, k: float) -> SparseEntries:
        """The selection of inference, ascending in each row."""
        if float(self.threshold) >= 0:
            return exact_above(encoder, self.threshold)
        return exact_top_k(encoder, min(encoder.n_latents, max(1, round(k))))

    def stepped(self) -> None:
        """Take in the last step's smallest value, if `largest` was asked since the step before."""
        smallest, self._smallest = self._smallest, None
        if smallest is None:
            return
        self.guess.copy_(smallest)
        if float(self.threshold) < 0:
            self.threshold.copy_(smallest)
        else:
            self.threshold.lerp_(smallest, 1 - self.decay)

    def fold(self, gain: Float[Tensor, " n_latents"]) -> None:
        """Rescale t; decoder rows of norm 1 have one gain."""
        if float(self.threshold) >= 0:
            self.threshold.copy_(wide(self.threshold) * gain[0])


class BatchTopK(Activation):
    """f = ReLU(pre) on the batch's k × rows largest entries, 0 elsewhere; ∂pre = ∂f where f > 0.

    Outside training f = pre above a threshold (`Cutoff`). Bussmann, Leask & Nanda 2024, BatchTopK sparse autoencoders.

    Args:
        config: k, the average number of active latents per vector, and AuxK's settings.
        zeros: of the size, device and dtype that it is to have.
        nesting: of its dictionaries, for Matryoshka.
    """

    unit_norm = True
    by_threshold = False

    def __init__(self, config: CountedBase, zeros: Float[Tensor, " n_latents"], *, nesting: Nesting | None = None):
        assert config.active_latents is not None
        self.k, self.k_aux, self.aux_coefficient = config.active_latents, config.k_aux, config.aux_coefficient
        self.nesting, self.cutoff = nesting, Cutoff(zeros)
        self.buffers = {"threshold": self.cutoff.threshold}
        self.carried = {"guess": self.cutoff.guess}

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        return self.cutoff.largest(encoder, self.k) if training else self.cutoff.above(encoder, self.k)

    def stepped(self) -> None:
        self.cutoff.stepped()

    def values(self, codes: Codes, _b_enc: Float[Tensor, " n_latents"], /) -> Tensor:
        return codes.pre

    def pull_back(self, _codes: Codes, _values: Tensor, d_values: Tensor, _step: Step, /) -> Tensor:
        return d_values

    def bar(self, least: Float[Tensor, " row"], _live: Bool[Tensor, " n_latents"], /) -> Float[Tensor, " row"]:
        return self.cutoff.threshold.clamp(min=0).expand_as(least)

    def fold(self, gain: Float[Tensor, " n_latents"], _shift: Float[Tensor, " n_latents"], /) -> None:
        self.cutoff.fold(gain)
