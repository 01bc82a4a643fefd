"""An exact solution missed: training leaves neurons polysemantic where neurons of one output each solve the task.

y = W₂ ReLU(W₁x + b₁) + b₂. `and`: x uniform over {0, 1}ⁿ, y_ij = x_i x_j, which ReLU(x_i + x_j − 1) gives with a
neuron for each of the n(n − 1)/2 pairs. `abs`: x_i ~ U[−1, 1] of probability p, else 0, y_i = |x_i|, which ReLU(±x_i)
give with two neurons a feature. There is room for either, so that what training does instead is no superposition.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.zoo.tools.checks import Check, Experiment, Line, Value, share, table
from polyseme.zoo.tools.neurons import MONOSEMANTIC, largest_share
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

SITE = Site(path="neurons")
SOLVED = 1e-3
"""Normalised loss below which a network has found a solution."""
UNTRAINED = 0.5
"""A network with a larger normalised loss explains less than half of the variance: it did not train."""
ROWS = 8_192


class Perceptron(nn.Module):
    """y = W₂ ReLU(W₁x + b₁) + b₂; `neurons` is after the ReLU."""

    def __init__(self, n: int, n_neurons: int, n_out: int):
        super().__init__()
        self.read, self.neurons, self.write = nn.Linear(n, n_neurons), nn.ReLU(), nn.Linear(n_neurons, n_out)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n_out"]:
        return self.write(self.neurons(self.read(x)))


class MissedSolutionToy(Toy):
    """Networks of several seeds."""

    title: ClassVar[str] = "an exact solution missed"
    paper: ClassVar[str] = "exact solutions ReLU(x_i + x_j − 1) and ReLU(±x_i)"

    task: Literal["and", "abs"] = "and"
    n: int = Field(default=5, ge=2, le=1000)
    """Number of inputs."""
    n_neurons: Width = 10
    density: float = Field(default=0.5, gt=0, le=1)
    """Probability p that an input of `abs` is on."""
    seeds: Seeds = tuple(range(16))
    batch: Width = 256
    optimiser: OptimiserConfig = OptimiserConfig(steps=4_000, lr=5e-3, schedule="cosine", weight_decay=0.0)

    @model_validator(mode="after")
    def _enough_room(self) -> "MissedSolutionToy":
        needed = self.n_out if self.task == "and" else 2 * self.n
        if self.n_neurons < needed:
            raise ValueError(
                f"the exact solution of {self.task!r} with n = {self.n} takes {needed} neurons, and there are"
                f" {self.n_neurons}: it cannot be missed where it does not fit"
            )
        return self

    @property
    def n_out(self) -> int:
        """Number of outputs: pairs of inputs, or inputs."""
        return self.n * (self.n - 1) // 2 if self.task == "and" else self.n

    def build(self) -> Perceptron:
        return Perceptron(self.n, self.n_neurons, self.n_out)

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every seed, as one stack."""
        stack = train(self, reporter)
        names = [f"x{i} and x{j}" for i, j in combinations(range(self.n), 2)]
        names = names if self.task == "and" else [f"|x{i}|" for i in range(self.n)]
        alone = single(stack).all(-1)

        def truth(i: int) -> Truth:
            # Where a network mixes them, all that is known is that it had room not to.
            cause = "aligned" if bool(alone[i]) else None
            return Truth(SITE, tuple(names), computed_at="neurons", cause=cause)

        return stack.toys(self.build, truth, lambda _: self._draw)

    def rows(self, draws: Draws, n: int) -> tuple[Float[Tensor, "instance row n"], Float[Tensor, "instance row out"]]:
        """Inputs and answers."""
        if self.task == "and":
            x = (draws.uniform(n, self.n) < 0.5).float()
            first, second = torch.triu_indices(self.n, self.n, 1)
            return x, x[..., first] * x[..., second]
        on, value = draws.uniform(n, self.n) < self.density, 2 * draws.uniform(n, self.n) - 1
        x = torch.where(on, value, 0.0)
        return x, x.abs()

    @property
    def variance(self) -> float:
        """Variance of one output."""
        return 3 / 16 if self.task == "and" else self.density / 3 - self.density**2 / 4

    def _draw(self, n: int, generator: torch.Generator) -> Sample:
        x, y = self.rows(Draws.one(generator), n)
        return Sample(inputs=x[0], features=y[0])


def single(stack: Stack) -> Bool[Tensor, "instance neuron"]:
    """Whether one output gets at least 90% of what a neuron writes, in squares."""
    return largest_share(stack.parameters["write.weight"].mT) >= MONOSEMANTIC


def live(stack: Stack) -> Bool[Tensor, "instance neuron"]:
    """Whether a neuron does anything: its weights in and out are not both near 0."""
    read, write = stack.parameters["read.weight"].norm(dim=-1), stack.parameters["write.weight"].norm(dim=-2)
    strength = read * write
    return strength > 0.01 * strength.amax(-1, keepdim=True)


