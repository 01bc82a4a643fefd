"""BatchTopK with a second look: encoded in two passes, and trained from easy to hard."""

from typing import Annotated, Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Share, Width
from polyseme.dictionaries.base import CountedBase
from polyseme.dictionaries.batch_topk import BatchTopK, Cutoff
from polyseme.dictionaries.engine.entries import SparseEntries
from polyseme.dictionaries.engine.selection import Encoder, select_top_k


class ISTAConfig(CountedBase):
    """BatchTopK that encodes what its first guess left over once more, and that begins with many latents a vector."""

    architecture: Literal["ista"] = "ista"
    """Architecture of the dictionary."""
    k: Width | Annotated[float, Field(gt=0, le=2**24)] = 32
    """Active latents per vector, on average: a fraction is shared out over the batch like a whole number."""
    eta: float = Field(default=0.3, ge=0, le=1)
    """Share of the first pass's residual that is added to the vector before the second pass. 0: one pass."""
    k_start: float = Field(default=4.0, ge=1, le=64)
    """Training begins with this multiple of k, which falls linearly to k. 1: k throughout."""
    anneal: Share = 0.7
    """Share of the training after which k is what it stays."""
    per_vector: float = Field(default=0.5, ge=0, le=1)
    """Share of the training, at the start, in which each vector has its own k largest latents (TopK) rather than a part
    of the batch's."""

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

    Training begins as TopK with `k_start` × k latents: in BatchTopK from the start the vectors and latents that are
    large at first take all of the batch's entries, and the others never learn (`docs/decisions/0037-recovery.md`).

    Gregor & LeCun 2010, Learning fast approximations of sparse coding (LISTA), eq. 3 to 5; as the encoder of a sparse
    autoencoder, with a k that falls: Chanin 2026, Letting Claude do autonomous research to improve SAEs.

    Args:
        config: its settings.
        zeros: of the size, device and dtype that it is to have.
    """

    def __init__(self, config: ISTAConfig, zeros: Float[Tensor, " n_latents"]):
        super().__init__(config, zeros)
        self.eta, self._schedule, self._first = config.eta, config, Cutoff(zeros)
        self.at(1.0)
        if self.eta:
            self.buffers = {**self.buffers, "first_threshold": self._first.threshold}
            self.carried = {**self.carried, "first_guess": self._first.guess}

    def at(self, progress: float, /) -> None:
        """Select as this share of the training has it."""
        of = self._schedule
        left = max(0.0, 1 - progress / of.anneal) if of.anneal else 0.0
        self._k_now, self._alone = of.k * (1 + (of.k_start - 1) * left), progress < of.per_vector

    def first(self, encoder: Encoder, *, training: bool) -> SparseEntries:
        """The entries of f¹."""
        return self._selected(encoder, self._first) if training else self._first.above(encoder, self._k_now)

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        return self._selected(encoder, self.cutoff) if training else self.cutoff.above(encoder, self._k_now)

    def stepped(self) -> None:
        super().stepped()
        self._first.stepped()

    def bar(self, least: Float[Tensor, " row"], live: Bool[Tensor, " n_latents"], /) -> Float[Tensor, " row"]:
        return least if self._alone else super().bar(least, live)

    def fold(self, gain: Float[Tensor, " n_latents"], shift: Float[Tensor, " n_latents"], /) -> None:
        super().fold(gain, shift)
        self._first.fold(gain)

    def _selected(self, encoder: Encoder, cutoff: Cutoff) -> SparseEntries:
        if self._alone:
            return select_top_k(encoder, max(1, round(self._k_now)), ascending=False)
        return cutoff.largest(encoder, min(self._k_now, encoder.n_latents))
