"""Compressed computation: a network that seems to compute more ReLUs than it has neurons, and does not.

The residual MLP of Braun et al. 2025 on y = x + ReLU(x), with a random embedding W_E, is the plain MLP
y = W_out ReLU(W_in x) on labels ReLU(x) + Mx with M = I − W_E W_Eᵀ: what it gains over solving half of the features
comes from the mixing M. Bhagat et al. 2025.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from polyseme.core.config import Seeds, Strength, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.zoo.tools.checks import Check, Experiment, Line, Value, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.neurons import MONOSEMANTIC, half_names, halves, monosemantic
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")
EVALUATION_ROWS, EVALUATION_BLOCK = 1 << 17, 1 << 14


class CompressedComputation(nn.Module):
    """y = W_out ReLU(W_in x); `hidden` is after the ReLU."""

    def __init__(self, n_features: int, n_hidden: int):
        super().__init__()
        self.W_in = nn.Parameter(torch.zeros(n_hidden, n_features))
        self.W_out = nn.Parameter(torch.zeros(n_features, n_hidden))
        self.hidden = nn.ReLU()

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return self.hidden(x @ self.W_in.T) @ self.W_out.T


class CompressedComputationToy(Toy):
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

    def build(self) -> CompressedComputation:
        return CompressedComputation(self.n_features, self.n_hidden)

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
    """A stack after its training, with its mixing M: its loss is L/p a feature on fresh data (exact where trained on
    single features), its ceiling that of the output 0."""

    M: Float[Tensor, "instance feature feature"]


def train(config: CompressedComputationToy, reporter: Reporter, *, one_hot: bool = False) -> Trained:
    """Train every mixing with every seed at once; `one_hot` on the exact loss of single features, the limit p → 0."""
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


MIXINGS = (0.02, 0.03)
"""Where the gain is claimed."""
SAME_ERROR = Line(
    "largest difference between the residual MLP's error and the plain MLP's on labels ReLU(x) + Mx",
    "0 (≤ 1e-12, relative)",
    at_most=1e-12,
    source="published",
)
NAIVE = Line(
    "naive loss L/p a feature: as many features as neurons solved, the others left out",
    "(1 − m/n)/6 = {target:.6f}{twelfth}",
    within=1e-12,
    source="derived",
    n_unit="features",
)
FLOOR = Line(
    "closed-form floor of the loss over the loss reached, p → 0",
    "≤ 1",
    at_most=1 + 1e-5,
    source="derived",
    paper="Eckart & Young 1936, on the outputs at single features",
)
_GAIN = "gain over the naive loss at mixing σ = {sigma:g}, {at}"
NO_GAIN = Line(_GAIN, "≤ 0.01", at_least=-1, at_most=0.01)
GAIN = Line(_GAIN, "> 0", at_least=1e-6, at_most=1)
EIGENSPACE = Line(
    "share of the read directions in M's top-{m} eigenspace at σ = {sigma:g}, {at}",
    "lie mainly there: ≥ {half_way:g} (half of the way from chance, {chance:g}, to 1)",
    source="published",
)


def identity(config: CompressedComputationToy, reporter: Reporter) -> list[Check]:  # noqa: ARG001
    """The residual MLP's error on x + ReLU(x) is the plain MLP's on ReLU(x) + Mx; the naive loss is (1 − m/n)/6."""
    n, m = config.n_features, config.n_hidden
    draws = Draws(config.seeds, "compressed computation", "identity")
    embedding = draws.normal(n, config.d_embed).double()
    embedding = embedding / embedding.norm(dim=-1, keepdim=True)
    W_in, W_out = draws.normal(m, config.d_embed).double(), draws.normal(config.d_embed, m).double()
    x = inputs(draws, config.density, 256, n).double()
    stream = x @ embedding
    residual = (stream + torch.relu(stream @ W_in.mT) @ W_out.mT) @ embedding.mT
    M = torch.eye(n, dtype=torch.float64) - embedding @ embedding.mT
    plain = torch.relu(x @ (W_in @ embedding.mT).mT) @ (embedding @ W_out).mT
    gap = (residual - x - torch.relu(x)) - (plain - torch.relu(x) - x @ M)
    first = torch.eye(n, dtype=torch.float64)[:m]
    naive = float(one_hot_loss(first, first.T, torch.zeros(n, n, dtype=torch.float64)))
    twelfth = " = 1/12" if 2 * m == n else ""
    return [
        SAME_ERROR.fill(Value(float(gap.abs().max() / residual.abs().max()), len(config.seeds))),
        NAIVE.fill(Value(naive, n), target=naive_loss(config), twelfth=twelfth),
    ]


def one_hot(config: CompressedComputationToy, reporter: Reporter) -> list[Check]:
    """In the limit p → 0 the loss is exact, has a floor in closed form, and shows where the gain comes from."""
    config, stack = _at_the_limit(config, (0.0, *MIXINGS), reporter)
    under = float((one_hot_floor(stack.M, config.n_hidden) / stack.loss).max())
    return [FLOOR.fill(Value(under, len(stack))), *gains(config, stack, "p → 0")]


def _at_the_limit(
    config: CompressedComputationToy, mixing: tuple[float, ...], reporter: Reporter
) -> tuple[CompressedComputationToy, Trained]:
    optimiser = config.optimiser.model_copy(update={"steps": min(config.optimiser.steps, 2_000), "lr": 1e-2})
    config = config.model_copy(update={"mixing": mixing, "optimiser": optimiser})
    return config, train(config, reporter, one_hot=True)


def sparse(config: CompressedComputationToy, reporter: Reporter) -> list[Check]:
    """The documented density, with several features on at once."""
    config = config.model_copy(update={"mixing": (0.0, *MIXINGS)})
    return gains(config, train(config, reporter), f"p = {config.density:g}")


def gains(config: CompressedComputationToy, stack: Trained, at: str) -> list[Check]:
    """Gain over the naive loss and place of the read directions, for every mixing of a stack."""
    place, gain = in_top_eigenspace(stack.parameters["W_in"], stack.M), 1 - stack.loss / naive_loss(config)
    chance = config.n_hidden / config.n_features
    half_way = (1 + chance) / 2
    words: dict[str, Any] = {"m": config.n_hidden, "at": at, "chance": chance, "half_way": half_way}
    checks: list[Check] = []
    for sigma in config.mixing:
        chosen, line = stack.where(mixing=sigma), GAIN if sigma else NO_GAIN
        why = "" if stack.trained[chosen].all() else "a network did no better than the output 0"
        # The claim is about every network: the worst of them is compared.
        here = gain[chosen]
        note = f"the worst network; mean {mean(here).shown('.4f')}"
        checks.append(
            line.fill(
                Value(float(here.min() if sigma else here.max()), len(here), note=note), why, sigma=sigma, **words
            )
        )
        if sigma and not why:
            found = mean(place[chosen])
            checks.append(EIGENSPACE.fill(replace(found, holds=found.value >= half_way), sigma=sigma, **words))
    return checks


def loss_over_mixing(config: CompressedComputationToy, reporter: Reporter) -> Any:
    """L/p a feature over the mixing: the exact limit p → 0 beside its floor and the naive loss."""
    mixing = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04)
    config, stack = _at_the_limit(config, mixing, reporter)
    n = len(config.seeds)
    floor = one_hot_floor(stack.M, config.n_hidden).reshape(-1, n)
    loss = stack.loss.reshape(-1, n)
    figure, (axes,) = panels(1, width=6, height=4)
    axes.axhline(naive_loss(config), color="0.4", linestyle="--", label="naive: as many features as neurons")
    axes.plot(mixing, floor.mean(1), color="0.4", label="floor (Eckart–Young)")
    axes.plot(mixing, loss, ".", color="C0", markersize=5)
    axes.plot(mixing, loss.mean(1), color="C0", label=f"trained, {n} seeds")
    axes.set(xlabel="mixing σ", ylabel="L/p a feature", title=f"{config.n_features} ReLUs, {config.n_hidden} neurons")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


ENTRY = Entry(
    CompressedComputationToy,
    (
        Experiment("identity", "fast", "the residual MLP is the plain one on labels ReLU(x) + Mx", identity),
        Experiment("one hot", "fast", "the exact limit p → 0: no gain without mixing", one_hot),
        Experiment("sparse", "slow", "the documented density: no gain without mixing", sparse),
    ),
    {"mixing": loss_over_mixing},
)
