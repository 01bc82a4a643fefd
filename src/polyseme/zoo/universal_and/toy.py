"""Universal AND: one random ReLU layer computes every pairwise AND of sparse bits. Vaintrob, Mendel & Hänni 2024."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch

from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth
from polyseme.zoo.universal_and import checks as checks
from polyseme.zoo.universal_and import circuits as chain
from polyseme.zoo.universal_and import noise as noise
from polyseme.zoo.universal_and.networks import (
    PAPER,
    UniversalAnd,
    UniversalAndConfig,
    active_inputs,
    mask_blocks,
    pairs,
)

SITE = Site(path="hidden")


@final
class UniversalAndToy(UniversalAndConfig):
    """Random networks of one size, one a seed; they are made, not trained."""

    title: ClassVar[str] = "Universal AND: computation in superposition"
    paper: ClassVar[str] = PAPER
    experiments: ClassVar[tuple[Experiment, ...]] = (
        Experiment("reads", "fast", "the mean read-off with both, one or none on", checks.reads_table),
        Experiment("noise", "fast", "overlaps of a fixed draw add up as √k, as k if of one sign", noise.overlaps),
        Experiment(
            "orthant",
            "fast",
            "gate vectors overlap; no bias helps those that share",
            noise.orthant,
        ),
        Experiment("chaining", "fast", "how far circuits survive, with a bias offset and without", chain.chaining),
        Experiment("scaling", "slow", "neurons needed for all pairs of inputs in superposition", noise.scaling),
    )
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]] = {
        "reads": checks.reads_over_active,
        "survival": chain.survival_over_depth,
    }

    @shielded
    def build(self) -> UniversalAnd:
        """A network without any connection, to load a saved one into."""
        return UniversalAnd(torch.zeros(self.n_neurons, self.n_features))

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """The networks of all seeds; they are made, not trained."""
        first, second = pairs(self.n_features)
        names = tuple(f"x{j} & x{k}" for j, k in zip(first.tolist(), second.tolist(), strict=True))
        progress = reporter.task("universal AND", len(self.seeds), "networks")
        toys: list[TrainedToy] = []
        for i, seed in enumerate(self.seeds):
            masks = torch.cat([block[0] for block in mask_blocks(self, (seed,))]).float()
            truth = Truth(
                site=SITE,
                features=names,
                directions=masks.T[first] * masks.T[second],
                computed_at="hidden",
                cause="computation_in_superposition",
            )
            toys.append(
                TrainedToy(
                    module=UniversalAnd(masks),
                    truth=truth,
                    draw=self.draw,
                    seed=seed,
                    setting={},
                    loss=0.0,
                    ceiling=0.0,
                )
            )
            progress.update(i + 1)
        return toys

    def draw(self, n: int, generator: torch.Generator) -> Sample:
        """Rows with `active` features on, and the AND of every pair."""
        draws = Draws([int(torch.randint(2**62, (), generator=generator))])
        x = active_inputs(draws, n, self.n_features, self.active)[0]
        first, second = pairs(self.n_features)
        return Sample(inputs=x, features=x[:, first] * x[:, second])
