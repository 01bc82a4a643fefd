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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Config, Seeds, Share, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.kernels.shield import shielded
from polyseme.zoo.superposition.toy import ReluOutput
from polyseme.zoo.tools.checks import Check, Experiment, check, mean_interval, not_measured, share_interval
from polyseme.zoo.tools.neurons import MONOSEMANTIC, largest_share
from polyseme.zoo.tools.stack import Draws, OptimiserConfig, train_stack
from polyseme.zoo.tools.toy import Cause, Sample, TrainedToy, Truth

PAPER = "Elhage et al. 2022, Toy Models of Superposition"
SITE = Site(path="hidden")
ALONG = 0.9
"""Two features share a direction where the cosine of their vectors is above this."""


class CorrelatedPairsToy(Config):
    """Networks of several correlations and seeds."""

    title: ClassVar[str] = "correlated features that share a neuron"
    paper: ClassVar[str] = PAPER

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

    @shielded
    def build(self) -> ReluOutput:
        """An untrained network."""
        n = 2 * self.n_pairs
        return self._module(torch.zeros(self.n_hidden, n), torch.zeros(n))

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every correlation with every seed, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"{pair}{which}" for pair in range(self.n_pairs) for which in "ab")
        toys: list[TrainedToy] = []
        for i, (rho, seed) in enumerate(stack.settings):
            truth = Truth(
                site=SITE, features=names, directions=stack.W[i].T.contiguous(), cause=self._cause(stack.W[i])
            )
            toys.append(
                TrainedToy(
                    module=self._module(stack.W[i], stack.b[i]),
                    truth=truth,
                    draw=self._draw(rho),
                    seed=seed,
                    setting={"rho": rho},
                    loss=float(stack.loss[i]),
                    ceiling=self.ceiling,
                )
            )
        return toys

    @property
    def ceiling(self) -> float:
        """Midway between the variance of all features and what keeping one a dimension leaves of it."""
        kept = min(1.0, self.n_hidden / (2 * self.n_pairs))
        return (1 - kept / 2) * 2 * self.n_pairs * (self.density / 3 - self.density**2 / 4)

    experiments: ClassVar[tuple[Experiment, ...]]
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]]

    def _module(self, W: Tensor, b: Tensor) -> ReluOutput:
        module = ReluOutput(W, b)
        if self.hidden == "relu":
            module.hidden = nn.ReLU()
        return module

    def _cause(self, W: Tensor) -> Cause | None:
        """From the weights: each neuron holds one pair, or some vectors are opposite, or it is not known."""
        if bool(sharing(W).all()) and bool(held(W).all()):
            return "correlated"
        return "superposition" if bool((cosines(W) < -ALONG).any()) else None

    def _draw(self, rho: float) -> Callable[[int, torch.Generator], Sample]:
        def draw(n: int, generator: torch.Generator) -> Sample:
            draws = Draws([int(torch.randint(2**62, (), generator=generator))])
            x = features(self, draws, torch.tensor([rho]), n)[0]
            return Sample(inputs=x, features=x)

        return draw


def features(
    config: CorrelatedPairsToy, draws: Draws, rho: Float[Tensor, " instance"], n: int
) -> Float[Tensor, "instance row feature"]:
    """Rows of features, those of pair i in columns 2i and 2i + 1."""
    p = torch.full_like(rho, config.density)
    first, second = draws.sparse_uniform(p, 2, n, config.n_pairs).unbind(1)
    copied = draws.uniform(n, config.n_pairs) < rho[:, None, None]
    return torch.stack([first, torch.where(copied, first, second)], dim=-1).flatten(-2)


@dataclass(frozen=True)
class Stack:
    """A stack after its training.

    Attributes:
        W: `[instance, d_hidden, feature]`.
        b: `[instance, feature]`.
        settings: correlation and seed of each instance.
        loss: of each instance at the end.
    """

    W: Tensor
    b: Tensor
    settings: list[tuple[float, int]]
    loss: Tensor


