"""Absolute value in superposition: |x| of more features than there are pairs of neurons. Elhage et al. 2022."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch

from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.absolute_value import checks as checks
from polyseme.zoo.absolute_value.networks import PAPER, AbsoluteValueConfig, AbsoluteValueNetwork, inputs, train
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth

SITE = Site(path="hidden")


@final
class AbsoluteValueToy(AbsoluteValueConfig):
    """Every density with every seed: one network each, trained as one stack."""

    title: ClassVar[str] = "absolute value in superposition"
    paper: ClassVar[str] = PAPER
    experiments: ClassVar[tuple[Experiment, ...]] = (
        Experiment("pairs", "fast", "with room for all, each feature gets a pair of neurons", checks.pairs),
        Experiment("densities", "slow", "dense: a pair each; sparse: more, by polysemantic neurons", checks.densities),
    )
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]] = {
        "density": checks.over_density,
    }

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
                    draw=self._draw(density),
                    seed=seed,
                    setting={"density": density},
                    loss=float(stack.loss[i]),
                    ceiling=float(stack.ceilings[i]),
                )
            )
        return toys

    def _draw(self, density: float) -> Callable[[int, torch.Generator], Sample]:
        def draw(n: int, generator: torch.Generator) -> Sample:
            draws = Draws([int(torch.randint(2**62, (), generator=generator))])
            x = inputs(draws, torch.tensor([density]), n, self.n_features)[0]
            return Sample(inputs=x, features=torch.relu(torch.cat([x, -x], dim=-1)))

        return draw
