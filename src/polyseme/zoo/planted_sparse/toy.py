"""Planted sparse data: more features than dimensions, as uneven, correlated and nested as real ones are thought to be.

x = Σ vᵢ fᵢ over the features that are on. Frequencies follow Zipf's law; features without a parent are correlated by a
Gaussian copula of a few factors; the others form trees, in which a child is on only where its parent is, and siblings
may exclude each other. Every marginal frequency is exact and known.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.zoo.tools.exact import SITE, Mixture
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth

MOST_FREQUENT = 0.5
"""No feature is on more often than this, whatever Zipf's law gives."""


class PlantedSparseToy(Toy):
    """One data set for each seed, with directions of its own."""

    title: ClassVar[str] = "planted sparse data"
    paper: ClassVar[str] = "Chanin & Garriga-Alonso 2026, SynthSAEBench"

    n_features: int = Field(default=256, ge=1, le=2**20)
    d: Width = 64
    """Width of the vectors."""
    l0: float = Field(default=4.0, gt=0, le=2**20)
    """Mean number of features on in a vector."""
    zipf: float = Field(default=0.5, ge=0, le=10)
    """The i-th most frequent feature is on i^−zipf times as often as the first, at most half of the time."""
    correlation: float = Field(default=0.2, ge=0, lt=1)
    """Share of the copula's variance that is the factors'; at 0, features without a parent are independent."""
    n_factors: int = Field(default=16, ge=1, le=2**16)
    """Number of factors of the copula; each feature depends on one of them, with either sign."""
    trees: int = Field(default=8, ge=0, le=2**20)
    """Number of trees; their roots are the most frequent features."""
    branching: int = Field(default=3, ge=1, le=1000)
    """Number of children of each feature in a tree."""
    depth: int = Field(default=2, ge=0, le=16)
    """Number of generations under each root."""
    exclusive: bool = True
    """Whether siblings are never on together."""
    spread: float = Field(default=0.5, ge=0, lt=1)
    """Half-width of the values of a feature that is on: uniform in 1 ± spread."""
    directions: Literal["random", "orthogonal"] = "random"
    """Whether directions are random unit vectors or orthonormal, which takes as many dimensions as features."""
    seeds: Seeds = (0, 1, 2)

    @model_validator(mode="after")
    def _possible(self) -> "PlantedSparseToy":
        if self.directions == "orthogonal" and self.n_features > self.d:
            raise ValueError(f"{self.n_features} orthogonal directions do not fit into {self.d} dimensions")
        if self.trees * self._tree_size > self.n_features:
            raise ValueError(
                f"{self.trees} trees of {self._tree_size} features need more than the {self.n_features} there are: "
                "lower trees, branching or depth"
            )
        if (most := float(self._frequencies_at(math.inf).sum())) < self.l0:
            raise ValueError(f"l0 of {self.l0:g} is out of reach: with every frequency at its highest it is {most:.3g}")
        return self

    def build(self) -> Mixture:
        """A mixture of the right size."""
        return Mixture(torch.zeros(self.n_features, self.d))

    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """The mixture of each seed."""
        return [self.instance(seed) for seed in self.seeds]

    def instance(self, seed: int) -> TrainedToy:
        """The mixture of one seed, made and not trained: its loss is 0."""
        F = self.planted_directions(seed)
        names = tuple(f"f{i}" for i in range(self.n_features))
        cause = "superposition" if self.n_features > self.d else None
        truth = Truth(SITE, names, F, cause=cause)
        return TrainedToy(Mixture(F), truth, self._draw(seed), seed, {"l0": self.l0}, loss=0.0, ceiling=0.0)

    def planted_directions(self, seed: int) -> Float[Tensor, "feature d"]:
        """Unit vectors."""
        rows = torch.randn(self.n_features, self.d, generator=make_generator(seed, "planted directions"))
        if self.directions == "orthogonal":
            return torch.linalg.qr(rows.T).Q.T.contiguous()
        return torch.nn.functional.normalize(rows, dim=1)

    def parents(self) -> list[int]:
        """The parent of each feature, −1 for none: all trees generation by generation, then the features in no tree."""
        in_trees = [(i - self.trees) // self.branching for i in range(self.trees, self.trees * self._tree_size)]
        return [-1] * self.trees + in_trees + [-1] * (self.n_features - self.trees * self._tree_size)

    def generations(self) -> list[Int[Tensor, " member"]]:
        """Features with a parent, by depth; those of one parent are next to each other."""
        sizes = [self.trees * self.branching**g for g in range(self.depth + 1)]
        return list(torch.arange(sum(sizes)).split(sizes)[1:]) if self.trees else []

    def frequencies(self) -> Float[np.ndarray, " feature"]:
        """How often each feature is on; they add up to `l0`."""
        low, high = 0.0, 1.0
        while self._frequencies_at(high).sum() < self.l0:
            high *= 2
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if self._frequencies_at(middle).sum() < self.l0 else (low, middle)
        return self._frequencies_at(high)

    def leanings(self, seed: int) -> tuple[Int[Tensor, " feature"], Float[Tensor, " feature"]]:
        """The factor that each feature depends on, and the sign, 1 or −1; used for features without a parent."""
        of_seed = make_generator(seed, "planted factors")
        factor = torch.randint(self.n_factors, (self.n_features,), generator=of_seed)
        return factor, torch.randint(2, (self.n_features,), generator=of_seed) * 2.0 - 1

    @property
    def _tree_size(self) -> int:
        return sum(self.branching**g for g in range(self.depth + 1))

    def _frequencies_at(self, first: float) -> Float[np.ndarray, " feature"]:
        """Frequencies if Zipf's law starts at `first`; a child has at most its share of its parent's."""
        ranks = np.arange(1, self.n_features + 1, dtype=np.float64)
        wanted = np.minimum(first * ranks**-self.zipf, MOST_FREQUENT)
        share = 0.9 / self.branching if self.exclusive else 0.9
        for feature, parent in enumerate(self.parents()):
            if parent >= 0:
                wanted[feature] = min(wanted[feature], share * wanted[parent])
        return wanted

    def _draw(self, seed: int) -> Callable[[int, torch.Generator], Sample]:
        """What draws the values of features."""
        p = torch.from_numpy(self.frequencies()).float()
        parents = torch.tensor(self.parents())
        factor, side = self.leanings(seed)
        bound = torch.special.ndtri(p.double()).float()
        generations = self.generations()
        shared, own = math.sqrt(self.correlation), math.sqrt(1 - self.correlation)

        def draw(n: int, generator: torch.Generator) -> Sample:
            common = torch.randn(n, self.n_factors, generator=generator)[:, factor] * side
            normal = shared * common + own * torch.randn(n, self.n_features, generator=generator)
            on = normal < bound
            for members in generations:
                of = parents[members]
                given = p[members] / p[of]
                u = torch.rand(n, len(members), generator=generator)
                if self.exclusive:
                    # One draw for each parent, cut into an interval for each child (members come parent by parent).
                    u = u[:, :: self.branching].repeat_interleave(self.branching, 1)
                    end = given.view(-1, self.branching).cumsum(1).flatten()
                    on[:, members] = on[:, of] & (u >= end - given) & (u < end)
                else:
                    on[:, members] = on[:, of] & (u < given)
            size = 1 + self.spread * (2 * torch.rand(n, self.n_features, generator=generator) - 1)
            values = on * size
            return Sample(inputs=values, features=values)

        return draw
