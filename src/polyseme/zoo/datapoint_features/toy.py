"""Datapoint against generalising features: with few examples a network stores each of them, with many their features.

x' = ReLU(WᵀWx + b) on T fixed examples of n sparse features, ‖x‖ = 1; loss mean over the examples of Σ_i (x_i − x'_i)²;
AdamW on all of them at each step. With few, the hidden vectors of the examples form a T-gon; with many, the features
form a polygon, and between them the loss on new examples has a maximum. Henighan et al. 2023.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.zoo.superposition.toy import ReluOutput
from polyseme.zoo.tools.checks import NOTHING, Check, Experiment, Line, fill, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.geometry import dimensionality, gaps
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.tied import tied_loss
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")
CPU_SWEEP = (3, 5, 8, 15, 30, 60, 100, 200, 350, 500, 700, 1000, 1400, 2000)
"""Numbers of examples T of the CPU version."""
LEARNED = 0.999
"""A trained network's loss is below this share of the loss that it began with, and of the 1 that the output 0 costs."""


class DatapointFeaturesToy(Toy):
    """A network for every number of examples and every seed."""

    title: ClassVar[str] = "datapoint against generalising features"
    paper: ClassVar[str] = "Henighan et al. 2023, Superposition, Memorization, and Double Descent"

    n_features: Width = 1000
    n_hidden: Width = 2
    sparsity: float = Field(default=0.99, ge=0, lt=1)
    """Share of the features that are 0; the others are U[0, 1) before each example is given length 1."""
    n_examples: tuple[Width, ...] = Field(default=CPU_SWEEP, min_length=1, max_length=1000)
    """T, ascending."""
    seeds: Seeds = (0, 1, 2)
    n_test: Width = 2000
    """New examples the test loss is measured on."""
    optimiser: OptimiserConfig = OptimiserConfig(steps=5_000, lr=1e-2, weight_decay=1e-2, warmup=250, schedule="cosine")
    """A tenth of the published 50,000 steps, at ten times their 0.001: weight decay pulls as far in all."""

    @field_validator("n_examples")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("numbers of examples ascend, each given once")
        return value

    @model_validator(mode="after")
    def _fewer_dimensions(self) -> "DatapointFeaturesToy":
        if self.n_hidden > self.n_features:
            raise ValueError(f"{self.n_hidden} hidden dimensions for {self.n_features} features leave nothing to share")
        return self

    def build(self) -> ReluOutput:
        zeros = torch.zeros(self.n_hidden, self.n_features)
        return ReluOutput(zeros, zeros[0])

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every number of examples with every seed."""
        return [run.toy for run in train(self, reporter)]

    def draw(self, n: int, generator: torch.Generator) -> Sample:
        """New examples."""
        x = examples(self, Draws.one(generator), n)[0]
        return Sample(inputs=x, features=x)


@dataclass(frozen=True)
class Run:
    """One network after its training.

    Attributes:
        toy: the network; its loss is the mean over its examples of Σ_i (x_i − x'_i)².
        X: its examples, `[example, feature]`.
        test_loss: the same loss on new examples.
    """

    toy: TrainedToy
    X: Tensor
    test_loss: float

    @property
    def n_examples(self) -> int:
        """T."""
        return len(self.X)

    @property
    def weights(self) -> Float[Tensor, "hidden feature"]:
        """W, whose columns are the hidden vectors of the features."""
        return self.toy.module.get_parameter("W").detach()

    @property
    def hidden(self) -> Float[Tensor, "example hidden"]:
        """Hidden vectors of the examples."""
        return self.X @ self.weights.T


def examples(config: DatapointFeaturesToy, draws: Draws, n: int) -> Float[Tensor, "instance example feature"]:
    """Examples of length 1: one without any feature, which cannot have it, is drawn again."""
    density = torch.full((len(draws),), 1 - config.sparsity)
    x = draws.sparse_uniform(density, n, config.n_features)
    while (empty := ~(x > 0).any(-1)).any():
        x = torch.where(empty[..., None], draws.sparse_uniform(density, n, config.n_features), x)
    return torch.nn.functional.normalize(x, dim=-1)


def train(config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Run]:
    """Train every number of examples and every seed, in as few stacks as the shapes allow.

    Numbers of examples share a stack up to the next power of two, where the missing examples are left out of the loss.
    An interrupted training resumes from `checkpoints`.
    """
    capacity = {t: 2 ** math.ceil(math.log2(t)) for t in config.n_examples}
    runs: list[Run] = []
    for size in sorted(set(capacity.values())):
        some = [t for t in config.n_examples if capacity[t] == size]
        runs += _train(config, some, size, reporter, checkpoints and checkpoints / str(size))
    return sorted(runs, key=lambda run: (run.n_examples, run.toy.seed))


def _train(
    config: DatapointFeaturesToy, sizes: Sequence[int], capacity: int, reporter: Reporter, checkpoints: Path | None
) -> list[Run]:
    grid = Grid(config.seeds, n_examples=sizes)
    seeds, used = grid.derived("datapoints"), grid.values("n_examples")
    weight = (torch.arange(capacity) < used[:, None]) / used[:, None]
    X = examples(config, Draws(seeds, "examples"), capacity) * (weight > 0)[..., None]
    deviation = math.sqrt(2 / (config.n_hidden + config.n_features))  # Xavier's, as published
    W = deviation * Draws(seeds, "initial").normal(config.n_hidden, config.n_features)
    b = torch.zeros(len(seeds), config.n_features)

    def losses(x: Tensor, of_example: Tensor) -> Tensor:
        return tied_loss(W, b, x, of_row=of_example)

    start = losses(X, weight)
    name = f"{sizes[0]} to {sizes[-1]} examples" if len(sizes) > 1 else f"{sizes[0]} examples"
    train_stack(
        {"W": W, "b": b},
        lambda _: losses(X, weight),
        config.optimiser,
        reporter=reporter,
        name=name,
        checkpoints=checkpoints,
    )
    test = examples(config, Draws(seeds, "test"), config.n_test)
    new = losses(test, torch.full((len(seeds), config.n_test), 1 / config.n_test)).tolist()
    stack = Stack({"W": W, "b": b}, losses(X, weight), grid, LEARNED * start.clamp(max=1))
    names = tuple(f"x{i}" for i in range(config.n_features))
    toys = stack.toys(config.build, lambda i: Truth(SITE, names, W[i].T.contiguous()), lambda _: config.draw)
    return [Run(toy, X[i, : toy.setting["n_examples"]], new[i]) for i, toy in enumerate(toys)]


FEW = (
    Line("Σ D of the examples' hidden vectors, {where}", "m = 2 (± 0.02)", target=2, within=0.02),
    Line("mean |gap − 72°| between neighbouring examples, {where}", "≤ 6°", at_most=6, unit="°"),
    Line("largest D of a feature, {where}", "≤ 0.32", at_most=0.32, source="computed"),
)
_HEIGHT = "height of the test loss's inner maximum, {where}"
BUMP = Line(_HEIGHT, "> 0", at_least=1e-9, source="published")
NO_BUMP = Line(_HEIGHT, "≤ 0.005", at_most=0.005)
"""That weight decay removes the maximum is published; how much is nothing is ours to say."""


def few(config: DatapointFeaturesToy, reporter: Reporter) -> list[Check]:
    """Five examples of 300 features: a pentagon of examples, and no such thing for features."""
    return few_wide(config.model_copy(update={"n_features": 300}), reporter)


def few_wide(config: DatapointFeaturesToy, reporter: Reporter) -> list[Check]:
    """The same with the config's own number of features."""
    runs = train(config.model_copy(update={"n_hidden": 2, "n_examples": (5,)}), reporter)
    where = f"T = 5, n = {config.n_features}"
    if bad := [run.toy.seed for run in runs if not run.toy.trained]:
        why = f"{len(bad)} of {len(runs)} networks did not bring their loss down: seeds {bad}"
        return fill(FEW, (), why, where=where)
    hidden = torch.stack([run.hidden for run in runs]).double()
    total, angles = dimensionality(hidden).sum(-1), gaps(hidden)
    losses = [run.toy.loss for run in runs]
    found = (
        mean(
            total,
            f"{float(total.min()):.3f} to {float(total.max()):.3f}; train loss {min(losses):.3f} to {max(losses):.3f}",
        ),
        mean((angles - 72).abs().mean(-1), f"gaps {float(angles.min()):.1f}° to {float(angles.max()):.1f}°"),
        mean(
            [float(dimensionality(run.weights.T.double()).max()) for run in runs], "mean over networks of the largest"
        ),
    )
    return fill(FEW, found, where=where)


def bump(config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """Test loss over the number of examples has a maximum inside, and many examples bring it down."""
    return _height(BUMP, config, reporter, checkpoints)


def decayed(config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """In four dimensions: the maximum at the config's weight decay, and none at weight decay 1."""
    wide = config.model_copy(update={"n_hidden": 4})
    strong = wide.model_copy(update={"optimiser": config.optimiser.model_copy(update={"weight_decay": 1.0})})
    return [
        *_height(BUMP, wide, reporter, checkpoints and checkpoints / "weak"),
        *_height(NO_BUMP, strong, reporter, checkpoints and checkpoints / "strong"),
    ]


def peak(test_loss: Float[Tensor, "example_count seed"]) -> tuple[int, Float[Tensor, " seed"]]:
    """Where the mean test loss is largest, and by how much each seed's is above that of both ends there.

    At an end, the height is 0 or less: there is no maximum inside.
    """
    at = int(test_loss.mean(1).argmax())
    ends = torch.maximum(test_loss[0], test_loss[-1])
    return at, test_loss[at] - ends


def _height(line: Line, config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None) -> list[Check]:
    counts = config.n_examples
    where = f"m = {config.n_hidden}, weight decay {config.optimiser.weight_decay:g}"
    if len(counts) < 4:
        why = f"an inner maximum is looked for over four numbers of examples at least, not {len(counts)}"
        return [line.fill(NOTHING, why, where=where)]
    runs = train(config, reporter, checkpoints)
    test = torch.tensor([run.test_loss for run in runs], dtype=torch.float64).reshape(len(counts), len(config.seeds))
    # Weight decay may keep W at 0 where there are many examples; the fewest are stored whatever it is.
    stored = all(run.toy.trained for run in runs if run.n_examples == counts[0])
    why = "" if stored else f"a network of {counts[0]} examples did not bring its loss down"
    at, height = peak(test)
    curve = ", ".join(f"{t}: {loss:.3f}" for t, loss in zip(counts, test.mean(1).tolist(), strict=True))
    return [line.fill(mean(height, f"largest at T = {counts[at]}; test loss {curve}"), why, where=where)]


def hidden_figure(config: DatapointFeaturesToy, reporter: Reporter) -> Any:
    """Hidden vectors of the examples and of the features over T, with the losses (two dimensions, the first seed)."""
    flat = config.model_copy(update={"n_hidden": 2, "seeds": config.seeds[:1]})
    runs = train(flat, reporter)
    picked = [runs[round(i * (len(runs) - 1) / 5)] for i in range(6)] if len(runs) > 6 else runs
    columns = len(picked)
    figure, axes = panels(2 * columns, width=1.9 * columns + 1, height=2, columns=columns)
    for row, colour in enumerate(("tab:blue", "tab:red")):
        for axis, run in zip(axes[row * columns :], picked, strict=False):
            vectors = run.hidden if row == 0 else run.weights.T
            reach = 1.1 * float(vectors.abs().max())
            axis.axhline(0, color="0.9", linewidth=0.8, zorder=0)
            axis.axvline(0, color="0.9", linewidth=0.8, zorder=0)
            axis.scatter(vectors[:, 0], vectors[:, 1], s=6, color=colour, alpha=0.6, linewidth=0)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            axis.set_title(f"T = {run.n_examples}\ntest loss {run.test_loss:.3f}" if row == 0 else "", fontsize=9)
    axes[0].set_ylabel("examples Wx")
    axes[columns].set_ylabel("features W")
    return figure


def loss_figure(config: DatapointFeaturesToy, reporter: Reporter) -> Any:
    """Train and test loss over T, and how much of a dimension examples and features have."""
    runs = train(config, reporter)
    figure, (left, right) = panels(2, width=10, height=3.6)
    counts = list(config.n_examples)
    for values, label, axis, colour in (
        ([run.toy.loss for run in runs], "train", left, "tab:blue"),
        ([run.test_loss for run in runs], "test", left, "tab:red"),
        ([float(dimensionality(run.hidden).median()) for run in runs], "examples, median", right, "tab:blue"),
        ([float(dimensionality(run.weights.T).max()) for run in runs], "features, largest", right, "tab:red"),
    ):
        of_seed = torch.tensor(values).reshape(len(counts), -1)
        axis.plot(counts, of_seed.mean(1), color=colour, marker="o", markersize=3, label=label)
        axis.plot(counts, of_seed, color=colour, alpha=0.25, linewidth=0.8)
        axis.set(xscale="log", xlabel="examples T")
    left.set_ylabel("loss (the output 0 costs 1)")
    right.set_ylabel("dimensionality")
    for axis in (left, right):
        axis.legend(frameon=False)
    return figure


ENTRY = Entry(
    DatapointFeaturesToy,
    (
        Experiment("few", "fast", "five examples form a pentagon", few),
        Experiment("few-wide", "slow", "the same with the config's own features", few_wide),
        Experiment("bump", "long", "the test loss has a maximum inside", bump, resumable=True),
        Experiment("decay", "long", "weight decay 1 removes it in four dimensions", decayed, resumable=True),
    ),
    {"hidden": hidden_figure, "loss": loss_figure},
)
