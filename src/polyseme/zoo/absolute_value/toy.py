"""Absolute value in superposition: a hidden layer that computes |x_i| of more features than it has neuron pairs.

h = ReLU(W₁x), y = ReLU(W₂h + b) with x_i ~ U[−1, 1] of probability p, else 0; loss Σ_i I_i (|x_i| − y_i)².
Elhage et al. 2022, "Computation in superposition".
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Config, Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.tools.neurons import MONOSEMANTIC, half_names, halves, monosemantic
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Parameters, Stack, train_stack
from polyseme.zoo.tools.toy import Cause, Sample, TrainedToy, Truth

SITE = Site(path="hidden")
SOLVED = 0.5
"""A feature counts as solved where less of the variance of its |x| than this is left: to hear one sign alone leaves
½ or more, at any density."""
EVALUATION_ROWS, EVALUATION_BLOCK = 1 << 17, 1 << 13


class AbsoluteValueNetwork(nn.Module):
    """y = ReLU(W₂ ReLU(W₁x) + b); `hidden` is after the first ReLU.

    Args:
        W_in: W₁, `[neuron, feature]`.
        W_out: W₂, `[feature, neuron]`.
        b: `[feature]`.
    """

    def __init__(
        self,
        W_in: Float[Tensor, "neuron feature"],
        W_out: Float[Tensor, "feature neuron"],
        b: Float[Tensor, " feature"],
    ):
        super().__init__()
        self.W_in, self.W_out = nn.Parameter(W_in.clone()), nn.Parameter(W_out.clone())
        self.b = nn.Parameter(b.clone())
        self.hidden = nn.ReLU()

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return torch.relu(self.hidden(x @ self.W_in.T) @ self.W_out.T + self.b)


class AbsoluteValueToy(Config):
    """Every density with every seed: one network each, trained as one stack."""

    title: ClassVar[str] = "absolute value in superposition"
    paper: ClassVar[str] = "Elhage et al. 2022, Toy Models of Superposition"

    n_features: Width = 100
    n_hidden: Width = 40
    density: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001), min_length=1, max_length=1000
    )
    """Probability p that a feature is on; every density is trained with every seed."""
    importance: float = Field(default=0.8, gt=0, le=1)
    """I_i is this to the power i."""
    seeds: Seeds = (0, 1, 2)
    batch: Width = 1024
    optimiser: OptimiserConfig = OptimiserConfig(steps=10_000, lr=1e-3)

    def importances(self) -> Float[Tensor, " feature"]:
        """I of every feature."""
        return self.importance ** torch.arange(self.n_features, dtype=torch.float32)

    @shielded
    def build(self) -> AbsoluteValueNetwork:
        """An untrained network."""
        n, m = self.n_features, self.n_hidden
        return AbsoluteValueNetwork(torch.zeros(m, n), torch.zeros(n, m), torch.zeros(n))

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every density with every seed, as one stack."""
        stack = train(self, reporter)
        names = half_names(self.n_features)

        def truth(i: int) -> Truth:
            directions = halves(stack.parameters["W_in"][i]).T.contiguous()
            return Truth(SITE, names, directions, computed_at="hidden", cause=stack.cause(i))

        return stack.toys(self.build, truth, lambda i: partial(self._draw, stack.grid.settings[i]["density"]))

    def _draw(self, density: float, n: int, generator: torch.Generator) -> Sample:
        x = inputs(Draws.one(generator), torch.tensor([density]), n, self.n_features)[0]
        return Sample(inputs=x, features=halves(x))


def inputs(
    draws: Draws, density: Float[Tensor, " instance"], n: int, n_features: int
) -> Float[Tensor, "instance row feature"]:
    """U[−1, 1) with probability p, else 0: of one uniform draw u, u < p is the mask and 2u / p − 1 the value."""
    u = draws.uniform(n, n_features)
    p = density[:, None, None]
    return torch.where(u < p, 2 * u / p - 1, 0.0)


def variance(density: Float[Tensor, " instance"]) -> Float[Tensor, " instance"]:
    """Var |x_i| = p/3 − p²/4: what the best constant leaves."""
    return density / 3 - density.square() / 4


@dataclass(frozen=True)
class Trained(Stack):
    """A stack after its training; its ceiling is the loss of the output 0.

    Attributes:
        unexplained: FVU of every |x_i| on fresh data, `[instance, feature]`.
    """

    unexplained: Float[Tensor, "instance feature"]

    @property
    def solved(self) -> Float[Tensor, " instance"]:
        """Number of features whose |x| is computed."""
        return (self.unexplained < SOLVED).sum(-1).float()

    @property
    def monosemantic(self) -> Float[Tensor, " instance"]:
        """Share of the neurons that hear one feature."""
        return monosemantic(self.parameters["W_in"])

    def cause(self, i: int) -> Cause | None:
        """Aligned, or more features computed than there are pairs of neurons by neurons that hear several."""
        if self.monosemantic[i] >= MONOSEMANTIC:
            return "aligned"
        crowded = self.solved[i] > self.parameters["W_in"].shape[1] // 2 and self.monosemantic[i] < 0.5
        return "computation_in_superposition" if crowded else None


def scored(config: AbsoluteValueToy, weights: Parameters, grid: Grid, draws: Draws) -> Trained:
    """Networks with the loss of each, and what it leaves of every |x_i|, on fresh data."""
    density, importance = grid.values("density"), config.importances()
    total = torch.zeros(weights["b"].shape, dtype=torch.float64)
    for _ in range(EVALUATION_ROWS // EVALUATION_BLOCK):
        x = inputs(draws, density, EVALUATION_BLOCK, config.n_features)
        total += (x.abs() - outputs(x, **weights)).square().sum(1, dtype=torch.float64)
    unexplained = (total / EVALUATION_ROWS / variance(density)[:, None]).float()
    # The last recorded loss is from before the last update: whether a network trained is judged as it is now.
    loss = (importance * unexplained).sum(-1) * variance(density)
    return Trained(weights, loss, grid, importance.sum() * density / 3, unexplained)


def outputs(
    x: Float[Tensor, "instance row feature"],
    W_in: Float[Tensor, "instance neuron feature"],
    W_out: Float[Tensor, "instance feature neuron"],
    b: Float[Tensor, "instance feature"],
) -> Float[Tensor, "instance row feature"]:
    """y of every network of a stack."""
    return torch.relu(torch.baddbmm(b[:, None], torch.relu(x @ W_in.mT), W_out.mT))


@shielded
def train(config: AbsoluteValueToy, reporter: Reporter) -> Trained:
    """Train every density with every seed at once, and score each feature on fresh data."""
    grid = Grid(config.seeds, density=config.density)
    seeds, density = grid.derived("absolute value"), grid.values("density")
    n, m = config.n_features, config.n_hidden
    initial, data, importance = Draws(seeds, "initial"), Draws(seeds, "data"), config.importances()
    scale = math.sqrt(2 / (n + m))  # Xavier
    weights = {
        "W_in": scale * initial.normal(m, n),
        "W_out": scale * initial.normal(n, m),
        "b": torch.zeros(len(seeds), n),
    }

    def loss(_: int) -> Tensor:
        x = inputs(data, density, config.batch, n)
        error = x.abs() - outputs(x, **weights)
        return (error.square() * importance).sum(-1).mean(-1)

    train_stack(weights, loss, config.optimiser, reporter=reporter, name="absolute value")
    return scored(config, weights, grid, Draws(seeds, "evaluation"))
