"""Toy model of superposition: more sparse features than dimensions.

x' = ReLU(WᵀWx + b) with x_i ~ U[0, 1] of probability p, else 0; loss Σ_i I_i (x_i − x'_i)². Elhage et al. 2022.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from polyseme.core.config import Config
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.toys.checks import Check, Experiment, check, mean_interval, share_interval
from polyseme.toys.geometry import dimensionality, gaps
from polyseme.toys.stack import Draws, History, OptimiserConfig, train_stack
from polyseme.toys.toy import Sample, TrainedToy, Truth

PAPER = "Elhage et al. 2022, Toy Models of Superposition"
SITE = Site(path="hidden")


class ReluOutput(nn.Module):
    """x' = ReLU(WᵀWx + b); `hidden` is Wx.

    Args:
        W: `[d_hidden, feature]`.
        b: `[feature]`.
    """

    def __init__(self, W: Float[Tensor, "d feature"], b: Float[Tensor, " feature"]):
        super().__init__()
        self.W, self.b = nn.Parameter(W.clone()), nn.Parameter(b.clone())
        self.hidden = nn.Identity()

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return torch.relu(self.hidden(x @ self.W.T) @ self.W + self.b)


class SuperpositionToy(Config):
    """Networks of one density, or of several, and of several seeds."""

    title: ClassVar[str] = "toy model of superposition"
    paper: ClassVar[str] = PAPER

    n_features: PositiveInt = 5
    n_hidden: PositiveInt = 2
    density: tuple[float, ...] = (0.05,)
    """Probability p that a feature is on; every density is trained with every seed."""
    importance: float = Field(default=1.0, gt=0, le=1)
    """I_i is this to the power i."""
    correlation: Literal["none", "correlated", "anticorrelated"] = "none"
    """Features 2i and 2i + 1 on together, or never together."""
    seeds: tuple[int, ...] = tuple(range(24))
    batch: PositiveInt = 1024
    optimiser: OptimiserConfig = OptimiserConfig(steps=5_000, lr=5e-3)

    def build(self) -> ReluOutput:
        """An untrained network."""
        return ReluOutput(torch.zeros(self.n_hidden, self.n_features), torch.zeros(self.n_features))

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every density with every seed, as one stack."""
        stack = train(self, reporter)
        importance = self.importances()
        toys: list[TrainedToy] = []
        for i, (density, seed) in enumerate(stack.settings):
            W = stack.W[i]
            toys.append(
                TrainedToy(
                    module=ReluOutput(W, stack.b[i]),
                    truth=Truth(
                        site=SITE, features=tuple(f"x{j}" for j in range(self.n_features)), directions=W.T.contiguous()
                    ),
                    draw=self._draw(density),
                    seed=seed,
                    setting={"density": density},
                    loss=float(stack.history.final[i]),
                    # Leaving every feature out costs E[x²] = p / 3 each: a network that does no better did not train.
                    ceiling=float(importance.sum()) * density / 3,
                )
            )
        return toys

    def importances(self) -> Float[Tensor, " feature"]:
        """I of every feature."""
        return self.importance ** torch.arange(self.n_features, dtype=torch.float32)

    experiments: ClassVar[tuple[Experiment, ...]]
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]] = {}

    def _draw(self, density: float) -> Callable[[int, torch.Generator], Sample]:
        def draw(n: int, generator: torch.Generator) -> Sample:
            draws = Draws([int(torch.randint(2**62, (), generator=generator))])
            x = features(self, draws, torch.tensor([density]), n)[0]
            return Sample(inputs=x, features=x)

        return draw


