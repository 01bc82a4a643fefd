"""Incidental polysemanticity: with room for every feature, two share a neuron because both began closest to it.

y = ReLU(WWᵀx) on the basis vectors e_1 … e_n, with m ≥ n neurons and W ~ N(0, 1/m); loss
Σ_i ‖e_i − y(e_i)‖² + λ‖W‖₁. The penalty leaves each feature one neuron. Of the n(n − 1)/2 pairs of features 1/m begin
at the same neuron; those of one sign push each other apart, those of opposite signs stay, as ReLU hides each from the
other: n(n − 1)/4m of them. Lecomte et al. 2023.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from polyseme.core.config import Seeds, Strength, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.zoo.tools.checks import Check, Experiment, Line, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

SITE = Site(path="hidden")
PRESENT = 0.5
"""A neuron answers to a feature where |W| is above this: at the end of the training weights are near 0 or near ±1."""
SETTLED = 0.9
"""A network is counted where more than this share of its features are on one neuron each."""


class TiedAutoencoder(nn.Module):
    """y = ReLU(WWᵀx); `hidden` is Wᵀx.

    Args:
        W: `[feature, neuron]`.
    """

    def __init__(self, W: Float[Tensor, "feature neuron"]):
        super().__init__()
        self.W = nn.Parameter(W.clone())
        self.hidden = nn.Identity()

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return torch.relu(self.hidden(x @ self.W) @ self.W.T)


class IncidentalToy(Toy):
    """Networks of several seeds."""

    title: ClassVar[str] = "incidental polysemanticity"
    paper: ClassVar[str] = "Lecomte et al. 2023, Incidental Polysemanticity"

    n_features: Width = 32
    n_neurons: Width = 128
    l1: Strength = 1e-3
    """λ, on the sum of all |W|: the mean activation of the basis vectors."""
    seeds: Seeds = tuple(range(40))
    optimiser: OptimiserConfig = OptimiserConfig(steps=7_500)

    @model_validator(mode="after")
    def _enough_room(self) -> "IncidentalToy":
        if self.n_neurons < self.n_features:
            raise ValueError(
                f"{self.n_neurons} neurons for {self.n_features} features: with less than one neuron a feature,"
                " sharing is no accident; give at least as many neurons as features"
            )
        return self

    def build(self) -> TiedAutoencoder:
        return TiedAutoencoder(torch.zeros(self.n_features, self.n_neurons))

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every seed, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"x{i}" for i in range(self.n_features))

        def truth(i: int) -> Truth:
            W = stack.parameters["W"][i]
            return Truth(SITE, names, W, cause="incidental" if int(polysemantic(W)) else "aligned")

        return stack.toys(self.build, truth, lambda _: self._draw)

    @property
    def ceiling(self) -> float:
        """Half of what leaving out every feature costs; one feature a neuron costs about λ each."""
        return self.n_features / 2

    def _draw(self, n: int, generator: torch.Generator) -> Sample:
        which = torch.randint(self.n_features, (n,), generator=generator)
        x = torch.nn.functional.one_hot(which, self.n_features).float()
        return Sample(inputs=x, features=x)


class _Loss(torch.autograd.Function):
    """Σ (ReLU(WWᵀ) − I)² + λ‖W‖₁, with its gradient 4 R W + λ sign W: R is ReLU(WWᵀ) − I where ReLU is open, else 0.

    R is symmetric, so that a step takes two products; autograd, which does not know it, takes three.
    """

    @staticmethod
    def forward(ctx: Any, W: Tensor, l1: float) -> Tensor:
        left = torch.relu_(W @ W.mT)
        on = left > 0
        left.diagonal(dim1=-2, dim2=-1).sub_(1)
        loss = left.square().sum((-1, -2)) + l1 * W.abs().sum((-1, -2))
        ctx.save_for_backward(W, left.mul_(on))
        ctx.l1 = l1
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        W, left = ctx.saved_tensors
        return torch.baddbmm(W.sign(), left, W, beta=ctx.l1, alpha=4).mul_(grad_outputs[0][:, None, None]), None


def loss_of(W: Float[Tensor, "instance feature neuron"], l1: float) -> Float[Tensor, " instance"]:
    """The loss of every network, with its gradient to W alone."""
    apply: Any = _Loss.apply
    return apply(W, l1)


def train(config: IncidentalToy, reporter: Reporter, checkpoints: Path | None = None) -> Stack:
    """Train every seed at once; an interrupted training resumes from `checkpoints`."""
    grid = Grid(config.seeds)
    W = Draws(grid.derived("incidental"), "initial").normal(config.n_features, config.n_neurons) / math.sqrt(
        config.n_neurons
    )
    history = train_stack(
        {"W": W},
        lambda _: loss_of(W, config.l1),
        config.optimiser,
        reporter=reporter,
        name=f"{config.n_neurons} neurons",
        checkpoints=checkpoints,
    )
    return Stack({"W": W}, history.final, grid, config.ceiling)


def polysemantic(W: Float[Tensor, "*batch feature neuron"]) -> Float[Tensor, " *batch"]:
    """Number of neurons that answer to more than one feature."""
    return ((W.abs() > PRESENT).sum(-2) > 1).sum(-1).to(W.dtype)


def settled(W: Float[Tensor, "*batch feature neuron"]) -> Float[Tensor, " *batch"]:
    """Share of the features that have come down to one neuron."""
    return ((W.abs() > PRESENT).sum(-1) == 1).to(W.dtype).mean(-1)


def expected(n_features: int, n_neurons: int) -> float:
    """n(n − 1)/4m: number of pairs of features that fall on one neuron with opposite signs."""
    return n_features * (n_features - 1) / (4 * n_neurons)


def occupied(n_features: int, n_neurons: int) -> float:
    """m (1 − 2 (1 − 1/2m)ⁿ + (1 − 1/m)ⁿ): neurons with features of both signs, where each falls on one at random.

    Two features of one sign cannot stay on a neuron, so that it holds at most one of each sign, and several pairs that
    start on it make one polysemantic neuron. The formula of the paper is the leading term.
    """
    n, m = n_features, n_neurons
    return m * (1 - 2 * (1 - 1 / (2 * m)) ** n + (1 - 1 / m) ** n)


FACTORS = (1, 2, 4, 8, 16)
"""Numbers of neurons a feature that are compared."""
_NAME = "polysemantic neurons at n = {n}, m = {m}, against "
PAIRS = Line(_NAME + "pairs", "n(n − 1)/4m = {target:.3g} (± 2 s.e.)", source="published")
NEURONS = Line(
    _NAME + "neurons",
    "m(1 − 2(1 − 1/2m)ⁿ + (1 − 1/m)ⁿ), neurons and not pairs = {target:.3g} (± 2 s.e.)",
    source="derived",
)


def count(config: IncidentalToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """The number of polysemantic neurons, beside n(n − 1)/4m."""
    n, m = config.n_features, config.n_neurons
    stack = train(config, reporter, checkpoints)
    W = stack.parameters["W"]
    ok = stack.trained & (settled(W) > SETTLED)
    why = "" if ok.all() else f"{int((~ok).sum())} of {len(ok)} networks did not come down to one neuron a feature"
    why = f"{len(config.seeds)} networks: at least 30 are needed" if len(config.seeds) < 30 else why
    counts = polysemantic(W).double()
    error = float(counts.std()) / math.sqrt(len(counts)) if len(counts) > 1 else math.nan
    found = mean(counts, f"standard error {error:.3f}")
    return [
        replace(line, within=2 * error).fill(found, why, target=wanted, n=n, m=m)
        for line, wanted in ((PAIRS, expected(n, m)), (NEURONS, occupied(n, m)))
    ]


def room(config: IncidentalToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """The same for n, 2n, 4n, 8n and 16n neurons: sharing falls as 1/m and persists where there is room to spare."""
    lines: list[Check] = []
    for factor in FACTORS:
        size = config.model_copy(update={"n_neurons": factor * config.n_features})
        lines += count(size, reporter, checkpoints and checkpoints / str(size.n_neurons))
    return lines


def published(config: IncidentalToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """The sizes of the paper: n = 256, m = 256 to 4096."""
    return room(config.model_copy(update={"n_features": 256}), reporter, checkpoints)


def count_figure(config: IncidentalToy, reporter: Reporter) -> Any:
    """Polysemantic neurons against m, beside n(n − 1)/4m; hollow where networks did not come down to their neurons."""
    n = config.n_features
    sizes = [factor * n for factor in FACTORS]
    trained = [train(config.model_copy(update={"n_neurons": m}), reporter).parameters["W"] for m in sizes]
    figure, (ax,) = panels(1, width=5.5, height=4)
    ax.plot(sizes, [expected(n, m) for m in sizes], color="0.6", label="n(n − 1)/4m")
    ax.plot(sizes, [occupied(n, m) for m in sizes], "--", color="0.6", label="neurons, not pairs")
    for m, W in zip(sizes, trained, strict=True):
        counts, fill = polysemantic(W), "full" if bool((settled(W) > SETTLED).all()) else "none"
        error = 2 * float(counts.std()) / math.sqrt(len(counts))
        ax.errorbar(m, float(counts.mean()), yerr=error, fmt="o", color="tab:blue", capsize=3, fillstyle=fill)
    ax.errorbar([], [], yerr=[], fmt="o", color="tab:blue", capsize=3, label="trained (± 2 s.e.)")
    ax.plot([], [], "o", color="tab:blue", fillstyle="none", label="the same, some features not down to one neuron")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(sizes, [str(m) for m in sizes])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="neurons m", ylabel="polysemantic neurons")
    ax.set_title(f"n = {n} features, {len(config.seeds)} networks a point")
    ax.legend(frameon=False)
    return figure


ENTRY = Entry(
    IncidentalToy,
    (
        Experiment("count", "fast", "polysemantic neurons beside n(n − 1)/4m", count),
        Experiment("room", "slow", "the same from n to 16n neurons", room),
        Experiment("published", "long", "the same at the paper's sizes", published, resumable=True),
    ),
    {"count": count_figure},
)
