"""A toy as somebody would add it: a linear autoencoder with room for every feature brings them back."""

import math
from typing import Any, ClassVar

import torch
from torch import nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.zoo.tools.checks import Check, Experiment, Line, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

UNEXPLAINED = Line("unexplained variance of {n} features", "≤ 0.01", at_most=0.01)


class AutoencoderToy(Toy):
    """Networks of several seeds."""

    title: ClassVar[str] = "linear autoencoder"
    paper: ClassVar[str] = "Baldi & Hornik 1989"

    n_features: Width = 4
    seeds: Seeds = (0, 1, 2)
    optimiser: OptimiserConfig = OptimiserConfig(steps=600, lr=2e-2, weight_decay=0.0, schedule="cosine")

    def build(self) -> nn.Module:
        n = self.n_features
        return nn.Sequential(nn.Linear(n, n, bias=False), nn.Linear(n, n, bias=False))

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every seed, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"x{i}" for i in range(self.n_features))

        def truth(i: int) -> Truth:
            return Truth(Site(path="0"), names, stack.parameters["0.weight"][i].T.contiguous(), cause="rotated")

        return stack.toys(self.build, truth, lambda _: self.draw)

    def draw(self, n: int, generator: torch.Generator) -> Sample:
        """Rows of N(0, 1)."""
        x = torch.randn(n, self.n_features, generator=generator)
        return Sample(inputs=x, features=x)


def train(config: AutoencoderToy, reporter: Reporter) -> Stack:
    """Train every seed at once."""
    grid, n = Grid(config.seeds), config.n_features
    initial, data = Draws(grid.derived("autoencoder"), "initial"), Draws(grid.derived("autoencoder"), "data")
    weights = {name: initial.normal(n, n) / math.sqrt(n) for name in ("0.weight", "1.weight")}

    def loss(_: int) -> torch.Tensor:
        x = data.normal(64, n)
        return (x @ weights["0.weight"].mT @ weights["1.weight"].mT - x).square().mean((-2, -1))

    history = train_stack(weights, loss, config.optimiser, reporter=reporter)
    return Stack(weights, history.final, grid, 0.5)


def recovered(config: AutoencoderToy, reporter: Reporter) -> list[Check]:
    """What is lost of the features."""
    stack = train(config, reporter)
    return [UNEXPLAINED.fill(mean(stack.loss), stack.untrained, n=config.n_features)]


def weights_figure(config: AutoencoderToy, reporter: Reporter) -> Any:
    """The first network's encoder."""
    figure, (axis,) = panels(1, width=4)
    axis.imshow(train(config, reporter).parameters["0.weight"][0].numpy())
    return figure


ENTRY = Entry(
    AutoencoderToy,
    (Experiment("recovered", "fast", "every feature comes back", recovered),),
    {"weights": weights_figure},
)
