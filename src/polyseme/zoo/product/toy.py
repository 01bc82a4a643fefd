"""The product x·y by ReLU neurons: each answers to both inputs, and nothing is in superposition.

ŷ = Σ_k a_k ReLU(w_k · (x, y) + b_k) + c with x, y ~ N(0, 1); loss (xy − ŷ)², whose variance is 1. As
xy = ((x + y)² − (x − y)²) / 4, the network needs two directions, orthogonal and 45° from the neurons' inputs.
"""

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.zoo.tools.checks import Check, Experiment, Line, Value, fill, share
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Parameters, Stack, train_stack
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

PAPER = "x·y by ReLU neurons: E[·] over N(0, 1)²"
SITE = Site(path="read")
_NAMES: tuple[str, ...] = ("read.weight", "read.bias", "write.weight", "write.bias")
BIAS_FREE = 1 / (math.pi - 2)
"""R² of c(|x + y| − |x − y|): cov² = 2/π over var = 2(1 − 2/π)."""
HALF = 0.5
"""Most that (x + y) alone, or (x − y) alone, explains: a network with a larger loss has not found both."""


class Product(nn.Module):
    """ŷ = a · ReLU(W(x, y) + b) + c; `read` is what the neurons read, before their ReLU."""

    def __init__(self, n_neurons: int):
        super().__init__()
        self.read = nn.Linear(2, n_neurons)
        self.neurons = nn.ReLU()
        self.write = nn.Linear(n_neurons, 1)

    def forward(self, xy: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 1"]:
        return self.write(self.neurons(self.read(xy)))


class ProductToy(Toy):
    """Networks of several seeds."""

    title: ClassVar[str] = "x·y by ReLU neurons"
    paper: ClassVar[str] = PAPER

    n_neurons: Width = 4
    seeds: Seeds = tuple(range(12))
    batch: Width = 256
    optimiser: OptimiserConfig = OptimiserConfig(steps=4_000, lr=1e-2, schedule="cosine", weight_decay=0.0)

    def build(self) -> Product:
        """An untrained network."""
        return Product(self.n_neurons)

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """Every seed, as one stack."""
        stack = train(self, reporter)

        def truth(i: int) -> Truth:
            # x and y write W's columns; the loss asks for orthogonal ones, and for no neuron that reads one alone.
            return Truth(SITE, features=("x", "y"), directions=stack.parameters["read.weight"][i].T, cause="rotated")

        return stack.toys(self.build, truth, lambda _: draw)


def draw(n: int, generator: torch.Generator) -> Sample:
    """Rows of (x, y) ~ N(0, 1)²."""
    xy = torch.randn(n, 2, generator=generator)
    return Sample(inputs=xy, features=xy)


def train(config: ProductToy, reporter: Reporter) -> Stack:
    """Train every seed at once."""
    seeds = Grid(config.seeds).derived("product")
    initial, draws = Draws(seeds, "initial"), Draws(seeds, "data")
    W, a = initial.normal(2, config.n_neurons), initial.normal(config.n_neurons) / math.sqrt(config.n_neurons)
    b, c = torch.zeros_like(a), torch.zeros(len(seeds))

    def loss(_: int) -> Tensor:
        xy = draws.normal(config.batch, 2)
        out = (torch.relu(torch.baddbmm(b[:, None], xy, W)) * a[:, None]).sum(-1) + c[:, None]
        return (out - xy.prod(-1)).square().mean(-1)

    train_stack({"W": W, "b": b, "a": a, "c": c}, loss, config.optimiser, reporter=reporter)
    parameters: Parameters = dict(zip(_NAMES, (W.mT, b, a[:, None], c[:, None]), strict=True))
    return Stack(parameters, 1 - explained(parameters), Grid(config.seeds), HALF)


def explained(parameters: Parameters, *, spacing: float = 0.04, reach: float = 7.0) -> Float[Tensor, " instance"]:
    """R² = 1 − E[(xy − ŷ)²] / Var(xy) of each network, by the trapezoid rule in float64 (error below 1e-4).

    Args:
        parameters: those of a `Product`, with a leading axis of instances.
        spacing: the spacing of the grid.
        reach: where the density is cut off.
    """
    axis = torch.linspace(-reach, reach, 2 * round(reach / spacing) + 1, dtype=torch.float64)
    density = torch.exp(-axis.square() / 2)
    density /= density.sum()
    weight = torch.outer(density, density).flatten()
    xy = torch.cartesian_prod(axis, axis)
    out: list[Tensor] = []
    for W, b, a, c in zip(*(parameters[name].double() for name in _NAMES), strict=True):
        error = xy.prod(-1) - torch.relu(xy @ W.T + b) @ a[0] - c
        out.append(1 - weight @ error.square())
    return torch.stack(out)


def optimum() -> tuple[float, float]:
    """The best R² of c(ReLU(|x + y| − s) − ReLU(|x − y| − s)), which is that of four neurons with biases, and its s.

    With u ~ N(0, 1) and g = ReLU(|u| − s), s in units of u: R² = Cov(u², g)² / 2 Var(g), by the Gaussian's moments.
    """
    from scipy import optimize, special

    def negative(s: float) -> float:
        density, tail = math.exp(-s * s / 2) / math.sqrt(2 * math.pi), float(special.ndtr(-s))
        mean = 2 * (density - s * tail)
        square = 2 * ((1 + s * s) * tail - s * density)
        covariance = 2 * density  # E[u²g] − E[g]
        return -(covariance**2) / (2 * (square - mean**2))

    found = optimize.minimize_scalar(negative, bounds=(0, 3), method="bounded")
    return -float(found.fun), float(found.x)


def off_diagonal(W: Float[Tensor, "*batch 2 neuron"]) -> Float[Tensor, "*batch neuron"]:
    """How far each neuron's input direction is from the nearer of the lines at ±45°, in degrees (0 to 45)."""
    angle = torch.rad2deg(torch.atan2(W[..., 1, :], W[..., 0, :])) % 90
    return (angle - 45).abs()


def n_lines(W: Float[Tensor, "2 neuron"], tolerance: float = 10.0) -> int:
    """How many lines through 0 the neurons read, where two less than `tolerance` degrees apart count as one."""
    angle = torch.rad2deg(torch.atan2(W[1], W[0])) % 180
    angle = angle.sort().values
    steps = torch.cat([angle.diff(), angle[:1] + 180 - angle[-1:]])
    return max(1, int((steps > tolerance).sum()))


def bias_free() -> Parameters:
    """The network |x + y| − |x − y|, at its best scale."""
    W = torch.tensor([[[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64) / math.sqrt(2)
    # c = Cov(xy, f) / Var(f) with Cov = √(2/π) and Var = 2(1 − 2/π).
    scale = math.sqrt(2 / math.pi) / (2 * (1 - 2 / math.pi))
    a = scale * torch.tensor([[[1.0, 1.0, -1.0, -1.0]]], dtype=torch.float64)
    return dict(zip(_NAMES, (W, torch.zeros_like(a[0]), a, torch.zeros(1, 1, dtype=torch.float64)), strict=True))


ALGEBRA = (
    Line(
        "R² of the bias-free network c(|x + y| − |x − y|)",
        "1/(π − 2) = {target:.5f} (± 0.0002)",
        target=BIAS_FREE,
        within=2e-4,
        source="derived",
    ),
    Line(
        "best R² of the same with one threshold, in closed form",
        "0.967 (± 0.001)",
        target=0.967,
        within=1e-3,
        source="computed",
    ),
)
STUCK = Line(
    "networks stuck with one of the two directions (R² < 0.5)", "2 of 12 (inside the interval)", source="computed"
)
NETWORKS = (
    Line("R² of the best network", "≥ 0.87", at_least=0.87),
    Line("median R² of the networks that found both directions", "0.92 (± 0.02)", 0.90, 0.94, source="computed"),
    Line("largest angle of the best network's neurons to ±45°", "≤ 5°", at_most=5),
    Line("lines read by the best network's neurons", "2", 2, 2),
)


def algebra(_: ProductToy, __: Reporter) -> list[Check]:
    """R² of the hand-built networks."""
    return fill(ALGEBRA, (Value(float(explained(bias_free()))), Value(optimum()[0])))


def networks(config: ProductToy, reporter: Reporter) -> list[Check]:
    """What the trained networks reach, and what their neurons read."""
    parameters = train(config, reporter).parameters
    r2, W = explained(parameters).numpy(), parameters["read.weight"].mT
    found = r2 >= 1 - HALF
    spread = f"R² {np.sort(r2).round(3).tolist()}"
    stuck = share(~found, note=spread)
    assert stuck.interval is not None
    checks = [STUCK.fill(replace(stuck, holds=stuck.interval.low <= 2 / 12 <= stuck.interval.high))]
    if config.n_neurons != 4:
        return checks + fill(NETWORKS, (), f"the reference is for 4 neurons, not {config.n_neurons}")
    if not found.any():
        return checks + fill(NETWORKS, (), "no network found both directions")
    best, angles = int(np.nanargmax(r2)), off_diagonal(W)
    within = float((angles[torch.as_tensor(found)] <= 5).double().mean())
    values = (
        Value(float(r2[best]), note=spread),
        Value(float(np.median(r2[found])), int(found.sum())),
        Value(
            float(angles[best].max()), note=f"over all {found.sum()} that found both: {within:.0%} of neurons within 5°"
        ),
        Value(float(n_lines(W[best]))),
    )
    return checks + fill(NETWORKS, values)


def directions_figure(config: ProductToy, reporter: Reporter) -> Any:
    """What the neurons of the best, the median and the worst network read, and how much of xy they explain."""
    parameters = train(config, reporter).parameters
    r2, W, a = explained(parameters), parameters["read.weight"], parameters["write.weight"][:, 0]
    order = r2.argsort(descending=True)
    shown = [int(order[0]), int(order[len(order) // 2]), int(order[-1])]
    figure, axes = panels(3, width=10, height=4.5)
    reach = 1.15 * max(float(W[i].norm(dim=1).max()) for i in shown)
    for ax, i, title in zip(axes, shown, ("best", "median", "worst"), strict=True):
        for sign in (1, -1):
            ax.axline((0, 0), slope=sign, color="0.85", linewidth=1, zorder=0)
        for (x, y), out in zip(W[i].tolist(), a[i].tolist(), strict=True):
            colour = "tab:blue" if out > 0 else "tab:red"
            ax.annotate(
                "", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0}
            )
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="weight on x")
        ax.set_title(f"{title}: R² = {float(r2[i]):.3f}")
    axes[0].set_ylabel("weight on y")
    figure.suptitle("What the neurons of x·y read (blue adds to the output, red takes away; lines at ±45°)")
    return figure


ENTRY = Entry(
    ProductToy,
    (
        Experiment("algebra", "fast", "R² of the hand-built networks", algebra),
        Experiment("networks", "fast", "trained networks read x + y and x − y", networks),
    ),
    {"directions": directions_figure},
)
