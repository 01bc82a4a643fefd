"""What an architecture brings to the engine: its configuration's common part and its activation."""

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from polyseme.core.config import Config
from polyseme.dictionaries.entries import Codes, Gradients, SparseEntries
from polyseme.dictionaries.selection import Encoder


class DictionaryBase(Config):
    """What every architecture's config has."""

    n_latents: int | None = None
    """Number of latents; None: expansion × d_in."""
    expansion: int = 8
    """Latents per input dimension, where n_latents is not given."""
    k_aux: int | None = None
    """Dead latents that predict the residual of each vector (AuxK); None: half of d_out; 0: none."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK's squared error in the loss."""

    def width(self, d_in: int) -> int:
        """Number of latents for inputs of width `d_in`."""
        return self.n_latents or self.expansion * d_in


@dataclass
class Step:
    """What an activation needs to add its penalties and its own parameters' gradients.

    Attributes:
        target: v, the rows the codes belong to.
        b_dec, W_dec: of the decoder.
        grads: where gradients are added.
        per_row: 1 / (batch × d_out), the weight of one row in the loss.
        coefficient: of the penalty.
        sparsity, aux: the activation adds its parts of the loss here.
    """

    target: Float[Tensor, "batch d_out"]
    b_dec: Float[Tensor, " d_out"]
    W_dec: Float[Tensor, "n_latents d_out"]
    grads: Gradients
    per_row: float
    coefficient: float
    sparsity: Tensor | float = 0.0
    aux: Tensor | float = 0.0


class Activation(Protocol):
    """One architecture: how pre-activations become values, and the way back."""

    unit_norm: bool
    """Decoder rows have norm 1: their gradients are projected, the rows renormalised after a step."""
    has_coefficient: bool
    """Sparsity is bought with a penalty."""
    revives: bool
    """AuxK applies: a dead latent may have a positive pre-activation, so it gets a gradient."""
    prefixes: Tensor | None
    """Ends of the nested dictionaries (Matryoshka), int32; None for one dictionary."""
    parameters: dict[str, Tensor]
    """Trained tensors beyond weights and biases."""
    buffers: dict[str, Tensor]
    """Other state."""

    def select(self, encoder: Encoder, *, training: bool) -> SparseEntries | None:
        """The entries that matter, ascending in each row unless training; None: use dense tiles (training only)."""
        ...

    def values(self, codes: Codes, bias: Tensor) -> Tensor:
        """f at each entry; `bias` is b_enc."""
        ...

    def pull_back(self, codes: Codes, values: Tensor, d_values: Tensor, bias: Tensor, step: Step) -> Tensor:
        """∂pre from ∂f; adds penalties to `step`, and gradients of its own parameters to `step.grads`."""
        ...

    def fold(self, gain: Float[Tensor, " n_latents"]) -> None:
        """Rescale own tensors in place for pre-activations and values that are `gain` times as large."""
        ...
