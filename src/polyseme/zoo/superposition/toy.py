"""Toy model of superposition: more sparse features than dimensions.

x' = ReLU(WᵀWx + b) with x_i ~ U[0, 1] of probability p, else 0; loss Σ_i I_i (x_i − x'_i)². Elhage et al. 2022.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch

from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.superposition import checks as checks
from polyseme.zoo.superposition import figures as drawn
from polyseme.zoo.superposition import sweeps as sweeps
from polyseme.zoo.superposition.networks import ReluOutput, SuperpositionConfig, cause, features, train
from polyseme.zoo.superposition.recovery import recovery
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth

SITE = Site(path="hidden")


@final
class SuperpositionToy(SuperpositionConfig):
    """Every density with every importance and every seed: one network each, trained as one stack."""

    title: ClassVar[str] = "toy model of superposition"
    paper: ClassVar[str] = checks.ELHAGE
    experiments: ClassVar[tuple[Experiment, ...]] = (
        Experiment("pentagon", "fast", "five features in two dimensions form a regular pentagon", checks.pentagon),
        Experiment("polygons", "fast", "the best k-gons for one feature at a time, solved for", checks.polygons),
        Experiment("capacity", "fast", "capacity is dimensionality, and dimensions bound its sum", checks.capacities),
        Experiment("correlation", "slow", "pairs on together are orthogonal, others antipodal", checks.correlation),
        Experiment("recovery", "slow", "a dictionary finds the features, a matrix factorisation not", recovery),
        Experiment("phases", "slow", "two features in one dimension: where superposition begins", sweeps.phases),
        Experiment("importance", "slow", "as density rises the least important vanish first", sweeps.importance),
        Experiment("stickiness", "long", "dimensionalities stick at fractions (the first seed)", sweeps.stickiness),
    )
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]] = {
        "geometry": drawn.geometry,
        "weights": drawn.weights,
        "dimensionality": drawn.dimensionalities,
        "phases": drawn.phases,
    }

    @shielded
    def build(self) -> ReluOutput:
        """An untrained network."""
        zeros = torch.zeros(self.n_hidden, self.n_features)
        return ReluOutput(zeros, zeros[0], privileged=self.basis == "relu")

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every network, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"x{j}" for j in range(self.n_features))
        toys: list[TrainedToy] = []
        for i, setting in enumerate(stack.settings):
            directions, loss, ceiling = stack.vectors[i], float(stack.loss[i]), float(stack.ceilings[i])
            why = cause(directions, self.correlation) if loss <= ceiling else None
            toys.append(
                TrainedToy(
                    module=ReluOutput(stack.W[i], stack.b[i], privileged=self.basis == "relu"),
                    truth=Truth(site=SITE, features=names, directions=directions.contiguous(), cause=why),
                    draw=self._draw(setting.density),
                    seed=setting.seed,
                    setting={"density": setting.density, "importance": setting.importance},
                    loss=loss,
                    ceiling=ceiling,
                )
            )
        return toys

    def _draw(self, density: float) -> Callable[[int, torch.Generator], Sample]:
        def draw(n: int, generator: torch.Generator) -> Sample:
            draws = Draws([int(torch.randint(2**62, (), generator=generator))])
            x = features(self, draws, torch.tensor([density]), n)[0]
            return Sample(inputs=x, features=x)

        return draw
