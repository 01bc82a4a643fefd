"""Toy model of superposition: more sparse features than dimensions.

x' = ReLU(WᵀWx + b) with x_i ~ U[0, 1] of probability p, else 0; loss Σ_i I_i (x_i − x'_i)². Elhage et al. 2022.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.core.site import Site
from polyseme.zoo.tools.geometry import haar
from polyseme.zoo.tools.neurons import MONOSEMANTIC
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.tied import tied_loss
from polyseme.zoo.tools.toy import Cause, Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")
REPRESENTED = 0.5
"""A feature is represented if its vector is longer than this: dropped ones end near 0, kept ones at 1 or more."""
ORTHOGONAL, OVERLAPPING = 0.1, 0.2
"""Largest |cosine| of features that do not share a dimension, and smallest of features that do."""
SLACK = 1.1
"""Factor on the ceiling of the loss: the loss is a mean over batches, with weight decay."""
MOST_STRATA = 64
"""Number of sets of features on together up to which the final loss is computed set by set."""


class ReluOutput(nn.Module):
    """x' = ReLU(Wᵀh + b), where `hidden` gives h = Wx, or h = ReLU(Wx) in a privileged basis."""

    def __init__(self, W: Float[Tensor, "d feature"], b: Float[Tensor, " feature"], *, privileged: bool = False):
        super().__init__()
        self.W, self.b = nn.Parameter(W.clone()), nn.Parameter(b.clone())
        self.hidden = nn.ReLU() if privileged else nn.Identity()

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return torch.relu(self.hidden(x @ self.W.T) @ self.W + self.b)


class SuperpositionToy(Toy):
    """Every density with every importance and every seed: one network each, trained as one stack."""

    title: ClassVar[str] = "toy model of superposition"
    paper: ClassVar[str] = "Elhage et al. 2022, Toy Models of Superposition (arXiv 2209.10652)"

    n_features: Width = 5
    n_hidden: Width = 2
    density: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.05,), min_length=1, max_length=1000)
    """Probability p that a feature is on; one network each."""
    importance: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(default=(1.0,), min_length=1, max_length=1000)
    """Base of the importance: the weight of feature i in the loss, I_i, is this to the power i."""
    correlation: Literal["none", "correlated", "anticorrelated"] = "none"
    """Whether features 2i and 2i + 1 are independent, always on together, or never on together."""
    basis: Literal["free", "relu", "aligned", "rotated"] = "free"
    """Hidden axes: as training leaves them (`free`); privileged by a ReLU on the hidden layer (`relu`); or turned after
    the training, which changes no output, onto the features as far as possible (`aligned`) or at random (`rotated`)."""
    seeds: Seeds = tuple(range(24))
    batch: Width = 1024
    optimiser: OptimiserConfig = OptimiserConfig(steps=5_000, lr=5e-3)

    @model_validator(mode="after")
    def _possible(self) -> "SuperpositionToy":
        if self.n_hidden > self.n_features:
            raise ValueError(f"{self.n_hidden} dimensions for {self.n_features} features: give at most as many")
        if self.correlation != "none" and self.n_features % 2:
            raise ValueError(f"{self.n_features} features do not make pairs: give an even number")
        if self.correlation == "anticorrelated" and max(self.density) > 0.5:
            raise ValueError("of two features that are never on together, each is on at most half of the time")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("two seeds are the same")
        return self

    def build(self) -> ReluOutput:
        """An untrained network."""
        zeros = torch.zeros(self.n_hidden, self.n_features)
        return ReluOutput(zeros, zeros[0], privileged=self.basis == "relu")

    @property
    def grid(self) -> Grid:
        """Every density with every importance and every seed."""
        return Grid(self.seeds, density=self.density, importance=self.importance)

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every network, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"x{j}" for j in range(self.n_features))

        def truth(i: int) -> Truth:
            directions = stack.vectors[i].contiguous()
            why = cause(directions, self.correlation) if stack.trained[i] else None
            return Truth(SITE, names, directions, cause=why)

        return stack.toys(self.build, truth, lambda i: partial(self._draw, stack.grid.settings[i]["density"]))

    def _draw(self, density: float, n: int, generator: torch.Generator) -> Sample:
        x = features(self, Draws.one(generator), torch.tensor([density]), n)[0]
        return Sample(inputs=x, features=x)


def importances(importance: float | Float[Tensor, "instance 1"], n_features: int) -> Float[Tensor, "*instance feature"]:
    """I of every feature."""
    return importance ** torch.arange(n_features, dtype=torch.float32)


