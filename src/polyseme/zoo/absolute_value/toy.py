"""Absolute value in superposition: a hidden layer that computes |x_i| of more features than it has neuron pairs.

h = ReLU(W₁x), y = ReLU(W₂h + b) with x_i ~ U[−1, 1] with probability p, else 0; loss Σ_i I_i (|x_i| − y_i)².
Elhage et al. 2022, "Computation in superposition".
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.zoo.tools.checks import Check, Experiment, Line, Value, fill, mean, share
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.neurons import MONOSEMANTIC, half_names, halves, largest_share, monosemantic
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Parameters, Stack, train_stack
from polyseme.zoo.tools.toy import Cause, Entry, Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")
SOLVED = 0.5
"""A feature counts as solved where a smaller share of the variance of its |x| is left; a network that hears one sign
alone leaves ½ or more, at any density."""
EVALUATION_ROWS, EVALUATION_BLOCK = 1 << 17, 1 << 13


class AbsoluteValueNetwork(nn.Module):
    """y = ReLU(W₂ ReLU(W₁x) + b), with W₁ = `W_in` and W₂ = `W_out`; `hidden` is after the first ReLU."""

    def __init__(self, n_features: int, n_hidden: int):
        super().__init__()
        self.W_in = nn.Parameter(torch.zeros(n_hidden, n_features))
        self.W_out = nn.Parameter(torch.zeros(n_features, n_hidden))
        self.b = nn.Parameter(torch.zeros(n_features))
        self.hidden = nn.ReLU()

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return torch.relu(self.hidden(x @ self.W_in.T) @ self.W_out.T + self.b)


class AbsoluteValueToy(Toy):
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

    def build(self) -> AbsoluteValueNetwork:
        return AbsoluteValueNetwork(self.n_features, self.n_hidden)

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
        """`aligned`, or more features than pairs of neurons computed by neurons that hear several, or not known."""
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


SPARSE = 0.01
"""At this density and below, more features than pairs of neurons are claimed."""
PAIRS = Line(
    "lowest-loss network has one neuron for each sign of each feature, and no others",
    "1 (yes)",
    at_least=1,
    source="published",
)
_FEATURES = "features solved at p = {density:g}, the network furthest from the claim"
_NEURONS = "share of monosemantic neurons at p = {density:g}"
DENSE = (Line(_FEATURES, "exactly {room}", unit="features"), Line(_NEURONS, "≥ 0.90", at_least=0.9, at_most=1))
SPARSER = (Line(_FEATURES, "> {room}", unit="features"), Line(_NEURONS, "< 0.50", at_least=0, at_most=0.5 - 1e-9))


def pairs(config: AbsoluteValueToy, reporter: Reporter) -> list[Check]:
    """Three features, six neurons, no sparsity: every feature gets a pair ReLU(x), ReLU(−x)."""
    chosen = {
        "n_features": 3,
        "n_hidden": 6,
        "density": (1.0,),
        "importance": 1.0,
        "seeds": tuple(derive_seed(seed, "pairs", copy) for seed in config.seeds for copy in range(4)),
        "batch": 256,
        "optimiser": OptimiserConfig(steps=5_000, lr=3e-3),
    }
    stack = train(config.model_copy(update=chosen), reporter)
    if not stack.trained.any():
        return fill((PAIRS,), (), "no network did better than the output 0")
    found = paired(stack)
    # An output that is under 0 for every input gets no gradient back: its feature is lost from then on.
    dead = int((stack.unexplained > 1).any(-1).sum())
    best = float(found[stack.loss.nan_to_num(torch.inf).argmin()])
    note = f"{share(found).shown('.2f')} of all; {dead} lost an output for good"
    return [PAIRS.fill(Value(best, len(found), note=note))]


def paired(stack: Trained) -> torch.Tensor:
    """Whether every neuron hears one feature and each feature has a neuron for either sign, `[instance]`."""
    W = stack.parameters["W_in"]
    one = (largest_share(W) >= MONOSEMANTIC).all(-1)
    strongest = W.abs().argmax(-1)
    sign = W.gather(-1, strongest[..., None])[..., 0] > 0
    heard = torch.zeros(len(W), 2 * W.shape[-1])
    heard.scatter_add_(-1, 2 * strongest + sign, torch.ones(strongest.shape))
    return one & (heard == 1).all(-1)


def densities(config: AbsoluteValueToy, reporter: Reporter) -> list[Check]:
    """Dense data: the m/2 most important features, a pair each; sparse data: more features than pairs."""
    stack = train(config, reporter)
    room = config.n_hidden // 2
    checks: list[Check] = []
    for density in config.density:
        if SPARSE < density < 1:
            continue
        chosen = stack.where(density=density)
        dense, solved = density == 1, stack.solved[chosen]
        furthest = solved[(solved - room).abs().argmax()] if dense else solved.min()
        strictly = float((stack.unexplained[chosen] <= 0.1).sum(-1).float().mean())
        found = (
            Value(
                float(furthest),
                len(solved),
                note=f"solved: FVU of |x| < {SOLVED:g}; mean {mean(solved).value:.1f}; at FVU ≤ 0.1 {strictly:.1f}",
                holds=bool(furthest == room if dense else furthest > room),
            ),
            mean(
                stack.monosemantic[chosen],
                f"monosemantic: one feature holds ≥ {MONOSEMANTIC:g} of a neuron's squared weights",
            ),
        )
        why = "" if stack.trained[chosen].all() else "a network did no better than the output 0"
        checks += fill(DENSE if dense else SPARSER, found, why, density=density, room=room)
    return checks


def over_density(config: AbsoluteValueToy, reporter: Reporter) -> Any:
    """Features solved and share of monosemantic neurons over the density."""
    stack, n = train(config, reporter), len(config.seeds)
    figure, (upper, lower) = panels(2, width=6, height=2.75, columns=1)
    for axes, values in ((upper, stack.solved), (lower, stack.monosemantic)):
        axes.semilogx(stack.grid.values("density"), values, ".", color="C0", alpha=0.5)
        axes.semilogx(config.density, values.reshape(-1, n).mean(1), color="C0")
        axes.invert_xaxis()
    upper.axhline(config.n_hidden / 2, color="0.4", linestyle="--", label="pairs of neurons")
    upper.set(ylabel=f"features solved (FVU < {SOLVED:g})", ylim=(0, None))
    upper.set_title(f"|x| of {config.n_features} features by {config.n_hidden} neurons")
    upper.legend(frameon=False)
    lower.set(xlabel="density p", ylabel="monosemantic neurons (share)", ylim=(0, 1.02))
    return figure


ENTRY = Entry(
    AbsoluteValueToy,
    (
        Experiment("pairs", "fast", "with room for all, each feature gets a pair of neurons", pairs),
        Experiment("densities", "slow", "dense: a pair each; sparse: more, by polysemantic neurons", densities),
    ),
    {"density": over_density},
)
