"""Absolute value in superposition: a hidden layer that computes |x_i| of more features than it has neuron pairs.

h = ReLU(W₁x), y = ReLU(W₂h + b) with x_i ~ U[−1, 1] of probability p, else 0; loss Σ_i I_i (|x_i| − y_i)².
Elhage et al. 2022, "Computation in superposition".
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Config, Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.tools.neurons import MONOSEMANTIC, monosemantic
from polyseme.zoo.tools.stack import Draws, History, OptimiserConfig, train_stack
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
        names = (*(f"+x{j}" for j in range(self.n_features)), *(f"-x{j}" for j in range(self.n_features)))
        toys: list[TrainedToy] = []
        for i, (density, seed) in enumerate(stack.settings):
            W = stack.W_in[i]
            directions = torch.relu(torch.cat([W.T, -W.T]))
            truth = Truth(SITE, names, directions, computed_at="hidden", cause=stack.cause(i))
            toys.append(
                TrainedToy(
                    module=AbsoluteValueNetwork(W, stack.W_out[i], stack.b[i]),
                    truth=truth,
                    draw=partial(self._draw, density),
                    seed=seed,
                    setting={"density": density},
                    loss=float(stack.loss[i]),
                    ceiling=float(stack.ceilings[i]),
                )
            )
        return toys

    def _draw(self, density: float, n: int, generator: torch.Generator) -> Sample:
        draws = Draws([int(torch.randint(2**62, (), generator=generator))])
        x = inputs(draws, torch.tensor([density]), n, self.n_features)[0]
        return Sample(inputs=x, features=torch.relu(torch.cat([x, -x], dim=-1)))


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


class Trained:
    """A stack after its training.

    Attributes:
        W_in, W_out, b: `[instance, neuron, feature]`, `[instance, feature, neuron]`, `[instance, feature]`.
        settings: density and seed of each instance.
        history: of the loss.
        ceilings: the loss of the output 0, `[instance]`; a network that does no better did not train.
        loss: on fresh data, `[instance]`.
        unexplained: FVU of every |x_i| on fresh data, `[instance, feature]`.
    """

    def __init__(
        self,
        config: AbsoluteValueToy,
        weights: Mapping[str, Tensor],
        settings: list[tuple[float, int]],
        history: History,
        evaluation: Draws,
    ):
        self.W_in, self.W_out, self.b = weights["W_in"], weights["W_out"], weights["b"]
        self.settings, self.history = settings, history
        self.density = torch.tensor([p for p, _ in settings])
        self.ceilings = config.importances().sum() * self.density / 3
        self.unexplained = self._unexplained(evaluation)
        # The last recorded loss is from before the last update: whether a network trained is judged as it is now.
        self.loss = (config.importances() * self.unexplained).sum(-1) * variance(self.density)

    @property
    def trained(self) -> Bool[Tensor, " instance"]:
        """Whether the loss is under the ceiling; False for one that diverged."""
        return self.loss < self.ceilings

    @property
    def solved(self) -> Float[Tensor, " instance"]:
        """Number of features whose |x| is computed."""
        return (self.unexplained < SOLVED).sum(-1).float()

    @property
    def monosemantic(self) -> Float[Tensor, " instance"]:
        """Share of the neurons that hear one feature."""
        return monosemantic(self.W_in)

    def cause(self, i: int) -> Cause | None:
        """Aligned, or more features computed than there are pairs of neurons by neurons that hear several."""
        if self.monosemantic[i] >= MONOSEMANTIC:
            return "aligned"
        crowded = self.solved[i] > self.W_in.shape[1] // 2 and self.monosemantic[i] < 0.5
        return "computation_in_superposition" if crowded else None

    def _unexplained(self, draws: Draws) -> Float[Tensor, "instance feature"]:
        total = torch.zeros(self.b.shape, dtype=torch.float64)
        for _ in range(EVALUATION_ROWS // EVALUATION_BLOCK):
            x = inputs(draws, self.density, EVALUATION_BLOCK, self.b.shape[-1])
            total += (x.abs() - outputs(x, self.W_in, self.W_out, self.b)).square().sum(1, dtype=torch.float64)
        return (total / EVALUATION_ROWS / variance(self.density)[:, None]).float()


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
    settings = [(p, seed) for p in config.density for seed in config.seeds]
    density = torch.tensor([p for p, _ in settings])
    seeds = [derive_seed(seed, "absolute value", str(p)) for p, seed in settings]
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
        error = x.abs() - outputs(x, weights["W_in"], weights["W_out"], weights["b"])
        return (error.square() * importance).sum(-1).mean(-1)

    history = train_stack(weights, loss, config.optimiser, reporter=reporter, name="absolute value")
    return Trained(config, weights, settings, history, Draws(seeds, "evaluation"))
