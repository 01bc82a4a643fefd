"""Datapoint against generalising features: with few examples a network stores each of them, with many their features.

x' = ReLU(WᵀWx + b) on T fixed examples of n sparse features, ‖x‖ = 1; loss mean over the examples of Σ_i (x_i − x'_i)²;
AdamW on all of them at each step. With few, the hidden vectors of the examples form a T-gon; with many, the features
form a polygon, and between them the loss on new examples has a maximum. Henighan et al. 2023.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from polyseme.core.config import Config, Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.superposition.toy import ReluOutput
from polyseme.zoo.tools.stack import Draws, OptimiserConfig, train_stack
from polyseme.zoo.tools.tied import tied_loss
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth

PAPER = "Henighan et al. 2023, Superposition, Memorization, and Double Descent"
SITE = Site(path="hidden")
CPU_SWEEP = (3, 5, 8, 15, 30, 60, 100, 200, 350, 500, 700, 1000, 1400, 2000)
"""T of the CPU version: 3 to 2000."""
LEARNED = 0.999
"""Share of the loss that a network began with, or of the 1 that the output 0 costs, that a trained one is below."""


class DatapointFeaturesToy(Config):
    """A network for every number of examples and every seed."""

    title: ClassVar[str] = "datapoint against generalising features"
    paper: ClassVar[str] = PAPER

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
    """The published 50,000 steps at .001, ten times fewer and ten times as long: weight decay pulls as far in all."""

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

    @shielded
    def build(self) -> ReluOutput:
        """An untrained network."""
        zeros = torch.zeros(self.n_hidden, self.n_features)
        return ReluOutput(zeros, zeros[0])

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every number of examples with every seed."""
        names = tuple(f"x{i}" for i in range(self.n_features))
        return [
            TrainedToy(
                module=ReluOutput(run.W, run.b),
                truth=Truth(site=SITE, features=names, directions=run.W.T.contiguous(), cause=None),
                draw=self._draw,
                seed=run.seed,
                setting={"n_examples": run.n_examples},
                loss=run.train_loss,
                ceiling=run.ceiling,
            )
            for run in train(self, reporter)
        ]

    def _draw(self, n: int, generator: torch.Generator) -> Sample:
        x = examples(self, Draws.one(generator), n)[0]
        return Sample(inputs=x, features=x)


@dataclass(frozen=True)
class Run:
    """One network after its training.

    Attributes:
        n_examples: T.
        seed: of its examples and its initialisation.
        W: `[hidden, feature]`.
        b: `[feature]`.
        X: its examples, `[example, feature]`.
        start_loss: mean over them of Σ_i (x_i − x'_i)², before the training.
        train_loss: the same after it.
        test_loss: the same over new ones.
    """

    n_examples: int
    seed: int
    W: Tensor
    b: Tensor
    X: Tensor
    start_loss: float
    train_loss: float
    test_loss: float

    @property
    def hidden(self) -> Float[Tensor, "example hidden"]:
        """Hidden vectors of the examples."""
        return self.X @ self.W.T

    @property
    def ceiling(self) -> float:
        """A loss above this has not been brought down."""
        return LEARNED * min(1.0, self.start_loss)

    @property
    def trained(self) -> bool:
        """Whether the loss is under the ceiling; False for a network that diverged."""
        return self.train_loss <= self.ceiling


def examples(config: DatapointFeaturesToy, draws: Draws, n: int) -> Float[Tensor, "instance example feature"]:
    """Examples of length 1: one without any feature, which cannot have it, is drawn again."""
    density = torch.full((len(draws),), 1 - config.sparsity)
    x = draws.sparse_uniform(density, n, config.n_features)
    while (empty := ~(x > 0).any(-1)).any():
        x = torch.where(empty[..., None], draws.sparse_uniform(density, n, config.n_features), x)
    return torch.nn.functional.normalize(x, dim=-1)


@shielded
def train(config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Run]:
    """Train every number of examples and every seed, in as few stacks as the shapes allow.

    Numbers of examples share a stack up to the next power of two, where the missing examples are left out of the loss.
    A training that was killed goes on from `checkpoints`.
    """
    capacity = {t: 2 ** math.ceil(math.log2(t)) for t in config.n_examples}
    runs: list[Run] = []
    for size in sorted(set(capacity.values())):
        some = [t for t in config.n_examples if capacity[t] == size]
        runs += _train(config, some, size, reporter, checkpoints and checkpoints / str(size))
    return sorted(runs, key=lambda run: (run.n_examples, run.seed))


def _train(
    config: DatapointFeaturesToy, sizes: Sequence[int], capacity: int, reporter: Reporter, checkpoints: Path | None
) -> list[Run]:
    settings = [(t, seed) for t in sizes for seed in config.seeds]
    seeds = [derive_seed(seed, "datapoints", t) for t, seed in settings]
    used = torch.tensor([t for t, _ in settings])
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
    fitted, new = losses(X, weight), losses(test, torch.full((len(seeds), config.n_test), 1 / config.n_test))
    return [
        Run(t, seed, W[i], b[i], X[i, :t], float(start[i]), float(fitted[i]), float(new[i]))
        for i, (t, seed) in enumerate(settings)
    ]
