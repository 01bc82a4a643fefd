"""Nulls of the latents: other directions in a latent's place, at the same tokens and of the same size."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.seeds import derive_seed
from polyseme.nulls.protocol import Null, Target, Written, kind_of


class LatentNull(Null):
    """Directions that a latent is compared with; a kind of it says where they come from.

    A latent has the same directions at all its tokens, as it has the same write direction. Redrawn at every token they
    would average out what a single direction does, and any latent at all would stand out from them.
    """

    targets: ClassVar[Target] = "latents"
    phrase: ClassVar[str]
    """What is removed in the place of a latent, for sentences: `a random direction of equal norm`."""
    needs_vectors: ClassVar[bool] = False
    """Whether it draws from the vectors of the sites that the dictionary writes."""

    @abstractmethod
    def draw(self, latent: Int[np.ndarray, " latent"], written: Written, draw: int) -> Float[Tensor, "latent d"]:
        """A direction for each latent, of any norm but 0: a function of the seed, the latent and the draw alone."""

    def n_draws(self, written: Written) -> float:  # noqa: ARG002
        """How many different directions there are for a latent."""
        return np.inf

    def directions(self, latent: Int[np.ndarray, " latent"], written: Written, draw: int) -> Float[Tensor, "latent d"]:
        """The draw of that number for each latent, as a unit vector."""
        return torch.nn.functional.normalize(self.draw(latent, written, draw).float(), dim=1)

    def latents(
        self,
        removed: Float[Tensor, "sample d"],
        latent: Int[np.ndarray, " sample"],
        written: Written,
        draw: int,
    ) -> Float[Tensor, "sample d"]:
        each, of = np.unique(latent, return_inverse=True)
        return self.directions(each, written, draw)[torch.from_numpy(of)] * removed.norm(dim=1, keepdim=True)

    def rng(self, latent: int, *draw: int) -> np.random.Generator:
        """Random numbers of one latent (and one draw)."""
        return np.random.default_rng(derive_seed(self.seed, "null", kind_of(self), latent, *draw))

    def normal(self, latent: Int[np.ndarray, " latent"], n: int, draw: int) -> Float[np.ndarray, "latent n"]:
        """Standard normal numbers for each latent."""
        rows = [self.rng(one, draw).standard_normal(n, dtype=np.float32) for one in latent.tolist()]
        return np.stack(rows) if rows else np.empty((0, n), dtype=np.float32)


class OfOthers(LatentNull):
    """The write directions of other latents, a different one for each draw."""

    @abstractmethod
    def n_draws(self, written: Written) -> int:
        """How many latents may take the place of one, which are as many for all that fire."""

    @abstractmethod
    def others(
        self, latent: Int[np.ndarray, " latent"], place: Int[np.ndarray, " latent"], written: Written
    ) -> Int[np.ndarray, " latent"]:
        """For each latent the one in this place among those that may take its place."""

    def draw(self, latent: Int[np.ndarray, " latent"], written: Written, draw: int) -> Float[Tensor, "latent d"]:
        n = self.n_draws(written)
        if draw >= n:
            raise InputError(
                f"there are {n} latents that may take another's place, and draw {draw} is asked for",
                where=self.name,
                fix="ask for fewer directions, or train the dictionary longer",
            )
        place = np.array([_nth(self.rng(one), n, draw) for one in latent.tolist()], dtype=np.int64)
        return written.directions[torch.from_numpy(self.others(latent, place, written).astype(np.int64))]


def _nth(rng: np.random.Generator, n: int, draw: int) -> int:
    """The entry of that number in a random order of the integers below n."""
    seen: dict[int, None] = {}
    while len(seen) <= draw:
        seen.setdefault(int(rng.integers(n)))
    return [*seen][draw]