@shielded
def train(config: CorrelatedPairsToy, reporter: Reporter) -> Stack:
    """Train every correlation with every seed at once."""
    settings = [(rho, seed) for rho in config.rho for seed in config.seeds]
    seeds = [derive_seed(seed, "correlated_pairs", str(rho)) for rho, seed in settings]
    rho, n = torch.tensor([rho for rho, _ in settings]), 2 * config.n_pairs
    W = math.sqrt(2 / (n + config.n_hidden)) * Draws(seeds, "initial").normal(config.n_hidden, n)
    b, draws = torch.zeros(len(settings), n), Draws(seeds, "data")

    def loss(_: int) -> Tensor:
        x = features(config, draws, rho, config.batch)
        hidden = x @ W.mT
        hidden = torch.relu(hidden) if config.hidden == "relu" else hidden
        return (x - torch.relu(torch.baddbmm(b[:, None], hidden, W))).square().sum(-1).mean(-1)

    history = train_stack({"W": W, "b": b}, loss, config.optimiser, reporter=reporter)
    return Stack(W, b, settings, history.final)


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


def algebra(config: CorrelatedPairsToy, _: Reporter) -> Sequence[Check]:
    """Loss of a dimension with two opposite features of different pairs, and with a pair added up."""
    p, half, checks = config.density, math.sqrt(0.5), list[Check]()
    lines = [("two opposite features", "p²/3", dimension_loss((1.0, -1.0), p, 0.0), opposite_loss(p))]
    for rho in config.rho:
        name = f"a pair added up at ρ = {rho:g}"
        lines.append((name, "(1 − ρ)(p/3 − p²/4)", dimension_loss((half, half), p, rho), shared_loss(p, rho)))
    for name, formula, value, loss in lines:
        checks.append(
            check(
                f"loss of a dimension with {name}, p = {p:g}",
                value,
                reference=f"{formula} = {loss:.5f} (± 0.01%)",
                source="derived",
                paper=PAPER,
                at_least=loss - 1e-4 * loss - 1e-12,
                at_most=loss + 1e-4 * loss + 1e-12,
                n=1,
            )
        )
    return checks


def change(config: CorrelatedPairsToy, reporter: Reporter) -> Sequence[Check]:
    """Where trained pairs begin to share a direction, beside ρ*."""
    star = boundary(config.density)
    names = ("correlation at which half of the pairs share a direction", "pairs that share one at ρ = 0")
    references = (f"ρ* = (4 − 7p)/(4 − 3p) = {star:.3f} (± 15%)", "0")
    lines = list(zip(names, references, strict=True))
    if star <= 0 or config.n_hidden != config.n_pairs:
        why = "derived for p < 4/7 and as many dimensions as pairs"
        return [not_measured(n, reference=r, source="derived", paper=PAPER, why=why) for n, r in lines]
    rho = tuple(np.unique(np.clip([0.0, *(star * f for f in (0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2))], 0, 1)).tolist())
    stack = train(config.model_copy(update={"rho": rho, "hidden": "linear"}), reporter)
    bad = int((~(stack.loss <= config.ceiling)).sum())
    if bad:
        why = f"{bad} networks did not train"
        return [not_measured(n, reference=r, source="derived", paper=PAPER, why=why) for n, r in lines]
    shares = sharing(stack.W).double().mean(-1).reshape(len(rho), -1)
    found = crossing(np.asarray(rho), shares.mean(-1).numpy())
    spread = np.array([crossing(np.asarray(rho), column) for column in shares.T.numpy()])
    _, interval = mean_interval(spread)
    at_zero, zero = share_interval(int(sharing(stack.W[: len(config.seeds)]).sum()), shares.shape[1] * config.n_pairs)
    return [
        check(
            names[0],
            found,
            reference=references[0],
            source="derived",
            paper=PAPER,
            at_least=0.85 * star,
            at_most=1.15 * star,
            interval=interval,
            n=len(stack.settings),
            note="share of pairs: "
            + ", ".join(f"{s:.2f} at {r:.2f}" for r, s in zip(rho, shares.mean(-1), strict=True)),
        ),
        check(
            names[1],
            at_zero,
            reference=references[1],
            source="derived",
            paper=PAPER,
            at_most=0.0,
            interval=zero,
            n=shares.shape[1] * config.n_pairs,
            n_unit="pairs",
        ),
    ]


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


