"""Matryoshka BatchTopK: nested dictionaries, each of which must reconstruct alone (Bussmann et al. 2025)."""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor

from polyseme.core.config import Share, Width
from polyseme.dictionaries.base import CountedBase
from polyseme.dictionaries.batch_topk import BatchTopK
from polyseme.dictionaries.engine.activation import Nesting


def _ascending(shares: tuple[float, ...]) -> tuple[float, ...]:
    if not shares or any(a >= b for a, b in zip((0.0, *shares), shares, strict=False)) or shares[-1] != 1:
        raise ValueError("must rise from above 0 to exactly 1, such as 0.25, 0.5, 1")
    return shares


Prefixes = Annotated[tuple[Share, ...], Field(max_length=64), AfterValidator(_ascending)]
"""Share of the latents that each nested dictionary has."""


def ends_of(prefixes: Prefixes, n_latents: int) -> tuple[int, ...]:
    """How many latents each has."""
    return tuple(sorted({max(1, round(share * n_latents)) for share in prefixes}))


class MatryoshkaConfig(CountedBase):
    """BatchTopK whose first latents are dictionaries of their own, so that general features are not split away."""

    architecture: Literal["matryoshka"] = "matryoshka"
    """Architecture of the dictionary."""
    k: Width = 32
    """Active latents per vector, on average, over all latents."""
    prefixes: Prefixes = (
        0.0625,
        0.125,
        0.25,
        0.5,
        1.0,
    )
    """Share of the latents that each nested dictionary has; the shares ascend, and the last is 1."""

    @property
    def active_latents(self) -> float:
        return self.k

    def activation(self, zeros: Float[Tensor, " n_latents"], _spread: float, /) -> BatchTopK:
        """BatchTopK's selection; the loss is the mean over prefixes m of ‖v − b_dec − Σ_{j<m} f_j W_dec_j‖².

        Bussmann, Nabeshima, Karvonen & Nanda 2025, Learning multi-level features with Matryoshka sparse autoencoders,
        eq. 5; the mean instead of the sum, so that the loss compares with other architectures'.
        """
        return BatchTopK(self, zeros, nesting=Nesting(ends_of(self.prefixes, len(zeros))))
