"""Universal AND: one random ReLU layer that computes every pairwise AND of sparse Boolean inputs at once.

Neuron i = ReLU(Σ_{j ∈ S_i} x_j − 1) with random sets S_i of probability q; the AND of (j, k) is read as the mean over
the neurons whose set has both. Nothing is trained. Vaintrob, Mendel & Hänni 2024; Hänni et al. 2024.
"""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")
BLOCK_ELEMENTS = 1 << 23
"""Maximum number of mask entries drawn at once, over all networks; neurons beyond it are drawn in further blocks."""


class UniversalAnd(nn.Module):
    """Reads of every pair from h = ReLU(Σ_{j ∈ S_i} x_j − 1); `hidden` is h.

    Args:
        masks: 1 where feature j is in S_i, else 0.
    """

    masks: Tensor

    def __init__(self, masks: Float[Tensor, "neuron feature"]):
        super().__init__()
        self.register_buffer("masks", masks.clone())
        self.hidden = nn.ReLU()

    def forward(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row pair"]:
        hidden = self.hidden(x @ self.masks.T - 1)
        first, second = pairs(self.masks.shape[1])
        # One pair at a time would be 𝒪(pair · neuron): the products of masks are one matmul for each row.
        summed = torch.stack([(self.masks * h[:, None]).T @ self.masks for h in hidden])
        return summed[:, first, second] / (self.masks.T @ self.masks)[first, second]


class UniversalAndToy(Toy):
    """Random networks of one size, one for each seed; they are made, not trained."""

    title: ClassVar[str] = "Universal AND: computation in superposition"
    paper: ClassVar[str] = (
        "Vaintrob, Mendel & Hänni 2024, Toward a Mathematical Framework for Computation in Superposition"
    )

    n_features: int = Field(default=16, ge=4, le=2**12)
    n_neurons: Width = 16_000
    q: float = Field(default=0.1, gt=0, lt=1)
    """Probability that a feature is in a neuron's set."""
    active: int = Field(default=6, ge=2, le=2**12)
    """Number of features that are on, s."""
    circuit_width: int = Field(default=48, ge=8, le=2**12)
    """Number of gates in each layer of a chained circuit."""
    depth: int = Field(default=8, ge=2, le=1000)
    """Number of layers of a chained circuit."""
    seeds: Annotated[Seeds, Field(min_length=2)] = tuple(range(32))

    @model_validator(mode="after")
    def _fits(self) -> "UniversalAndToy":
        if self.active > self.n_features - 2:
            raise ValueError(f"active = {self.active} of n_features = {self.n_features} leaves no pair that is off")
        if math.comb(self.active, 2) < self.active and self.active > 2:
            raise ValueError("a circuit keeps as many gates on as inputs: active must be 2 or at least 3")
        if self.circuit_width < self.active + 2:
            raise ValueError(f"circuit_width = {self.circuit_width} must exceed active = {self.active} by 2 or more")
        if self.n_neurons * self.q**2 < 1:
            raise ValueError("n_neurons · q² < 1: most pairs share no neuron, and their AND cannot be read")
        return self

    def build(self) -> UniversalAnd:
        """A network without connections."""
        return UniversalAnd(torch.zeros(self.n_neurons, self.n_features))

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """The networks of all seeds; they are made, not trained."""
        first, second = pairs(self.n_features)
        names = tuple(f"x{j} & x{k}" for j, k in zip(first.tolist(), second.tolist(), strict=True))
        progress = reporter.task("universal AND", len(self.seeds), "networks")
        toys: list[TrainedToy] = []
        for i, seed in enumerate(self.seeds):
            masks = torch.cat([block[0] for block in mask_blocks(self, (seed,))]).float()
            directions = masks.T[first] * masks.T[second]
            truth = Truth(SITE, names, directions, computed_at="hidden", cause="computation_in_superposition")
            toys.append(TrainedToy(UniversalAnd(masks), truth, self.draw, seed, {}, loss=0.0, ceiling=0.0))
            progress.update(i + 1)
        return toys

    def draw(self, n: int, generator: torch.Generator) -> Sample:
        """Rows with `active` features on, and the AND of every pair."""
        x = active_inputs(Draws.one(generator), n, self.n_features, self.active)[0]
        first, second = pairs(self.n_features)
        return Sample(inputs=x, features=x[:, first] * x[:, second])


def pairs(n: int) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """First and second of every pair j < k."""
    first, second = torch.triu_indices(n, n, offset=1)
    return first, second


def active_inputs(draws: Draws, n: int, n_features: int, s: int) -> Float[Tensor, "instance row feature"]:
    """Rows of n_features bits of which exactly s are on, uniformly at random."""
    order = draws.uniform(n, n_features).argsort(-1)
    return torch.zeros(order.shape).scatter_(-1, order[..., :s], 1.0)


def mask_blocks(
    config: UniversalAndToy, seeds: tuple[int, ...], *names: str, width: int | None = None
) -> Iterator[Bool[Tensor, "instance neuron feature"]]:
    """The sets S_i of every network, in blocks of neurons.

    Args:
        config: the number of neurons, and q.
        seeds: one for each network.
        names: the name of the layer, if a network has several.
        width: number of features; None takes the config's.
    """
    width = width or config.n_features
    # The size of a block must not depend on how many networks are drawn together, or their numbers would.
    block = max(1, BLOCK_ELEMENTS // (width * 64))
    draws = Draws([derive_seed(seed, "universal and", *names) for seed in seeds], "masks")
    for start in range(0, config.n_neurons, block):
        yield draws.uniform(min(block, config.n_neurons - start), width) < config.q


def expected_reads(s: int, q: float) -> dict[str, float]:
    """Mean read-off of a pair with both, one or none of its features on, where s features are on.

    Both: 1 + (s − 2)q. One: (s − 1)q. None: E[(Bin(s, q) − 1)₊] = sq − 1 + (1 − q)^s.
    """
    return {"both": 1 + (s - 2) * q, "one": (s - 1) * q, "none": s * q - 1 + (1 - q) ** s}


def enumerated_reads(s: int, q: float) -> dict[str, float]:
    """The same means as sums over every set of the other features that are on."""

    def mean(on_in_pair: int) -> float:
        others, total = s - on_in_pair, 0.0
        for size in range(others + 1):
            for _ in combinations(range(others), size):
                total += q**size * (1 - q) ** (others - size) * max(0, on_in_pair + size - 1)
        return total

    return {"both": mean(2), "one": mean(1), "none": mean(0)}


def deviation(s: int, q: float, n_neurons: int) -> float:
    """Standard deviation of the read-off of a pair with one feature on: √((s − 1)(1 − q) / (dq))."""
    return math.sqrt((s - 1) * (1 - q) / (n_neurons * q))


def exact_deviation(s: int, q: float, n_neurons: int) -> float:
    """The same with N ~ Bin(d, q²) neurons that have both features, given N > 0: √((s − 1)q(1 − q) E[1/N])."""
    import numpy as np
    from scipy import stats

    count = np.arange(1, n_neurons + 1)
    weight = stats.binom.pmf(count, n_neurons, q * q)
    return math.sqrt((s - 1) * q * (1 - q) * float((weight / count).sum() / weight.sum()))


def reads(
    config: UniversalAndToy, x: Float[Tensor, "instance feature"], seeds: tuple[int, ...], *names: str
) -> Float[Tensor, "instance pair"]:
    """Read-offs of every pair, one input to each network; NaN where no neuron has both features.

    The networks are made in blocks of neurons and thrown away, so that their memory does not grow with n_neurons.
    """
    n = x.shape[-1]
    summed, shared = torch.zeros(len(seeds), n, n), torch.zeros(len(seeds), n, n)
    for block in mask_blocks(config, seeds, *names, width=n):
        masks = block.float()
        hidden = torch.relu((masks @ x[..., None]) - 1)
        summed += (masks * hidden).mT @ masks
        shared += masks.mT @ masks
    first, second = pairs(n)
    return (summed / shared)[:, first, second]
