"""What every null says of itself, and what it makes of each thing that a null can replace."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from polyseme.core.config import Config, Seed, identity
from polyseme.core.precision import wide
from polyseme.core.progress import Reporter
from polyseme.corpora import Windows
from polyseme.dictionaries import SparseDictionary
from polyseme.networks import Network

Target = Literal["weights", "tokens", "dictionary", "labels", "latents"]


def kind_of(null: "Null | type[Null]") -> str:
    """The `kind` of a null, its name in the table, which each class declares as a literal of its own."""
    fields: dict[str, Any] = (null if isinstance(null, type) else type(null)).model_fields
    return str(fields["kind"].default)


def with_seed(name: str, seed: int) -> str:
    """The name of a null drawn from a seed: two draws of one null have two names."""
    return f"{name}_seed{seed}" if seed else name


@dataclass(frozen=True)
class Written:
    """What a dictionary writes, from which a null of its latents may draw.

    Attributes:
        directions: the write directions.
        density: share of the tokens at which each latent fires.
        size: mean norm of what each latent writes where it fires; whatever for one that never does.
        vectors: a sample of the vectors of the sites that it writes; empty where no null asks for them.
    """

    directions: Float[Tensor, "n_latents d"]
    density: Float[np.ndarray, " n_latents"]
    size: Float[np.ndarray, " n_latents"]
    vectors: Float[Tensor, "sample d"]

    @cached_property
    def alive(self) -> Int[np.ndarray, " alive"]:
        """The latents that fire, ascending."""
        return np.flatnonzero(self.density > 0)

    @cached_property
    def factor(self) -> Float[Tensor, "rank d"]:
        """R with RᵀR the covariance of the vectors, in float64."""
        centred = wide(self.vectors - self.vectors.mean(0))
        return torch.linalg.qr(centred, mode="r").R / len(centred) ** 0.5


class Null(Config):
    """A thing made random in one way: what it replaces, what it keeps of it, and what it destroys.

    The method of what it targets gives a thing of the same kind, drawn from `seed`, and leaves the given one as it is;
    the other methods give back the same object.
    """

    targets: ClassVar[Target]
    """What it replaces."""
    kept: ClassVar[str]
    """What it shares with the real thing; a result that this explains is not due to what was destroyed."""
    lost: ClassVar[str]
    """What it lacks; only this can explain a gap."""

    version: ClassVar[int] = 1
    """Raised when its code changes what it draws."""

    seed: Seed = 0
    """Seed of the null's random numbers."""

    @property
    def name(self) -> str:
        """A short name, unique within a study: `gaussian_reinit`."""
        return with_seed(kind_of(self), self.seed)

    @property
    def preserves(self) -> str:
        """`kept`, with what its settings keep besides."""
        return self.kept

    @property
    def destroys(self) -> str:
        """`lost`, without what its settings keep."""
        return self.lost

    @property
    def decides(self) -> dict[str, Any]:
        """What decides what it draws, as JSON for a key."""
        return self.with_version(identity(self))

    def with_version(self, decides: dict[str, Any]) -> dict[str, Any]:
        """What decides a draw with the version of the code that makes it; the first version is left out."""
        return {**decides, "version": self.version} if self.version > 1 else decides

    def network(self, network: Network, reporter: Reporter | None = None) -> Network:  # noqa: ARG002
        """The network, with random weights where these are what is replaced."""
        return network

    def windows(self, windows: Windows, vocabulary: int) -> Windows:  # noqa: ARG002
        """Windows of a text, with random tokens where these are what is replaced.

        Args:
            windows: of one side of a corpus.
            vocabulary: tokens that the network embeds.
        """
        return windows

    def dictionary(self, dictionary: SparseDictionary, name: str) -> SparseDictionary:  # noqa: ARG002
        """An untrained dictionary, with random directions that training leaves alone where these are replaced.

        Args:
            dictionary: untrained.
            name: of the dictionary, which its random numbers depend on beside the seed.
        """
        return dictionary

    def labels(self, labels: Shaped[Tensor, "example ..."]) -> Shaped[Tensor, "example ..."]:
        """Labels of examples, in random order where these are what is replaced."""
        return labels

    def latents(
        self,
        removed: Float[Tensor, "sample d"],
        latent: Int[np.ndarray, " sample"],  # noqa: ARG002
        written: Written,  # noqa: ARG002
        draw: int,  # noqa: ARG002
    ) -> Float[Tensor, "sample d"]:
        """What is removed from vectors, along another direction where a latent's own is what is replaced.

        Args:
            removed: what a latent writes at each sampled token.
            latent: which one.
            written: what the dictionary writes there.
            draw: number of the direction: each latent has one of every number, the same at all tokens.
        """
        return removed
