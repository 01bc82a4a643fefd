"""Compressed computation: a network that seems to compute more ReLUs than it has neurons, and does not.

The residual MLP of Braun et al. 2025 on y = x + ReLU(x), with a random embedding W_E, is the plain MLP
y = W_out ReLU(W_in x) on labels ReLU(x) + Mx with M = I − W_E W_Eᵀ: what it gains over solving half of the features
comes from the mixing M. Bhagat et al. 2025.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from polyseme.core.config import Config, Seeds, Strength, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.tools.neurons import MONOSEMANTIC, half_names, halves, monosemantic
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth

SITE = Site(path="hidden")
EVALUATION_ROWS, EVALUATION_BLOCK = 1 << 17, 1 << 14


class CompressedComputation(nn.Module):
    """y = W_out ReLU(W_in x); `hidden` is after the ReLU.

    Args:
        W_in: `[neuron, feature]`.
        W_out: `[feature, neuron]`.
    """

    def __init__(self, W_in: Float[Tensor, "neuron feature"], W_out: Float[Tensor, "feature neuron"]):
        super().__init__()
        self.W_in, self.W_out = nn.Parameter(W_in.clone()), nn.Parameter(W_out.clone())
        self.hidden = nn.ReLU()

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return self.hidden(x @ self.W_in.T) @ self.W_out.T


class CompressedComputationToy(Config):
    """Every mixing with every seed: one network each, trained as one stack."""

    title: ClassVar[str] = "compressed computation: the false twin of computation in superposition"
    paper: ClassVar[str] = "Bhagat et al. 2025, Compressed Computation is (probably) not Computation in Superposition"

    n_features: Annotated[Width, Field(ge=2)] = 100
    n_hidden: Width = 50
    mixing: tuple[Strength, ...] = Field(default=(0.0, 0.01, 0.02, 0.03), min_length=1, max_length=1000)
    """Standard deviation σ of M's entries (symmetric, zero diagonal); a random embedding of width D gives 1/√D."""
    density: float = Field(default=0.01, gt=0, le=1)
    """Probability p that a feature is on, at a value of U[−1, 1]."""
    d_embed: Width = 1_000
    """Width of the embedding in the experiment that compares with the residual MLP."""
    seeds: Annotated[Seeds, Field(min_length=2)] = (0, 1, 2, 3)
    batch: Width = 1024
    optimiser: OptimiserConfig = OptimiserConfig(steps=10_000, lr=3e-3, weight_decay=0.0, schedule="cosine")

    @model_validator(mode="after")
    def _fits(self) -> "CompressedComputationToy":
        if self.n_hidden >= self.n_features:
            raise ValueError(f"n_hidden = {self.n_hidden} must be under n_features = {self.n_features}")
        return self

    @shielded
    def build(self) -> CompressedComputation:
        """An untrained network."""
        return CompressedComputation(
            torch.zeros(self.n_hidden, self.n_features), torch.zeros(self.n_features, self.n_hidden)
        )

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every mixing with every seed, as one stack."""
        stack = train(self, reporter)
        names = half_names(self.n_features)

        def truth(i: int) -> Truth:
            W = stack.parameters["W_in"][i]
            cause = "aligned" if bool(monosemantic(W) >= MONOSEMANTIC) else None
            return Truth(SITE, names, halves(W).T.contiguous(), computed_at="hidden", cause=cause)

        return stack.toys(self.build, truth, lambda _: self._draw)

    def _draw(self, n: int, generator: torch.Generator) -> Sample:
        x = inputs(Draws.one(generator), self.density, n, self.n_features)[0]
        return Sample(inputs=x, features=halves(x))


def inputs(draws: Draws, density: float, n: int, n_features: int) -> Float[Tensor, "instance row feature"]:
    """U[−1, 1) with probability p, else 0."""
    u = draws.sparse_uniform(torch.full((len(draws),), density), n, n_features)
    return torch.where(u > 0, 2 * u - 1, 0.0)


def mixing_matrices(sigma: Float[Tensor, " instance"], draws: Draws, n: int) -> Float[Tensor, "instance n n"]:
    """Symmetric M with zero diagonal and N(0, σ²) beside it."""
    upper = draws.normal(n, n).triu(1)
    return sigma[:, None, None] * (upper + upper.mT)


def naive_loss(config: CompressedComputationToy) -> float:
    """L/p a feature where as many features as there are neurons are solved, and the rest left out: (1 − m/n) / 6.

    A feature left out costs E[ReLU(x)²] = p/6. Half as many neurons as features: 1/12.
    """
    return (1 - config.n_hidden / config.n_features) / 6


def one_hot_floor(M: Float[Tensor, "*batch n n"], n_hidden: int) -> Float[Tensor, " *batch"]:
    """No network has a lower L/p on inputs with one feature on: (1/6n) Σ_{i > m} ((1 + λ_i)² + λ_i²).

    The outputs at ±e_i are [Y₊ Y₋] = W_out [ReLU(W_in) ReLU(−W_in)], of rank ≤ m, where [I + M, −M] is asked for. By
    Eckart and Young the squared error is at least the sum of all but the m largest squared singular values, which are
    (1 + λ)² + λ² with λ the eigenvalues of M. The best Y lies in M's top-m eigenspace; at M = 0 it is the naive loss.
    """
    lam = torch.linalg.eigvalsh(M.double())
    squared = ((1 + lam).square() + lam.square()).sort(-1).values
    n = M.shape[-1]
    return squared[..., : n - n_hidden].sum(-1) / (6 * n)


def one_hot_loss(
    W_in: Float[Tensor, "*batch neuron feature"],
    W_out: Float[Tensor, "*batch feature neuron"],
    M: Float[Tensor, "*batch feature feature"],
) -> Float[Tensor, " *batch"]:
    """L/p a feature as p → 0, exactly: the network is positively homogeneous, so that ±e_i stand for all inputs."""
    n = M.shape[-1]
    positive = W_out @ torch.relu(W_in) - torch.eye(n, dtype=M.dtype) - M
    negative = W_out @ torch.relu(-W_in) + M
    return (positive.square() + negative.square()).sum((-2, -1)) / (6 * n)


def in_top_eigenspace(
    W_in: Float[Tensor, "*batch neuron feature"], M: Float[Tensor, "*batch feature feature"]
) -> Float[Tensor, " *batch"]:
    """Share of the read directions' squared length in the span of M's top eigenvectors, one a neuron."""
    top = torch.linalg.eigh(M).eigenvectors[..., -W_in.shape[-2] :]
    unit = W_in / W_in.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return (unit @ top).square().sum(-1).mean(-1)


@dataclass(frozen=True)
class Trained(Stack):
    """A stack after its training: L/p a feature on fresh data (exact where trained on single features).

    Its ceiling is the loss of the output 0.

    Attributes:
        M: `[instance, feature, feature]`.
    """

    M: Float[Tensor, "instance feature feature"]


@shielded
def train(config: CompressedComputationToy, reporter: Reporter, *, one_hot: bool = False) -> Trained:
    """Train every mixing with every seed at once.

    Args:
        config: sizes, mixings, seeds.
        reporter: told of the progress.
        one_hot: train on the exact loss of inputs with one feature on, the limit p → 0.
    """
    grid = Grid(config.seeds, mixing=config.mixing)
    seeds = grid.derived("compressed computation")
    n, m, p = config.n_features, config.n_hidden, config.density
    M = mixing_matrices(grid.values("mixing"), Draws(seeds, "mixing"), n)
    initial, data = Draws(seeds, "initial"), Draws(seeds, "data")
    weights = {"W_in": initial.normal(m, n) / math.sqrt(n), "W_out": initial.normal(n, m) / math.sqrt(m)}

    def sampled(draws: Draws, rows: int) -> Tensor:
        x = inputs(draws, p, rows, n)
        out = torch.relu(x @ weights["W_in"].mT) @ weights["W_out"].mT
        return (torch.relu(x) + x @ M - out).square().mean((-2, -1)) / p

    def exact() -> Tensor:
        return one_hot_loss(weights["W_in"], weights["W_out"], M)

    def loss(_: int) -> Tensor:
        return exact() if one_hot else sampled(data, config.batch)

    train_stack(weights, loss, config.optimiser, reporter=reporter, name="compressed computation")
    if one_hot:
        final = exact()
    else:
        evaluation, blocks = Draws(seeds, "evaluation"), EVALUATION_ROWS // EVALUATION_BLOCK
        final = torch.stack([sampled(evaluation, EVALUATION_BLOCK) for _ in range(blocks)]).mean(0)
    return Trained(weights, final, grid, 1 / 6 + M.square().sum((-2, -1)) / (3 * n), M)