def features(
    config: SuperpositionToy, draws: Draws, density: Float[Tensor, " instance"], n: int
) -> Float[Tensor, "instance row feature"]:
    """Rows of features; of a correlated pair both are on, of an anticorrelated pair one of them, with probability p."""
    if config.correlation == "none":
        return draws.sparse_uniform(density, n, config.n_features)
    on = draws.uniform(n, config.n_features // 2) < density[:, None, None]
    if config.correlation == "correlated":
        mask = torch.stack([on, on], dim=-1)
    else:
        first = draws.uniform(n, config.n_features // 2) < 0.5
        mask = torch.stack([on & first, on & ~first], dim=-1)
    return draws.uniform(n, config.n_features) * mask.flatten(-2)


class Trained:
    """A stack after its training.

    Attributes:
        W: `[instance, d_hidden, feature]`.
        b: `[instance, feature]`.
        settings: density and seed of each instance.
        history: of the loss.
    """

    def __init__(self, W: Tensor, b: Tensor, settings: list[tuple[float, int]], history: History):
        self.W, self.b, self.settings, self.history = W, b, settings, history

    @property
    def vectors(self) -> Float[Tensor, "instance feature d"]:
        """W_i of every feature."""
        return self.W.mT


def train(config: SuperpositionToy, reporter: Reporter | None = None) -> Trained:
    """Train every density with every seed at once."""
    settings = [(p, seed) for p in config.density for seed in config.seeds]
    density = torch.tensor([p for p, _ in settings])
    seeds = [derive_seed(seed, "superposition", str(p)) for p, seed in settings]
    scale = math.sqrt(2 / (config.n_features + config.n_hidden))  # Xavier, as in the released notebook
    W = scale * Draws(seeds, "initial").normal(config.n_hidden, config.n_features)
    b = torch.zeros(len(settings), config.n_features)
    draws, importance = Draws(seeds, "data"), config.importances()

    def loss(_: int) -> Tensor:
        x = features(config, draws, density, config.batch)
        out = torch.relu(torch.baddbmm(b[:, None], x @ W.mT, W))
        return ((x - out).square() * importance).sum(-1).mean(-1)

    history = train_stack({"W": W, "b": b}, loss, config.optimiser, reporter=reporter or Silent())
    return Trained(W, b, settings, history)


def pentagon(config: SuperpositionToy, reporter: Reporter) -> Sequence[Check]:
    """Five features in two dimensions at p = .05 end as a regular pentagon."""
    config = config.model_copy(update={"n_features": 5, "n_hidden": 2, "density": (0.05,), "correlation": "none"})
    stack = train(config, reporter)
    angle, D = gaps(stack.vectors), dimensionality(stack.vectors)
    regular = ((angle - 72).abs() <= 4).all(-1)
    share = ((D - 0.4).abs() <= 0.015).all(-1)
    n = len(stack.settings)
    angles, angles_interval = share_interval(int(regular.sum()), n)
    shares, shares_interval = share_interval(int(share.sum()), n)
    norm, norm_interval = mean_interval(stack.vectors.norm(dim=-1).mean(-1).numpy())
    return [
        check(
            "networks whose five gaps are all 72° ± 4°",
            angles,
            reference="≥ 0.90",
            source="proposed",
            paper=PAPER,
            at_least=0.9,
            interval=angles_interval,
            n=n,
            note=f"gaps {float(angle.min()):.1f}° to {float(angle.max()):.1f}°",
        ),
        check(
            "networks whose five dimensionalities are all 0.40 ± 0.015",
            shares,
            reference="≥ 0.90",
            source="proposed",
            paper=PAPER,
            at_least=0.9,
            interval=shares_interval,
            n=n,
            note=f"D {float(D.min()):.3f} to {float(D.max()):.3f}",
        ),
        check(
            "mean norm of a feature's vector",
            norm,
            reference="1.13 (± 0.02)",
            source="computed",
            paper=PAPER,
            at_least=1.11,
            at_most=1.15,
            interval=norm_interval,
            n=n,
        ),
    ]


SuperpositionToy.experiments = (
    Experiment("pentagon", "fast", "five features in two dimensions form a regular pentagon", pentagon),
)
