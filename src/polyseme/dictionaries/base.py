"""What every dictionary's config shares."""

import torch
from pydantic import Field

from polyseme.core.config import Strength
from polyseme.dictionaries.engine.activation import Architecture
from polyseme.dictionaries.engine.engine import SparseDictionary
from polyseme.kernels.tuning import DEFAULT, Tuning


class DictionaryBase(Architecture):
    """A config that builds its dictionary; an architecture adds its `activation`."""

    def build(
        self,
        d_in: int,
        d_out: int | None = None,
        *,
        seed: int | None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tuning: Tuning = DEFAULT,
    ) -> SparseDictionary:
        """An untrained dictionary.

        Args:
            d_in: width of what it reads.
            d_out: width of what it writes, for a transcoder; None for an autoencoder.
            seed: seed of the initial weights; None leaves them zero, to be filled.
            device, dtype: of every tensor.
            tuning: what decides how its operations are carried out.

        Raises:
            InputError: for a tied transcoder, or a k above the number of latents.
        """
        return SparseDictionary(self, d_in, d_out, seed=seed, device=device, dtype=dtype, tuning=tuning)


class RevivedBase(DictionaryBase):
    """The options of AuxK, for architectures whose dead latents it can reach."""

    k_aux: int | None = Field(default=None, ge=0, le=2**24)
    """Number of dead latents that predict the residual of each vector (AuxK). None: half of d_out; 0: no AuxK."""
    aux_coefficient: Strength = 1 / 32
    """Weight of AuxK's squared error in the loss."""


class CountedBase(RevivedBase):
    """A dictionary with a k: the subclass says it."""

    @property
    def penalty(self) -> None:
        return None


class PenalisedBase(DictionaryBase):
    """A dictionary whose sparsity is bought with a penalty."""

    coefficient: Strength = 1.0
    """Coefficient of the sparsity penalty; adjusted where a target L0 is set."""

    @property
    def active_latents(self) -> None:
        return None

    @property
    def penalty(self) -> float:
        return self.coefficient
