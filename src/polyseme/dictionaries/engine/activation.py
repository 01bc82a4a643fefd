"""What an architecture brings to the engine: its activation, and what its config says of it."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Config, Width
from polyseme.core.errors import InputError
from polyseme.dictionaries.engine.entries import Codes, Gradients, SparseEntries
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels.tuning import Tuning


@dataclass
class Step:
    """What the pieces of a batch add to: losses and gradients.

    Attributes:
        goal: v − b_dec, what the codes are to add up to, at the rows they belong to.
        b_enc: of the encoder.
        W_dec: of the decoder.
        grads: where gradients are added.
        encoder: the gradient buffer of the encoder (the decoder's, when tied).
        per_row: 1 / (batch × d_out), the weight of one row in the loss.
        coefficient: of the penalty.
        d_bias: gradients in the pre-activations, summed over the batch.
        fired: on how many vectors each latent is active.
        tuning: of the operations.
        mse, sparsity, aux: parts of the loss.
        totals: room for what it sums over the batch's pieces, for each latent.
    """

    goal: Float[Tensor, "batch d_out"]
    b_enc: Float[Tensor, " n_latents"]
    W_dec: Float[Tensor, "n_latents d_out"]
    grads: Gradients
    encoder: str
    per_row: float
    coefficient: float
    d_bias: Float[Tensor, " n_latents"]
    fired: Int[Tensor, " n_latents"]
    tuning: Tuning
    mse: Tensor | float = 0.0
    sparsity: Tensor | float = 0.0
    aux: Tensor | float = 0.0
    totals: Tensor | float = 0.0

    @functools.cached_property
    def norms(self) -> Float[Tensor, " n_latents"]:
        """Norms of the decoder's rows."""
        return torch.linalg.vector_norm(self.W_dec, dim=1)


@dataclass(frozen=True)
class Nesting:
    """Dictionaries of which each has all latents of the next smaller one.

    Attributes:
        ends: how many latents each has, ascending; the last has all.
        rank: position of each latent among all, int64: dictionary m has those of a rank below ends[m]. None: its index.
        detached: a latent learns from the smallest dictionary that has it and from the largest; otherwise from all that
            have it.
    """

    ends: tuple[int, ...]
    rank: Int[Tensor, " n_latents"] | None = None
    detached: bool = False


class Activation(ABC):
    """One architecture: how pre-activations become values, and the way back."""

    unit_norm: bool
    """Decoder rows have norm 1: their gradients are projected, the rows renormalised after a step."""
    by_threshold: bool
    """An entry is chosen by its own value alone, so that a batch's rows may be asked about some at a time."""
    k_aux: int | None = 0
    """AuxK's latents per vector (None: half of d_out); 0 where a dead latent has no positive pre-activation to use."""
    aux_coefficient: float = 0.0
    """AuxK's weight."""
    tied: bool = False
    """The encoder is the decoder's transpose."""
    nesting: Nesting | None = None
    """Which latents the nested dictionaries have (Matryoshka); None for one dictionary."""
    parameters: Mapping[str, Tensor] = MappingProxyType({})
    """Trained tensors beyond weights and biases."""
    buffers: Mapping[str, Tensor] = MappingProxyType({})
    """Other state."""
    carried: Mapping[str, Tensor] = MappingProxyType({})
    """State that only training needs: what a step's bits depend on beside weights, buffers and the batch."""

    @abstractmethod
    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        """The entries that matter, ascending in each row unless training; None: use dense tiles (training only).

        It moves no state (`Remembers.stepped` does): asked twice about one batch, it answers the same.
        """

    @abstractmethod
    def values(self, codes: Codes, b_enc: Float[Tensor, " n_latents"], /) -> Tensor:
        """f at each entry, 0 or more."""

    @abstractmethod
    def pull_back(self, codes: Codes, values: Tensor, d_values: Tensor, step: Step, /) -> Tensor:
        """∂pre from ∂f, in whose place it may be; adds penalties to `step`, its own gradients to `step.grads`."""

    @abstractmethod
    def fold(self, gain: Float[Tensor, " n_latents"], shift: Float[Tensor, " n_latents"], /) -> None:
        """Rescale own tensors in place: of u W_encᵀ + b_enc, the product grows by −shift, then all `gain` times."""

    def decoder_norms(self, W_dec: Float[Tensor, "n_latents d_out"], /) -> Float[Tensor, " n_latents"]:
        """Norms of the decoder's rows where they are free (never zero), ones where they are constrained."""
        if self.unit_norm:
            return W_dec.new_ones(len(W_dec))
        return torch.linalg.vector_norm(W_dec, dim=1).clamp_(min=1e-30)

    def bar(self, least: Float[Tensor, " row"], _live: Bool[Tensor, " n_latents"], /) -> Float[Tensor, " row"]:
        """What a revived latent's pre-activation must exceed to be active, given the smallest active value of each
        vector."""
        return torch.zeros_like(least)

    def revive(  # noqa: B027  most have no tensors of their own
        self, latents: Int[Tensor, " some"], bar: Float[Tensor, " some"], bias: Float[Tensor, " some"], /
    ) -> None:
        """Give latents such own tensors that they are active above the bar; `bias` is theirs in the encoder by now."""


@runtime_checkable
class HasGate(Protocol):
    """An activation with values that are to reconstruct the goal by themselves, too, and a decoder that does not learn
    from it (Gated)."""

    def gate(self, codes: Codes, /) -> Tensor:
        """Those values."""
        ...

    def pull_back_gate(self, codes: Codes, values: Tensor, d_values: Tensor, step: Step, /) -> Tensor:
        """`pull_back` from what they reconstruct."""
        ...


@runtime_checkable
class Finishes(Protocol):
    """An activation that adds something once a batch (ReLU)."""

    def finish(self, step: Step, /) -> None:
        """Add it to `step`, after all pieces of the batch."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """An activation whose state follows its steps (BatchTopK)."""

    def stepped(self) -> None:
        """Take in what the last training `select` found: called once its step was taken, and moved the weights."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """An activation that selects otherwise early in training than late (ISTA), and always alike outside it."""

    def at(self, progress: float, /) -> None:
        """Select in training as it does at this share of it; 1 when it is built."""
        ...


@runtime_checkable
class LooksTwice(Protocol):
    """An activation that encodes x + eta × (x − what its first code of x gives), for autoencoders (ISTA)."""

    eta: float
    """0: it encodes x alone."""

    def first(self, encoder: Encoder, /, *, training: bool) -> SparseEntries:
        """The entries of the first code, whose values are the pre-activations."""
        ...


@runtime_checkable
class HasThresholds(Protocol):
    """An activation with thresholds of its own; without it, a latent's threshold is what `b_enc` leaves over 0."""

    def raise_thresholds(self, share: Float[Tensor, " n_latents"], /) -> None:
        """Each by a share of its own."""
        ...


class Architecture(Config):
    """What the engine asks of a config; `DictionaryBase` adds `build`."""

    n_latents: Width | None = None
    """Number of latents; None for expansion × d_in."""
    expansion: int = Field(default=8, ge=1, le=2**16)
    """Latents per input dimension, where n_latents is not given."""
    selection: Literal["auto", "fp32"] = "auto"
    """How active latents are looked for on a CPU: `auto` takes products of bytes where the processor has them, proves
    for each vector that float32 would choose the same, and computes what it chose in float32; `fp32` computes
    everything in float32."""

    @property
    @abstractmethod
    def active_latents(self) -> float | None:
        """k, where it sets how many latents of a vector are active; None where a penalty does."""

    @property
    @abstractmethod
    def penalty(self) -> float | None:
        """The coefficient at the start, where sparsity is bought with a penalty; None where it is set by k."""

    @property
    def has_coefficient(self) -> bool:
        """True when sparsity is bought with a penalty's coefficient, False when it is set by k."""
        return self.penalty is not None

    @abstractmethod
    def activation(self, zeros: Float[Tensor, " n_latents"], spread: float, /) -> Activation:
        """The architecture itself, with its own parameters at their start.

        Args:
            zeros: of the size, device and dtype that it is to have.
            spread: standard deviation of a pre-activation at the start.
        """

    def width(self, d_in: int) -> int:
        """Number of latents for inputs of width `d_in`.

        Raises:
            InputError: k is more than that.
        """
        n_latents, k = self.n_latents or self.expansion * d_in, self.active_latents
        if k is not None and k > n_latents:
            raise InputError(
                f"a dictionary of {n_latents:,} latents cannot keep k = {k:g} of them active",
                where="dictionary.k",
                fix=f"set k to {n_latents:,} or less, or take more latents",
            )
        return n_latents
