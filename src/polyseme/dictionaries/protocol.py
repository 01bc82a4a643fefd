"""What a dictionary is, what training needs of it, and what a training step returns."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.core.batch import Batch, Latents
from polyseme.core.config import Config

Direction = Literal["read", "write"]
"""A latent's row of the encoder, or of the decoder."""


@dataclass(frozen=True)
class StepStats:
    """What one training step measured, in tensors that nobody has waited for yet.

    The loss is (squared error + coefficient × penalty + AuxK's share) summed over a vector, divided by d_out and
    averaged over the batch, in the units in which the target's mean squared norm about its mean is d_out: 1 is what
    predicting the mean costs, whatever the data's scale and width.

    Attributes:
        loss: mse + sparsity + aux; its gradient is what `accumulate` wrote.
        mse: the reconstruction's part.
        sparsity: the penalty's part, coefficient included.
        aux: the part of AuxK, or of the gated dictionary's auxiliary reconstruction.
        l0: mean active latents per vector.
        fired: on how many vectors of the batch each latent was active.
        sse: Σ‖y − ŷ‖² over the batch.
        total: Σ‖y − ȳ‖² over the batch, ȳ its mean; sse / total is the batch's FVU.
        n_rows: vectors in the batch.
    """

    loss: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    aux: Float[Tensor, ""]
    l0: Float[Tensor, ""]
    fired: Int[Tensor, " n_latents"]
    sse: Float[Tensor, ""]
    total: Float[Tensor, ""]
    n_rows: int


@runtime_checkable
class LatentEncoder(Protocol):
    """Sparse latents of a raw vector: all that firings need of a dictionary."""

    @property
    def d_in(self) -> int: ...
    @property
    def n_latents(self) -> int: ...

    def encode(self, x: Float[Tensor, "*leading d_in"]) -> Latents:
        """The active latents of each vector."""
        ...


@runtime_checkable
class Reconstructor(LatentEncoder, Protocol):
    """Latents and back to a raw vector: all that evaluation needs of a dictionary, one of another library too."""

    @property
    def d_out(self) -> int: ...

    def decode(self, z: Latents) -> Float[Tensor, "*leading d_out"]:
        """Σ z_i × (write direction i) + bias."""
        ...


@runtime_checkable
class Dictionary(Reconstructor, Protocol):
    """Sparse latents of a vector and back; raw activations in, raw activations out."""

    @property
    def config(self) -> Config: ...

    @property
    def has_coefficient(self) -> bool:
        """True when sparsity is bought with a penalty's coefficient, False when it is set by k."""
        ...

    @property
    def active_latents(self) -> float | None:
        """k, where it sets how many latents of a vector are active; None where a penalty does."""
        ...

    @property
    def penalty(self) -> float | None:
        """The coefficient at the start, where sparsity is bought with a penalty; None where it is set by k."""
        ...

    def reconstruct(self, x: Float[Tensor, "*leading d_in"]) -> Float[Tensor, "*leading d_out"]:
        """decode(encode(x))."""
        ...

    def read_directions(self) -> Float[Tensor, "n_latents d_in"]:
        """The encoder's rows: the inner product with a raw vector is the latent's pre-activation less its bias."""
        ...

    def write_directions(self) -> Float[Tensor, "n_latents d_out"]:
        """The decoder's unit rows: what one unit of the latent adds to the reconstruction."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer, live: copying all of them back restores the dictionary bit for bit."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """The trained tensors, live leaves whose `.grad` is set by `Trainable.accumulate`."""
        ...


@runtime_checkable
class Trainable(Dictionary, Protocol):
    """A dictionary that writes its own gradients; any torch optimiser over `parameters()` moves it."""

    @property
    def is_initialised(self) -> bool:
        """True once it has taken a centre and scale: it has been trained, or began to be."""
        ...

    @property
    def frozen(self) -> frozenset[str]:
        """Tensors that training leaves as they were drawn: `parameters()` has all others."""
        ...

    def initialise(self, batch: Batch) -> None:
        """Take the data's centre and scale from the first batch."""
        ...

    def accumulate(
        self, batch: Batch, *, progress: float, dead: Bool[Tensor, " n_latents"] | None, coefficient: float
    ) -> StepStats:
        """Set `.grad` of every parameter to the gradient of `StepStats.loss` on this batch."""
        ...

    def after_step(self) -> None:
        """Restore the constraints that the optimiser's step has broken (unit decoder norms)."""
        ...

    def revive(
        self,
        batch: Batch,
        latents: Int[Tensor, " some"],
        *,
        live: Bool[Tensor, " n_latents"],
        progress: float,
        generator: torch.Generator,
    ) -> Int[Tensor, " revived"]:
        """Make dead latents again from vectors that are reconstructed badly; which of them were."""
        ...

    def move_thresholds(self, share: float, stats: StepStats) -> None:
        """Raise or lower what a latent must exceed to be active, where a penalty decides how many are."""
        ...

    def folded(self) -> "Trainable":
        """A copy whose weights take raw activations themselves: what is saved."""
        ...