def ceiling(config: SuperpositionToy, density: float, importance: float) -> float:
    """The loss of the best of some hand-made networks, and a tenth more: a network above it did not train.

    Of m dimensions, a carry an antipodal pair of independent features each, at p²(I + I')/6; m − a carry one feature
    without loss; each feature left over costs its variance, I (p/3 − p²/4). The cost of predicting the mean alone would
    not do: at low density random weights are better than that.
    """
    p, n, m = density, config.n_features, config.n_hidden
    weights = importances(importance, n).tolist()
    if config.correlation != "none":
        weights = weights[::2] + weights[1::2]  # neighbours are then no partners, but for n = 2
    pairable = config.basis != "relu" and (config.correlation == "none" or n > 2)
    costs: list[float] = []
    for pairs in range(min(m, n - m) + 1 if pairable else 1):
        alone = m - pairs
        carried = alone + 2 * pairs
        shared = sum(weights[alone:carried]) * p * p / 6
        costs.append(shared + sum(weights[carried:]) * (p / 3 - p * p / 4))
    return SLACK * min(costs)


@dataclass(frozen=True)
class Networks(Stack):
    """Networks of one config, after or before their training."""

    config: SuperpositionToy

    @classmethod
    def of(
        cls,
        config: SuperpositionToy,
        W: Float[Tensor, "instance d feature"],
        b: Float[Tensor, "instance feature"],
        loss: Float[Tensor, " instance"],
    ) -> "Networks":
        """Networks with these weights and losses."""
        ceilings = torch.tensor([ceiling(config, **setting) for setting in config.grid.settings])
        return cls({"W": W, "b": b}, loss, config.grid, ceilings, config)

    @property
    def W(self) -> Float[Tensor, "instance d feature"]:  # noqa: N802  as in the formulas
        """The weights."""
        return self.parameters["W"]

    @property
    def b(self) -> Float[Tensor, "instance feature"]:
        """The biases."""
        return self.parameters["b"]

    @property
    def vectors(self) -> Float[Tensor, "instance feature d"]:
        """What each feature alone writes to the hidden layer at value 1."""
        return torch.relu(self.W.mT) if self.config.basis == "relu" else self.W.mT

    @property
    def densities(self) -> Float[Tensor, " instance"]:
        """The density of each network's data."""
        return self.grid.values("density")

    @property
    def unmeasured(self) -> str:
        """`untrained`, where fewer than half of the networks trained: too few to leave the others out."""
        return self.untrained if 2 * int(self.trained.sum()) < len(self) else ""

    @property
    def left_out(self) -> str:
        """What the note of a check of the trained networks adds about the others."""
        return f"; left out: {self.untrained}" if self.untrained else ""


