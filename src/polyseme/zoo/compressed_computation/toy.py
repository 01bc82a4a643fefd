"""Compressed computation: seems to compute more ReLUs than it has neurons, and does not. Bhagat et al. 2025."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch

from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.compressed_computation import checks as checks
from polyseme.zoo.compressed_computation.networks import (
    PAPER,
    CompressedComputation,
    CompressedComputationConfig,
    inputs,
    train,
)
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.neurons import MONOSEMANTIC, monosemantic
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth

SITE = Site(path="hidden")


@final
class CompressedComputationToy(CompressedComputationConfig):
    """Every mixing with every seed: one network each, trained as one stack."""

    title: ClassVar[str] = "compressed computation: the false twin of computation in superposition"
    paper: ClassVar[str] = PAPER
    experiments: ClassVar[tuple[Experiment, ...]] = (
        Experiment("identity", "fast", "the residual MLP is the plain one on labels ReLU(x) + Mx", checks.identity),
        Experiment("one hot", "fast", "the exact limit p → 0: no gain without mixing", checks.one_hot),
        Experiment("sparse", "slow", "the documented density: no gain without mixing", checks.sparse),
    )
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]] = {
        "mixing": checks.loss_over_mixing,
    }

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
        n = self.n_features
        names = (*(f"+x{j}" for j in range(n)), *(f"-x{j}" for j in range(n)))
        toys: list[TrainedToy] = []
        for i, (sigma, seed) in enumerate(stack.settings):
            W = stack.W_in[i]
            aligned = bool(monosemantic(W) >= MONOSEMANTIC)
            toys.append(
                TrainedToy(
                    module=CompressedComputation(W, stack.W_out[i]),
                    truth=Truth(
                        SITE,
                        names,
                        torch.relu(torch.cat([W.T, -W.T])),
                        computed_at="hidden",
                        cause="aligned" if aligned else None,
                    ),
                    draw=self.draw,
                    seed=seed,
                    setting={"mixing": sigma},
                    loss=float(stack.loss[i]),
                    ceiling=float(stack.ceilings[i]),
                )
            )
        return toys

    def draw(self, n: int, generator: torch.Generator) -> Sample:
        """Rows of features, and the positive and the negative half of each."""
        draws = Draws([int(torch.randint(2**62, (), generator=generator))])
        x = inputs(draws, self.density, n, self.n_features)[0]
        return Sample(inputs=x, features=torch.relu(torch.cat([x, -x], dim=-1)))
