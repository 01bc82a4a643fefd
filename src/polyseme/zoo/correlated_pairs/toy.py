"""Correlated features that share a neuron: three pairs in three hidden dimensions, correlation varied.

x' = ReLU(Wᵀf(Wx) + b), f the identity or ReLU; the first of a pair is U[0, 1] with probability p, else 0, and the
second is its copy with probability ρ, else an independent draw: a pair's correlation is ρ and no margin depends on it.
The model is that of Elhage et al. 2022 ("Correlated and anticorrelated features"), whose pairs share only when they
are on.

With as many dimensions as pairs, features can be two to a dimension in two ways. Opposite partners from different
pairs cost p²/3 a dimension; the two of a pair added up cost (1 − ρ)(p/3 − p²/4). So they change places at
ρ* = (4 − 7p)/(4 − 3p): the same number of features in each dimension, below by superposition, above by correlation.
"""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Seeds, Share, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.zoo.superposition.toy import ReluOutput
from polyseme.zoo.tools.checks import NOTHING, Check, Experiment, Line, Value, fill, mean, share
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.neurons import MONOSEMANTIC, largest_share
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Cause, Entry, Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")
ALONG = 0.9
"""Two features share a direction where the cosine of their vectors is above this."""


class CorrelatedPairsToy(Toy):
    """Networks of several correlations and seeds."""

    title: ClassVar[str] = "correlated features that share a neuron"
    paper: ClassVar[str] = "Elhage et al. 2022, Toy Models of Superposition"

    n_pairs: Width = 3
    n_hidden: Width = 3
    density: float = Field(default=0.2, gt=0, le=1)
    """Probability p that a feature is on."""
    rho: tuple[Share, ...] = Field(default=(0.0, 0.5, 0.9), min_length=1, max_length=1000)
    """Correlation of the two features of a pair; every one is trained with every seed."""
    hidden: Literal["linear", "relu"] = "relu"
    """`relu` makes the hidden layer one of neurons; of a linear one every rotation is as good."""
    seeds: Seeds = tuple(range(12))
    batch: Width = 512
    optimiser: OptimiserConfig = OptimiserConfig(steps=3_000, lr=5e-3, schedule="cosine")

    def build(self) -> ReluOutput:
        zeros = torch.zeros(self.n_hidden, 2 * self.n_pairs)
        module = ReluOutput(zeros, zeros[0])
        if self.hidden == "relu":
            module.hidden = nn.ReLU()
        return module

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every correlation with every seed, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"{pair}{which}" for pair in range(self.n_pairs) for which in "ab")

        def truth(i: int) -> Truth:
            W = stack.parameters["W"][i]
            return Truth(SITE, names, W.T.contiguous(), cause=self._cause(W))

        return stack.toys(self.build, truth, lambda i: partial(self._draw, stack.grid.settings[i]["rho"]))

    @property
    def ceiling(self) -> float:
        """Midway between the variance of all features and what keeping one a dimension leaves of it."""
        kept = min(1.0, self.n_hidden / (2 * self.n_pairs))
        return (1 - kept / 2) * 2 * self.n_pairs * (self.density / 3 - self.density**2 / 4)

    def _cause(self, W: Tensor) -> Cause | None:
        """From the weights: each neuron holds one pair, or some vectors are opposite, or it is not known."""
        if bool(sharing(W).all()) and bool(held(W).all()):
            return "correlated"
        return "superposition" if bool((cosines(W) < -ALONG).any()) else None

    def _draw(self, rho: float, n: int, generator: torch.Generator) -> Sample:
        x = features(self, Draws.one(generator), torch.tensor([rho]), n)[0]
        return Sample(inputs=x, features=x)


def features(
    config: CorrelatedPairsToy, draws: Draws, rho: Float[Tensor, " instance"], n: int
) -> Float[Tensor, "instance row feature"]:
    """Rows of features, those of pair i in columns 2i and 2i + 1."""
    p = torch.full_like(rho, config.density)
    first, second = draws.sparse_uniform(p, 2, n, config.n_pairs).unbind(1)
    copied = draws.uniform(n, config.n_pairs) < rho[:, None, None]
    return torch.stack([first, torch.where(copied, first, second)], dim=-1).flatten(-2)


def train(config: CorrelatedPairsToy, reporter: Reporter) -> Stack:
    """Train every correlation with every seed at once."""
    grid, n = Grid(config.seeds, rho=config.rho), 2 * config.n_pairs
    seeds, rho = grid.derived("correlated_pairs"), grid.values("rho")
    W = math.sqrt(2 / (n + config.n_hidden)) * Draws(seeds, "initial").normal(config.n_hidden, n)
    b, draws = torch.zeros(len(grid), n), Draws(seeds, "data")

    def loss(_: int) -> Tensor:
        x = features(config, draws, rho, config.batch)
        hidden = x @ W.mT
        hidden = torch.relu(hidden) if config.hidden == "relu" else hidden
        return (x - torch.relu(torch.baddbmm(b[:, None], hidden, W))).square().sum(-1).mean(-1)

    history = train_stack({"W": W, "b": b}, loss, config.optimiser, reporter=reporter)
    return Stack({"W": W, "b": b}, history.final, grid, config.ceiling)


