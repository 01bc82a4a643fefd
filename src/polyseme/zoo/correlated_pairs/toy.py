"""Correlated features that share a neuron: three pairs in three hidden dimensions, correlation varied.

x' = ReLU(Wᵀf(Wx) + b), f the identity or ReLU; the first of a pair is U[0, 1] with probability p, else 0, and the
second is its copy with probability ρ, else an independent draw: a pair's correlation is ρ and no margin depends on it.
The model is that of Elhage et al. 2022 ("Correlated and anticorrelated features"), whose pairs share only when they
are on.

With as many dimensions as pairs, features can be two to a dimension in two ways. Opposite partners from different
pairs cost p²/3 a dimension; the two of a pair added up cost (1 − ρ)(p/3 − p²/4). So they change places at
ρ* = (4 − 7p)/(4 − 3p): the same number of features in each dimension, below by superposition, above by correlation.
"""

import math
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Config, Seeds, Share, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.superposition.toy import ReluOutput
from polyseme.zoo.tools.neurons import MONOSEMANTIC, largest_share
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Cause, Sample, TrainedToy, Truth

PAPER = "Elhage et al. 2022, Toy Models of Superposition"
SITE = Site(path="hidden")
ALONG = 0.9
"""Two features share a direction where the cosine of their vectors is above this."""


class CorrelatedPairsToy(Config):
    """Networks of several correlations and seeds."""

    title: ClassVar[str] = "correlated features that share a neuron"
    paper: ClassVar[str] = PAPER

    n_pairs: Width = 3
    n_hidden: Width = 3
    density: float = Field(default=0.2, gt=0, le=1)
    """Probability p that a feature is on."""
    rho: tuple[Share, ...] = Field(default=(0.0, 0.5, 0.9), min_length=1, max_length=1000)
    """Correlation of the two features of a pair; every one is trained with every seed."""
    hidden: Literal["linear", "relu"] = "relu"
    """`relu` makes the hidden layer one of neurons; of a linear one every rotation is as good."""
    seeds: Seeds = tuple(range(12))
    batch: Width = 512
    optimiser: OptimiserConfig = OptimiserConfig(steps=3_000, lr=5e-3, schedule="cosine")

    @shielded
    def build(self) -> ReluOutput:
        """An untrained network."""
        zeros = torch.zeros(self.n_hidden, 2 * self.n_pairs)
        module = ReluOutput(zeros, zeros[0])
        if self.hidden == "relu":
            module.hidden = nn.ReLU()
        return module

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every correlation with every seed, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"{pair}{which}" for pair in range(self.n_pairs) for which in "ab")

        def truth(i: int) -> Truth:
            W = stack.parameters["W"][i]
            return Truth(SITE, names, W.T.contiguous(), cause=self._cause(W))

        return stack.toys(self.build, truth, lambda i: partial(self._draw, stack.grid.settings[i]["rho"]))

    @property
    def ceiling(self) -> float:
        """Midway between the variance of all features and what keeping one a dimension leaves of it."""
        kept = min(1.0, self.n_hidden / (2 * self.n_pairs))
        return (1 - kept / 2) * 2 * self.n_pairs * (self.density / 3 - self.density**2 / 4)

    def _cause(self, W: Tensor) -> Cause | None:
        """From the weights: each neuron holds one pair, or some vectors are opposite, or it is not known."""
        if bool(sharing(W).all()) and bool(held(W).all()):
            return "correlated"
        return "superposition" if bool((cosines(W) < -ALONG).any()) else None

    def _draw(self, rho: float, n: int, generator: torch.Generator) -> Sample:
        x = features(self, Draws.one(generator), torch.tensor([rho]), n)[0]
        return Sample(inputs=x, features=x)


def features(
    config: CorrelatedPairsToy, draws: Draws, rho: Float[Tensor, " instance"], n: int
) -> Float[Tensor, "instance row feature"]:
    """Rows of features, those of pair i in columns 2i and 2i + 1."""
    p = torch.full_like(rho, config.density)
    first, second = draws.sparse_uniform(p, 2, n, config.n_pairs).unbind(1)
    copied = draws.uniform(n, config.n_pairs) < rho[:, None, None]
    return torch.stack([first, torch.where(copied, first, second)], dim=-1).flatten(-2)


@shielded
def train(config: CorrelatedPairsToy, reporter: Reporter) -> Stack:
    """Train every correlation with every seed at once."""
    grid, n = Grid(config.seeds, rho=config.rho), 2 * config.n_pairs
    seeds, rho = grid.derived("correlated_pairs"), grid.values("rho")
    W = math.sqrt(2 / (n + config.n_hidden)) * Draws(seeds, "initial").normal(config.n_hidden, n)
    b, draws = torch.zeros(len(grid), n), Draws(seeds, "data")

    def loss(_: int) -> Tensor:
        x = features(config, draws, rho, config.batch)
        hidden = x @ W.mT
        hidden = torch.relu(hidden) if config.hidden == "relu" else hidden
        return (x - torch.relu(torch.baddbmm(b[:, None], hidden, W))).square().sum(-1).mean(-1)

    history = train_stack({"W": W, "b": b}, loss, config.optimiser, reporter=reporter)
    return Stack({"W": W, "b": b}, history.final, grid, config.ceiling)


def cosines(W: Float[Tensor, "*batch d feature"]) -> Float[Tensor, "*batch feature feature"]:
    """Cosine between the vectors of every two features."""
    unit = torch.nn.functional.normalize(W, dim=-2)
    return unit.mT @ unit


def partners(W: Float[Tensor, "*batch d feature"]) -> Float[Tensor, "*batch pair"]:
    """Cosine between the vectors of the two features of each pair."""
    unit = torch.nn.functional.normalize(W, dim=-2)
    return (unit[..., 0::2] * unit[..., 1::2]).sum(-2)


def sharing(W: Float[Tensor, "*batch d feature"]) -> Bool[Tensor, "*batch pair"]:
    """Whether the two features of each pair share a direction."""
    return partners(W) > ALONG


def held(W: Float[Tensor, "*batch d feature"]) -> Bool[Tensor, "*batch d"]:
    """Whether one pair holds at least 90% of a neuron's squared weights."""
    return largest_share(W.unflatten(-1, (-1, 2)).norm(dim=-1)) >= MONOSEMANTIC


def sharing_neurons(W: Float[Tensor, "*batch d feature"]) -> Bool[Tensor, "*batch d"]:
    """Whether a neuron holds one pair, whose two features share a direction."""
    pair = W.unflatten(-1, (-1, 2)).norm(dim=-1).argmax(-1)
    return held(W) & sharing(W).gather(-1, pair)