def train(config: MissedSolutionToy, reporter: Reporter) -> Stack:
    """Train every seed at once."""
    grid = Grid(config.seeds, task=[config.task])
    seeds = grid.derived("missed_solution")
    initial, draws, n = Draws(seeds, "initial"), Draws(seeds, "data"), len(config.seeds)
    parameters = {
        "read.weight": initial.normal(config.n_neurons, config.n) / math.sqrt(config.n),
        "read.bias": torch.zeros(n, config.n_neurons),
        "write.weight": initial.normal(config.n_out, config.n_neurons) / math.sqrt(config.n_neurons),
        "write.bias": torch.zeros(n, config.n_out),
    }

    def error(draws: Draws, rows: int) -> Tensor:
        x, y = config.rows(draws, rows)
        hidden = torch.relu(torch.baddbmm(parameters["read.bias"][:, None], x, parameters["read.weight"].mT))
        out = torch.baddbmm(parameters["write.bias"][:, None], hidden, parameters["write.weight"].mT)
        return (y - out).square().mean((-1, -2)) / config.variance

    train_stack(parameters, lambda _: error(draws, config.batch), config.optimiser, reporter=reporter)
    with torch.no_grad():
        return Stack(parameters, error(Draws(seeds, "test"), ROWS), grid, UNTRAINED)


_LOSS = f"networks with normalised loss < {SOLVED:g}"
_SPARSE = "|x|, n = 20, H = 40, p = 0.02: "
SOLVED_10, SOLVED_40, SINGLE_40, ABS, MISSED, FEW_SINGLE, MEDIAN = table(
    Line("AND, n = 5, H = 10: " + _LOSS, "0 of 16", at_most=0),
    Line("AND, n = 5, H = 40: " + _LOSS, "16 of 16", at_least=1),
    Line("AND, n = 5, H = 40: neurons of one AND", "0%", at_most=0, n_unit="neurons"),
    Line("|x|, n = 6, H = 12, p = {p:g}: networks that solve it, each neuron of one feature", "75% to 100%", 0.75),
    Line(_SPARSE + "networks that miss it (normalised loss ≥ 1e-3)", "all", at_least=1),
    Line(_SPARSE + "neurons of one feature", "≤ 23%", at_most=0.23, n_unit="neurons"),
    Line(_SPARSE + "median normalised loss", "near 1e-2 (3e-3 to 3e-2)", 3e-3, 3e-2),
    source="computed",
)


def _shares(stack: Stack, found: Sequence[tuple[Line, Tensor]], **words: float) -> list[Check]:
    """Each line with its share of networks or of neurons."""
    note = f"normalised loss {float(stack.loss.min()):.2g} to {float(stack.loss.max()):.2g}"
    unsolved = f"no network solved it; {note}"
    return [
        line.fill(share(hits, note=note), stack.untrained or ("" if hits.numel() else unsolved), **words)
        for line, hits in found
    ]


def conjunctions(config: MissedSolutionToy, reporter: Reporter) -> list[Check]:
    """AND of five inputs: ten neurons never find the solution, forty always find another."""
    few, many = (train(config.model_copy(update={"task": "and", "n": 5, "n_neurons": n}), reporter) for n in (10, 40))
    solved = many.loss < SOLVED
    of_one = single(many)[solved][live(many)[solved]]
    return [*_shares(few, [(SOLVED_10, few.loss < SOLVED)]), *_shares(many, [(SOLVED_40, solved), (SINGLE_40, of_one)])]


def absolute_values(config: MissedSolutionToy, reporter: Reporter) -> list[Check]:
    """|x| of six inputs: found with one feature a neuron, by most networks."""
    stack = train(config.model_copy(update={"task": "abs", "n": 6, "n_neurons": 12}), reporter)
    found = (stack.loss < SOLVED) & (single(stack) | ~live(stack)).all(-1)
    return _shares(stack, [(ABS, found)], p=config.density)


def sparse_absolute_values(config: MissedSolutionToy, reporter: Reporter) -> list[Check]:
    """|x| of twenty sparse inputs: stuck above the solution, most neurons of several features."""
    chosen = {"task": "abs", "n": 20, "n_neurons": 40, "density": 0.02}
    stack = train(config.model_copy(update=chosen), reporter)
    checks = _shares(stack, [(MISSED, stack.loss >= SOLVED), (FEW_SINGLE, single(stack)[live(stack)])])
    return [*checks, MEDIAN.fill(Value(float(np.median(stack.loss.numpy())), len(stack)), stack.untrained)]


ENTRY = Entry(
    MissedSolutionToy,
    (
        Experiment("and", "fast", "AND of five inputs with ten and with forty neurons", conjunctions),
        Experiment("abs", "fast", "|x| of six inputs", absolute_values),
        Experiment("sparse_abs", "slow", "|x| of twenty sparse inputs", sparse_absolute_values),
    ),
)