def cosines(W: Float[Tensor, "*batch d feature"]) -> Float[Tensor, "*batch feature feature"]:
    """Cosine between the vectors of every two features."""
    unit = torch.nn.functional.normalize(W, dim=-2)
    return unit.mT @ unit


def partners(W: Float[Tensor, "*batch d feature"]) -> Float[Tensor, "*batch pair"]:
    """Cosine between the vectors of the two features of each pair."""
    unit = torch.nn.functional.normalize(W, dim=-2)
    return (unit[..., 0::2] * unit[..., 1::2]).sum(-2)


def sharing(W: Float[Tensor, "*batch d feature"]) -> Bool[Tensor, "*batch pair"]:
    """Whether the two features of each pair share a direction."""
    return partners(W) > ALONG


def held(W: Float[Tensor, "*batch d feature"]) -> Bool[Tensor, "*batch d"]:
    """Whether one pair holds at least 90% of a neuron's squared weights."""
    return largest_share(W.unflatten(-1, (-1, 2)).norm(dim=-1)) >= MONOSEMANTIC


def sharing_neurons(W: Float[Tensor, "*batch d feature"]) -> Bool[Tensor, "*batch d"]:
    """Whether a neuron holds one pair, whose two features share a direction."""
    pair = W.unflatten(-1, (-1, 2)).norm(dim=-1).argmax(-1)
    return held(W) & sharing(W).gather(-1, pair)


PACKED = Line(
    "loss of a dimension with {what}, p = {p:g}",
    "{formula} = {target:.5f} (± 0.01%)",
    within=1e-12,
    relative=1e-4,
    source="derived",
)
CHANGE = Line(
    "correlation at which half of the pairs share a direction",
    "ρ* = (4 − 7p)/(4 − 3p) = {target:.3f} (± 15%)",
    relative=0.15,
    source="derived",
)
AT_ZERO = Line("pairs that share one at ρ = 0", "0", at_most=0, source="derived", n_unit="pairs")
_PAIRS, _NEURONS = (
    "pairs that share a direction at ρ = {rho:g}",
    "neurons that hold one pair and nothing else at ρ = {rho:g}",
)
CORRELATED = (Line(_PAIRS, "≥ 0.90", 0.9, 1, n_unit="pairs"), Line(_NEURONS, "≥ 0.90", 0.9, 1, n_unit="neurons"))
INDEPENDENT = (
    Line(_PAIRS, "< 0.90", 0, math.nextafter(0.9, 0), n_unit="pairs"),
    Line(_NEURONS, "< 0.90", 0, math.nextafter(0.9, 0), n_unit="neurons"),
)


def opposite_loss(p: float) -> float:
    """Loss of one dimension with two independent features at +1 and −1: p²/3, whatever the correlation of others."""
    return p * p / 3


def shared_loss(p: float, rho: float) -> float:
    """Loss of one dimension with a pair at (1, 1)/√2: (1 − ρ)(p/3 − p²/4)."""
    return (1 - rho) * (p / 3 - p * p / 4)


def boundary(p: float) -> float:
    """ρ* = (4 − 7p)/(4 − 3p), where both cost the same; 0 for p ≥ 4/7."""
    return max(0.0, (4 - 7 * p) / (4 - 3 * p))


