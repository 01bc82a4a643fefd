"""BatchTopK with a second look: encoded in two passes, and trained as TopK first."""

from dataclasses import replace
from typing import Literal, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from polyseme.dictionaries.base import CountedBase
from polyseme.dictionaries.batch_topk import AverageL0, BatchTopK, Cutoff
from polyseme.dictionaries.engine.activation import Nesting
from polyseme.dictionaries.engine.entries import SparseEntries
from polyseme.dictionaries.engine.selection import Encoder, select_top_k
from polyseme.dictionaries.matryoshka import Prefixes, ends_of


class ISTAConfig(CountedBase):
    """BatchTopK that encodes what its first guess left over once more, and that begins as TopK."""

    architecture: Literal["ista"] = "ista"
    """Architecture of the dictionary."""
    k: AverageL0 = 32
    """Active latents per vector, on average: a fraction is shared out over the batch like a whole number."""
    eta: float = Field(default=0.3, ge=0, le=0.9)
    """Share of the first pass's residual that is added to the vector before the second pass. 0: one pass."""
    k_start: float = Field(default=1.0, ge=1, le=64)
    """Training begins with this multiple of k, which falls linearly to k over 70% of it. 4 finds more planted features;
    on the real site that was tried it finds fewer that another seed finds too. 1: k throughout."""
    per_vector: float = Field(default=0.5, ge=0, le=1)
    """Share of the training, at the start, in which each vector has its own k largest latents (TopK) rather than a part
    of the batch's."""
    prefixes: Prefixes = (1.0,)
    """Share of the latents that each nested dictionary has; the shares ascend, and the last is 1. Only 1: none is
    nested."""
    nesting: Literal["plain", "detached", "by_frequency", "detached_by_frequency"] = "detached"
    """`detached`: a latent learns from the smallest dictionary that has it, the rest of which is held fixed, and from
    the largest, instead of from all that have it. `by_frequency`: the smaller dictionaries have the latents that are
    active most often, instead of those of the lowest index."""

    @property
    def active_latents(self) -> float:
        return self.k

    def activation(self, zeros: Float[Tensor, " n_latents"], _spread: float, /) -> "ISTA":
        return ISTA(self, zeros)


@final
class ISTA(BatchTopK):
    """With f¹ the code that BatchTopK would give to x = u − b_dec, the code is that of

        x′ = x + η (x − f¹ W_dec)

    that is, pre = x W_encᵀ + b_enc + η (x − f¹ W_dec) W_encᵀ: an iteration of ISTA with the encoder in place of the
    decoder's transpose. It takes the latents that were found first out of the others' pre-activations, where they are
    noise. Each pass has its own threshold. x′ − x is held fixed in a step: with its gradient recovery was the same.

    Training begins as TopK, in which each vector has latents of its own: from a start at the truth BatchTopK finds more
    features than TopK does, and from a random one fewer (`docs/decisions/0037-recovery.md`).

    Gregor & LeCun 2010, Learning fast approximations of sparse coding (LISTA), eq. 3 to 5; as the encoder of a sparse
    autoencoder, with a k that falls: Chanin 2026, Letting Claude do autonomous research to improve SAEs.

    Args:
        config: its settings.
        zeros: of the size, device and dtype that it is to have.
    """

    annealed, memory = 0.7, 0.99
    """Share of the training after which k is what it stays; share of the running frequencies that each batch keeps."""

    def __init__(self, config: ISTAConfig, zeros: Float[Tensor, " n_latents"]):
        super().__init__(config, zeros)
        self.eta, self._config, self._first = config.eta, config, Cutoff(zeros)
        self.at(1.0)
        self._frequency: Tensor | None = None
        self._found: Tensor | None = None  # shares of a step that may still be taken
        ends = ends_of(config.prefixes, len(zeros))
        if len(ends) > 1:
            self.nesting = Nesting(ends, detached="detached" in config.nesting)
            if "by_frequency" in config.nesting:
                self._frequency = torch.zeros_like(zeros)
                self.carried = {**self.carried, "frequency": self._frequency}
        if self.eta:
            self.buffers = {**self.buffers, "first_threshold": self._first.threshold}
            self.carried = {**self.carried, "first_guess": self._first.guess}

    def at(self, progress: float, /) -> None:
        """Select as this share of the training has it."""
        of = self._config
        left = max(0.0, 1 - progress / self.annealed)
        self._k_now, self._alone = of.k * (1 + (of.k_start - 1) * left), progress < of.per_vector

    def first(self, encoder: Encoder, *, training: bool) -> SparseEntries:
        """The entries of f¹."""
        return self._selected(encoder, self._first) if training else self._first.above(encoder, self.k)

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        if not training:
            return self.cutoff.above(encoder, self.k)
        entries = self._selected(encoder, self.cutoff)
        if self._frequency is not None and self.nesting is not None:
            # Numbered here, since a resumed training reads the frequencies after it was built.
            self.nesting = replace(self.nesting, rank=_ranks(self._frequency))
            self._found = torch.bincount(entries.indices, minlength=encoder.n_latents) / len(encoder.x)
        return entries

    def stepped(self) -> None:
        super().stepped()
        self._first.stepped()
        if self._found is not None and self._frequency is not None:
            self._frequency.lerp_(self._found.to(self._frequency), 1 - self.memory)
            self._found = None

    def bar(self, least: Float[Tensor, " row"], live: Bool[Tensor, " n_latents"], /) -> Float[Tensor, " row"]:
        # What a latent is worth in the first pass is taken from it in the second, η times.
        return (least if self._alone else super().bar(least, live)) / (1 - self.eta)

    def fold(self, gain: Float[Tensor, " n_latents"], shift: Float[Tensor, " n_latents"], /) -> None:
        super().fold(gain, shift)
        self._first.fold(gain)

    def _selected(self, encoder: Encoder, cutoff: Cutoff) -> SparseEntries:
        if self._alone:
            return select_top_k(encoder, max(1, round(self._k_now)), ascending=False)
        return cutoff.largest(encoder, min(self._k_now, encoder.n_latents))


def _ranks(frequency: Float[Tensor, " n_latents"]) -> Int[Tensor, " n_latents"]:
    """The position of each latent among all, the most frequent first."""
    order = frequency.sort(descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank
