"""SynthSAEBench's setting: many features in few dimensions, frequent and rare, in trees, correlated, of uneven size.

x = b + Σ cᵢ fᵢ. Feature i is chosen with probability p̃ᵢ by a Gaussian copula of low rank; a chosen feature has the size
ReLU(μᵢ + σᵢ n). Then every tree is gone through from its root down: a child stays only where its parent is on, of
children that exclude each other one of the chosen stays, each with the same chance, and a child's size is multiplied by
that of its parent over the parent's mean. `world` has the formulas, and what they do not settle.

This toy keeps to the published setting, whose frequencies below the roots are approximate by construction;
`planted_sparse` is the one in which every frequency is exact.

Chanin & Garriga-Alonso 2026, SynthSAEBench, arXiv 2602.14687. `PUBLISHED` is the second, corrected version of the
benchmark's model; in the first, children were not scaled by their parents.
"""

from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator

from polyseme.activations import DrawnSource
from polyseme.core.config import Seeds, Share, Width, identity
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.kernels.shield import shielded
from polyseme.zoo.synth_sae_bench.world import World
from polyseme.zoo.tools.exact import SITE, Mixture
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth

Frequency = Annotated[float, Field(gt=0, lt=1)]


class SynthSaeBenchToy(Toy):
    """One world for each seed; by default with a sixteenth of the published features, in an eighth of the width."""

    title: ClassVar[str] = "SynthSAEBench's setting"
    paper: ClassVar[str] = "Chanin & Garriga-Alonso 2026, SynthSAEBench, arXiv 2602.14687"

    n_features: Annotated[Width, Field(ge=2, le=2**20)] = 1024
    d: Width = 96
    """Width of the vectors."""
    zipf: float = Field(default=1.0, gt=0, le=10)
    """Exponent of the frequencies' law."""
    frequencies: tuple[Frequency, Frequency] = (0.4, 0.004)
    """Frequencies of the most and of the least frequent feature."""
    trees: int = Field(default=32, ge=0, le=2**20)
    """Number of trees; their roots are the most frequent features, the others follow generation by generation."""
    branching: int = Field(default=4, ge=1, le=1000)
    """Number of children of each feature in a tree."""
    depth: int = Field(default=2, ge=0, le=16)
    """Number of generations under each root."""
    exclusive: Share = 0.5
    """Share of the parents whose children exclude each other."""
    compensated: bool = True
    """Whether children are chosen more often to make up for the rows without their parents."""
    scaled: bool = True
    """Whether a child's size follows its parent's."""
    rank: int = Field(default=25, ge=1, le=2**12)
    """Number of factors of the copula."""
    correlation: float = Field(default=0.1, ge=0, le=10)
    """Standard deviation of the features' loadings on each factor; at 0, features are chosen independently."""
    seeds: Seeds = (0, 1, 2)

    @model_validator(mode="after")
    def _possible(self) -> "SynthSaeBenchToy":
        most, least = self.frequencies
        if least >= most:
            raise ValueError(f"the least frequency, {least:g}, is not under the greatest, {most:g}")
        size = sum(self.branching**g for g in range(self.depth + 1))
        if self.trees * size > self.n_features:
            raise ValueError(
                f"{self.trees} trees of {size} features need more than the {self.n_features} there are: "
                "lower trees, branching or depth"
            )
        return self

    def build(self) -> Mixture:
        """A mixture of the right size."""
        return Mixture(torch.zeros(self.n_features, self.d), torch.zeros(self.d))

    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """The mixture of each seed."""
        return [self.instance(seed) for seed in self.seeds]

    def world(self, seed: int) -> World:
        """What decides the data of a seed; the last few that were made are kept."""
        return _world(self.model_dump_json(exclude={"seeds"}), seed)

    def instance(self, seed: int) -> TrainedToy:
        """The mixture of one seed, made and not trained: its loss is 0. Its samples are dense; `source` holds none."""
        world = self.world(seed)
        names = tuple(f"f{i}" for i in range(self.n_features))
        cause = "superposition" if self.n_features > self.d else None
        truth = Truth(SITE, names, world.directions, cause=cause)

        def draw(n: int, generator: torch.Generator) -> Sample:
            values = world.draw(n, generator).dense()
            return Sample(inputs=values, features=values)

        module = Mixture(world.directions, world.bias)
        return TrainedToy(module, truth, draw, seed, {"exclusive": self.exclusive}, loss=0.0, ceiling=0.0)

    def source(self, seed: int, n_tokens: int, *, prefetch: bool = True) -> DrawnSource:
        """`n_tokens` vectors of a seed's world to train on, drawn as they are asked for."""
        world = self.world(seed)
        return DrawnSource(
            str(SITE),
            self.d,
            lambda n, generator: world.vectors(world.draw(n, generator)),
            about=identity(self, exclude=("seeds",)) | {"toy": "synth_sae_bench", "world": seed},
            n_tokens=n_tokens,
            seed=derive_seed(seed, "synth sae bench", "source"),
            prefetch=prefetch,
        )


@lru_cache(maxsize=4)
@shielded
def _world(config: str, seed: int) -> World:
    return World.made(SynthSaeBenchToy.model_validate_json(config), seed)


PUBLISHED = SynthSaeBenchToy(
    n_features=16_384, d=768, zipf=0.5, frequencies=(0.4, 5e-4), trees=128, depth=3, exclusive=1.0, seeds=(42,)
)
"""SynthSAEBench-16k, in its second version. Dictionaries are 4,096 wide there and trained on 200 M vectors."""