def dimension_loss(w: tuple[float, float], p: float, rho: float, *, n: int = 1_000) -> float:
    """Loss of two features of correlation ρ in one dimension, by the midpoint rule over the four ways to be on.

    Args:
        w: what each writes to the dimension; no biases.
        p: probability that a feature is on.
        rho: their correlation.
        n: points an axis.
    """
    network = ReluOutput(torch.tensor([w], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    axis, zero = (torch.arange(n, dtype=torch.float64) + 0.5) / n, torch.zeros(n, dtype=torch.float64)
    ways = (
        (rho * p, torch.stack([axis, axis], dim=-1)),
        ((1 - rho) * p * p, torch.cartesian_prod(axis, axis)),
        ((1 - rho) * p * (1 - p), torch.stack([axis, zero], dim=-1)),
        ((1 - rho) * p * (1 - p), torch.stack([zero, axis], dim=-1)),
    )
    with torch.no_grad():
        return sum(chance * float((x - network(x)).square().sum(-1).mean()) for chance, x in ways)


def algebra(config: CorrelatedPairsToy, _: Reporter) -> list[Check]:
    """Loss of a dimension with two opposite features of different pairs, and with a pair added up."""
    p, half = config.density, math.sqrt(0.5)
    ways = [("two opposite features", "p²/3", dimension_loss((1.0, -1.0), p, 0.0), opposite_loss(p))]
    for rho in config.rho:
        what = f"a pair added up at ρ = {rho:g}"
        ways.append((what, "(1 − ρ)(p/3 − p²/4)", dimension_loss((half, half), p, rho), shared_loss(p, rho)))
    return [PACKED.fill(Value(v), target=loss, what=what, p=p, formula=formula) for what, formula, v, loss in ways]


def change(config: CorrelatedPairsToy, reporter: Reporter) -> list[Check]:
    """Where trained pairs begin to share a direction, beside ρ*."""
    star = boundary(config.density)
    if star <= 0 or config.n_hidden != config.n_pairs:
        return _unchanged(star, "derived for p < 4/7 and as many dimensions as pairs")
    rho = tuple(np.unique(np.clip([0.0, *(star * f for f in (0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2))], 0, 1)).tolist())
    stack = train(config.model_copy(update={"rho": rho, "hidden": "linear"}), reporter)
    if stack.untrained:
        return _unchanged(star, stack.untrained)
    shares = sharing(stack.parameters["W"]).double().mean(-1).reshape(len(rho), -1)
    found = crossing(np.asarray(rho), shares.mean(-1).numpy())
    spread = mean([crossing(np.asarray(rho), column) for column in shares.T.numpy()])
    each = ", ".join(f"{s:.2f} at {r:.2f}" for r, s in zip(rho, shares.mean(-1), strict=True))
    return [
        CHANGE.fill(Value(found, len(stack), spread.interval, f"share of pairs: {each}"), target=star),
        AT_ZERO.fill(share(sharing(stack.parameters["W"][: len(config.seeds)]))),
    ]


def _unchanged(star: float, why: str) -> list[Check]:
    return [CHANGE.fill(NOTHING, why, target=star), AT_ZERO.fill(NOTHING, why)]


def crossing(rho: Float[np.ndarray, " n"], share: Float[np.ndarray, " n"]) -> float:
    """Where the share first stays at ½ or more, interpolated; NaN where it never does."""
    above = share >= 0.5
    if not above[-1]:
        return math.nan
    i = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    if i == 0:
        return float(rho[0])
    low, high = share[i - 1], share[i]
    return float(rho[i - 1] + (rho[i] - rho[i - 1]) * (0.5 - low) / (high - low))


def neurons(config: CorrelatedPairsToy, reporter: Reporter) -> list[Check]:
    """With a hidden layer of neurons, the two features of a pair share a direction, and a neuron."""
    stack = train(config.model_copy(update={"hidden": "relu"}), reporter)
    checks: list[Check] = []
    for rho in config.rho:
        here = stack.where(rho=rho)
        W = stack.parameters["W"][here]
        between = int((sharing(W).all(-1) & ~held(W).all(-1)).sum())
        rotated = f"{between} of {len(here)} networks have every pair in one direction, but a direction between neurons"
        bad = int((~stack.trained[here]).sum())
        why = "" if config.n_hidden == config.n_pairs else "there are not as many neurons as pairs"
        why = f"{bad} networks did not train" if bad else why
        found = () if why else (share(sharing(W)), share(sharing_neurons(W), note=rotated))
        checks += fill(CORRELATED if rho >= 0.5 else INDEPENDENT, found, why, rho=rho)
    return checks


def change_figure(config: CorrelatedPairsToy, reporter: Reporter) -> Any:
    """Cosine within pairs against the correlation, beside ρ*."""
    rho = tuple(np.linspace(0, 1, 11).round(2).tolist())
    stack = train(config.model_copy(update={"rho": rho, "hidden": "linear"}), reporter)
    cosine = partners(stack.parameters["W"]).reshape(len(rho), -1)
    figure, (ax,) = panels(1, width=5.5, height=4)
    each = f"a pair of one of {len(config.seeds)} networks"
    ax.plot(np.repeat(rho, cosine.shape[1]), cosine.flatten(), ".", color="tab:blue", alpha=0.4, label=each)
    ax.plot(rho, cosine.median(-1).values, color="tab:blue", label="median")
    ax.axvline(boundary(config.density), color="0.5", linestyle="--", label="ρ* = (4 − 7p)/(4 − 3p)")
    ax.set(xlabel="correlation ρ of a pair", ylabel="cosine of the pair's vectors", ylim=(-1.05, 1.05))
    ax.set_title(f"{config.n_pairs} pairs in {config.n_hidden} dimensions, p = {config.density:g}")
    ax.legend(frameon=False)
    return figure


ENTRY = Entry(
    CorrelatedPairsToy,
    (
        Experiment("algebra", "fast", "losses of the two ways to pack two features into a dimension", algebra),
        Experiment("neurons", "fast", "a neuron holds the two features of a pair", neurons),
        Experiment("change", "slow", "sharing by superposition gives way to sharing by correlation at ρ*", change),
    ),
    {"change": change_figure},
)