def neurons(config: CorrelatedPairsToy, reporter: Reporter) -> Sequence[Check]:
    """With a hidden layer of neurons, the two features of a pair share a direction, and a neuron."""
    stack = train(config.model_copy(update={"hidden": "relu"}), reporter)
    checks: list[Check] = []
    for rho in config.rho:
        here = [i for i, (r, _) in enumerate(stack.settings) if r == rho]
        W, correlated = stack.W[here], rho >= 0.5
        between = int((sharing(W).all(-1) & ~held(W).all(-1)).sum())
        rotated = f"{between} of {len(here)} networks have every pair in one direction, but a direction between neurons"
        reference = "≥ 0.90" if correlated else "< 0.90"
        bad = int((~(stack.loss[here] <= config.ceiling)).sum())
        for name, hits, unit, note in (
            (f"pairs that share a direction at ρ = {rho:g}", sharing(W), "pairs", ""),
            (f"neurons that hold one pair and nothing else at ρ = {rho:g}", sharing_neurons(W), "neurons", rotated),
        ):
            if bad or config.n_hidden != config.n_pairs:
                why = f"{bad} networks did not train" if bad else "there are not as many neurons as pairs"
                lost = not_measured(name, reference=reference, source="proposed", paper=PAPER, why=why)
                checks.append(lost)
                continue
            share, interval = share_interval(int(hits.sum()), hits.numel())
            checks.append(
                check(
                    name,
                    share,
                    reference=reference,
                    source="proposed",
                    paper=PAPER,
                    at_least=0.9 if correlated else 0.0,
                    at_most=1.0 if correlated else math.nextafter(0.9, 0),
                    interval=interval,
                    n=hits.numel(),
                    n_unit=unit,
                    note=note,
                )
            )
    return checks


def change_figure(config: CorrelatedPairsToy, reporter: Reporter) -> Any:
    """Cosine within pairs against the correlation, beside ρ*."""
    from polyseme.zoo.tools.figures import panels

    rho = tuple(np.linspace(0, 1, 11).round(2).tolist())
    stack = train(config.model_copy(update={"rho": rho, "hidden": "linear"}), reporter)
    cosine = partners(stack.W).reshape(len(rho), -1)
    figure, (ax,) = panels(1, width=5.5, height=4)
    each = f"a pair of one of {len(config.seeds)} networks"
    ax.plot(np.repeat(rho, cosine.shape[1]), cosine.flatten(), ".", color="tab:blue", alpha=0.4, label=each)
    ax.plot(rho, cosine.median(-1).values, color="tab:blue", label="median")
    ax.axvline(boundary(config.density), color="0.5", linestyle="--", label="ρ* = (4 − 7p)/(4 − 3p)")
    ax.set(xlabel="correlation ρ of a pair", ylabel="cosine of the pair's vectors", ylim=(-1.05, 1.05))
    ax.set_title(f"{config.n_pairs} pairs in {config.n_hidden} dimensions, p = {config.density:g}")
    ax.legend(frameon=False)
    return figure


CorrelatedPairsToy.experiments = (
    Experiment("algebra", "fast", "losses of the two ways to pack two features into a dimension", algebra),
    Experiment("neurons", "fast", "a neuron holds the two features of a pair", neurons),
    Experiment("change", "slow", "sharing by superposition gives way to sharing by correlation at ρ*", change),
)
CorrelatedPairsToy.figures = {"change": change_figure}