def features(
    config: SuperpositionToy, draws: Draws, density: Float[Tensor, " instance"], n: int
) -> Float[Tensor, "instance row feature"]:
    """`n` rows of features: U[0, 1) with probability p, else 0, in the pairs of the config.

    Elhage et al. 2022, "Problem setup" and "Correlated and anticorrelated features".
    """
    if config.correlation == "none":
        return draws.sparse_uniform(density, n, config.n_features)
    u = draws.uniform(n, config.n_features // 2)
    p = density[:, None, None]
    if config.correlation == "correlated":
        mask = torch.stack([u < p, u < p], dim=-1)
    else:
        mask = torch.stack([u < p, u >= 1 - p], dim=-1)
    return draws.uniform(n, config.n_features) * mask.flatten(-2)


def final_loss(
    config: SuperpositionToy,
    W: Float[Tensor, "instance d feature"],
    b: Float[Tensor, "instance feature"],
    last: Float[Tensor, " instance"],
    *,
    n_rows: int = 4096,
) -> Float[Tensor, " instance"]:
    """The expected loss, by strata of which features are on where these are few; else the mean of the last batches.

    Of sparse features, those on together make most of the loss and are in hardly any row: at a density of 0.0025, 200
    batches hold one row with two pairs on, and their mean is off by a factor of ten.

    Args:
        config: the data.
        W, b: the networks.
        last: the mean loss of the last batches.
        n_rows: values drawn for each stratum.
    """
    states = {"none": ((0,), (1,)), "correlated": ((0, 0), (1, 1)), "anticorrelated": ((0, 0), (1, 0), (0, 1))}
    of_unit = torch.tensor(states[config.correlation], dtype=torch.float32)
    units = config.n_features // of_unit.shape[1]
    if len(of_unit) ** units > MOST_STRATA:
        return last
    grid = config.grid
    density = torch.tensor([setting["density"] for setting in grid.settings], dtype=torch.float64)
    importance = importances(grid.values("importance")[:, None], config.n_features).double()
    on = density[:, None].expand(-1, len(of_unit) - 1)
    chance = torch.cat([1 - on.sum(1, keepdim=True), on], dim=1)
    values = torch.rand(n_rows, config.n_features, generator=make_generator(0, "superposition strata")).double()
    total = torch.zeros(len(grid), dtype=torch.float64)
    weights, bias = W.detach().double(), b.detach().double()
    for stratum in itertools.product(range(len(of_unit)), repeat=units):
        x = values * of_unit[list(stratum)].flatten()
        hidden = x @ weights.mT
        out = torch.relu((torch.relu(hidden) if config.basis == "relu" else hidden) @ weights + bias[:, None])
        error = ((x - out).square().mean(1) * importance).sum(-1)
        total += chance[:, list(stratum)].prod(1) * error
    return total.float()


def initial(config: SuperpositionToy) -> tuple[Float[Tensor, "instance d feature"], Float[Tensor, "instance feature"]]:
    """W and b of every network of a config before its training."""
    scale = math.sqrt(2 / (config.n_features + config.n_hidden))  # Xavier, as in the released notebook
    W = scale * Draws(config.grid.derived("superposition"), "initial").normal(config.n_hidden, config.n_features)
    return W, torch.zeros(len(W), config.n_features)


def train(config: SuperpositionToy, reporter: Reporter, *, name: str = "networks") -> Networks:
    """Train every network of a config at once."""
    grid, (W, b) = config.grid, initial(config)
    seeds, density = grid.derived("superposition"), grid.values("density")
    draws, importance = Draws(seeds, "data"), importances(grid.values("importance")[:, None], config.n_features)

    def loss(_: int) -> Tensor:
        x = features(config, draws, density, config.batch)
        return tied_loss(W, b, x, of_row=1 / config.batch, of_feature=importance, privileged=config.basis == "relu")

    history = train_stack({"W": W, "b": b}, loss, config.optimiser, reporter=reporter, name=name)
    last = final_loss(config, W, b, history.final)
    if config.basis not in ("aligned", "rotated"):
        return Networks.of(config, W, b, last)
    turns = [_turn(vectors, config.basis, seed) for vectors, seed in zip(W.mT, seeds, strict=True)]
    return Networks.of(config, torch.stack(turns) @ W, b, last)


def _turn(vectors: Float[Tensor, "feature d"], to: str, seed: int) -> Float[Tensor, "d d"]:
    """An orthogonal matrix: a Haar one, or the one that best takes the d most separate features onto axes, in any
    order.

    The nearest orthogonal matrix is the polar factor of M, whose rows are those features (Schönemann 1966).
    """
    generator = make_generator(seed, "basis")
    d = vectors.shape[1]
    if to == "rotated":
        return haar(d, generator).float()
    left = vectors.double().clone()
    chosen: list[int] = []
    for _ in range(d):
        # Greedy: the longest of what the chosen ones leave over.
        chosen.append(int(left.norm(dim=1).argmax()))
        axis = torch.nn.functional.normalize(left[chosen[-1]], dim=0)
        left = left - (left @ axis)[:, None] * axis
    order = torch.randperm(d, generator=generator)
    U, _, Vh = torch.linalg.svd(torch.nn.functional.normalize(vectors.double()[chosen], dim=1)[order])
    return (U @ Vh).float()


def cause(vectors: Float[Tensor, "feature d"], correlation: str = "none") -> Cause | None:
    """Why neurons are polysemantic, from the vectors of the features that are represented.

    Features that share no dimension are `aligned` where each has its own neuron and `rotated` where not; features that
    do are in `superposition`, and `correlated` where only partners that are always on together do, along one direction.

    Returns:
        None where overlaps are between `ORTHOGONAL` and `OVERLAPPING`, or nothing is represented.
    """
    norms = vectors.norm(dim=1)
    kept = norms > REPRESENTED
    if not kept.any():
        return None
    unit = vectors[kept] / norms[kept, None]
    index = torch.arange(len(vectors))[kept]
    overlap = (unit @ unit.T).fill_diagonal_(0)
    if correlation == "correlated":
        partners = (index[:, None] // 2 == index // 2) & (overlap > 1 - ORTHOGONAL)
        if partners.any() and float(overlap[~partners].abs().max()) <= ORTHOGONAL:
            return "correlated"
    largest = float(overlap.abs().max())
    if largest >= OVERLAPPING:
        return "superposition"
    if largest > ORTHOGONAL:
        return None
    return "aligned" if float(unit.square().amax(1).min()) >= MONOSEMANTIC else "rotated"
