"""What a toy is: a family of networks whose features are known."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.core.config import Config
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.networks import Network, load_network
from polyseme.zoo.tools.checks import Experiment

Cause = Literal[
    "aligned",
    "superposition",
    "rotated",
    "correlated",
    "incidental",
    "non_linear",
    "compositional",
    "computation_in_superposition",
    "none",
]
"""Why a neuron of the site responds to several features; `aligned` where none does."""


@dataclass(frozen=True)
class Truth:
    """What is known of a network.

    Attributes:
        site: where the features are.
        features: their names.
        directions: the vector that each writes to the site at value 1, `[feature, d]`; None where a feature has none.
        computed_at: where in the network they are computed; `input` for features of the data.
        cause: why the site's neurons are polysemantic; None where it is not known.
    """

    site: Site
    features: tuple[str, ...]
    directions: Float[Tensor, "feature d"] | None = None
    computed_at: str = "input"
    cause: Cause | None = None


@dataclass(frozen=True)
class Sample:
    """Inputs and the features of each.

    Attributes:
        inputs: the inputs of the network, `[row, ...]`.
        features: the value of every feature, `[row, feature]`, or `[row, position, feature]` for a sequence.
    """

    inputs: Tensor
    features: Tensor


Draw = Callable[[int, torch.Generator], Sample]
"""What draws data: from a number of rows and a generator to a sample."""


@dataclass(frozen=True)
class TrainedToy:
    """One network of a toy.

    Attributes:
        module: the network.
        truth: what is known of it.
        draw: draws a sample of its data.
        seed: seed of its initialisation and data.
        setting: what sets it apart in a sweep (`{"density": 0.05}`).
        loss: loss at the end of its training, on its own measure.
        ceiling: a loss above this means that it did not train.
    """

    module: nn.Module
    truth: Truth
    draw: Draw
    seed: int
    setting: Mapping[str, float | int | str]
    loss: float
    ceiling: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "draw", shielded(self.draw))

    @property
    def trained(self) -> bool:
        """Whether the loss is under the ceiling; False for one that diverged."""
        return self.loss <= self.ceiling

    @shielded
    def network(self) -> Network:
        """The network as the rest of polyseme reads it."""
        example = self.draw(2, torch.Generator().manual_seed(0)).inputs
        return load_network(self.module, example_inputs=example)

    @shielded
    @torch.no_grad()
    def activations(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "row d"], Sample]:
        """The site's vectors of `n` rows of data, flat over positions, and the sample they come from."""
        sample = self.draw(n, generator)
        site = self.truth.site
        vectors = self.network().read(sample.inputs, [site])[site]
        return vectors.reshape(-1, vectors.shape[-1]), sample


class Toy(Config, ABC):
    """A config whose networks have known answers; `build` and `train` of every toy are shielded.

    Attributes:
        title: one line.
        paper: authors, year, identifier.
    """

    title: ClassVar[str]
    paper: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name in {"build", "train"} & vars(cls).keys():
            setattr(cls, name, shielded(vars(cls)[name]))

    @abstractmethod
    def build(self) -> nn.Module:
        """One network of it, untrained: what a saved one is loaded into."""

    @abstractmethod
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Its networks, trained (or made, where nothing is trained) in one batched computation."""


@dataclass(frozen=True)
class Entry:
    """A toy of the zoo: one folder, and one line in `TOYS`.

    Attributes:
        config: a config class that is a `Toy`.
        experiments: what its networks are compared with.
        figures: functions, by name, that draw a matplotlib figure from the config and a reporter.
    """

    config: Any
    experiments: tuple[Experiment, ...]
    figures: Mapping[str, Callable[[Any, Reporter], Any]] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", {name: shielded(draw) for name, draw in self.figures.items()})
