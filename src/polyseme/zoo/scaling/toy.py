"""Positive scaling: without biases a ReLU network's answer cannot depend on an activation's length; with them it does.

A bias-free ReLU network is positively homogeneous, f(αx) = αf(x) for α > 0, from its input or from any of its layers
on, so its argmax never changes. With biases an activation's length also decides its polytope, and a feature is no
direction. Black et al. 2022, "Interpreting Neural Networks through the Polytope Lens".
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.networks import load_network
from polyseme.networks.edits import Edit
from polyseme.zoo.tools.checks import Check, Experiment, Line, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

PAPER = "Black et al. 2022, Interpreting Neural Networks through the Polytope Lens"
SITES = (Site(path="first"), Site(path="second"))
FACTORS = (0.1, 0.25, 0.5, 2.0, 4.0, 10.0)
ROWS = 2_000


class Classifier(nn.Module):
    """Two ReLU layers of one width and a read-out; `first` and `second` are the layers after their ReLU."""

    def __init__(self, d: int, width: int, n_classes: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(d, width), nn.Linear(width, width), nn.Linear(width, n_classes)])
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch n_classes"]:
        into_first, into_second, out = self.layers
        return out(self.second(into_second(self.first(into_first(x)))))


class ScalingToy(Toy):
    """Classifiers of clusters, with and without biases, of several seeds."""

    title: ClassVar[str] = "positive scaling of ReLU networks"
    paper: ClassVar[str] = PAPER

    d: Width = 8
    width: Width = 32
    n_classes: Annotated[Width, Field(ge=2)] = 10
    noise: float = Field(default=0.5, gt=0, le=1e6)
    """Standard deviation around a class's centre; the centres are N(0, 1)."""
    biases: tuple[bool, ...] = Field(default=(False, True), min_length=1, max_length=2)
    seeds: Seeds = tuple(range(12))
    batch: Width = 128
    optimiser: OptimiserConfig = OptimiserConfig(steps=1_000, lr=5e-3, schedule="cosine")

    def build(self) -> Classifier:
        """An untrained network."""
        return Classifier(self.d, self.width, self.n_classes)

    def train(self, reporter: Reporter) -> list[TrainedToy]:
        """With and without biases and every seed, as one stack."""
        stack = train(self, reporter)
        names = tuple(f"class {i}" for i in range(self.n_classes))

        def truth(i: int) -> Truth:
            cause = "non_linear" if stack.grid.settings[i]["biases"] else None
            return Truth(SITES[0], names, directions=None, computed_at="second", cause=cause)

        return stack.toys(self.build, truth, lambda i: partial(self._draw, stack.centres[i]))

    @property
    def ceiling(self) -> float:
        """Half of the loss, in nats, of an answer that does not depend on the input."""
        return math.log(self.n_classes) / 2

    def _draw(self, centres: Tensor, n: int, generator: torch.Generator) -> Sample:
        x, label = clusters(self, centres[None], Draws.one(generator), n)
        return Sample(inputs=x[0], features=torch.nn.functional.one_hot(label[0], self.n_classes).float())


@dataclass(frozen=True)
class Classifiers(Stack):
    """A stack after its training.

    Attributes:
        centres: the centres of each instance's classes, `[instance, class, d]`.
    """

    centres: Tensor


def clusters(
    config: ScalingToy, centres: Float[Tensor, "instance class d"], draws: Draws, n: int
) -> tuple[Float[Tensor, "instance row d"], Tensor]:
    """Rows around their class's centre, and the classes `[instance, row]`."""
    label = (draws.uniform(n) * config.n_classes).long()
    centre = centres.gather(1, label[..., None].expand(-1, -1, config.d))
    return centre + config.noise * draws.normal(n, config.d), label


def train(config: ScalingToy, reporter: Reporter) -> Classifiers:
    """Train with and without biases and every seed at once."""
    grid = Grid(config.seeds, biases=[int(biases) for biases in config.biases])
    # The same centres and initial weights with and without biases: the two differ in nothing else.
    seeds = [derive_seed(seed, "scaling") for seed in grid.seeds]
    initial, draws = Draws(seeds, "initial"), Draws(seeds, "data")
    centres = Draws(seeds, "centres").normal(config.n_classes, config.d)
    sizes = (config.d, config.width, config.width, config.n_classes)
    parameters: dict[str, Tensor] = {}
    for i, (d_in, d_out) in enumerate(pairwise(sizes)):
        parameters[f"layers.{i}.weight"] = initial.normal(d_out, d_in) * math.sqrt(2 / d_in)
        parameters[f"layers.{i}.bias"] = torch.zeros(len(seeds), d_out)
    # A bias of a bias-free network starts at 0 and has no gradient, so it stays there.
    used = grid.values("biases")[:, None, None]

    def loss(_: int) -> Tensor:
        out, label = clusters(config, centres, draws, config.batch)
        for i in range(3):
            out = torch.relu(out) if i else out
            out = torch.baddbmm(
                used * parameters[f"layers.{i}.bias"][:, None], out, parameters[f"layers.{i}.weight"].mT
            )
        return -out.log_softmax(-1).gather(-1, label[..., None]).squeeze(-1).mean(-1)

    history = train_stack(parameters, loss, config.optimiser, reporter=reporter)
    return Classifiers(parameters, history.final, grid, config.ceiling, centres)


def flips(module: Classifier, x: Float[Tensor, "row d"], factor: float, site: Site | None) -> int:
    """How many rows get another answer when a layer's activation (for None, the input) is multiplied by a factor."""
    network = load_network(module, example_inputs=x[:1])
    edits: dict[str, Edit] = {} if site is None else {str(site): lambda vectors: factor * vectors}
    before = network.run(x).logits.argmax(-1)
    after = network.run(factor * x if site is None else x, edits=edits).logits.argmax(-1)
    return int((before != after).sum())


_CHANGED = "share of answers that change, {kind}, scaling {place}"
UNCHANGED = Line(_CHANGED, "0", at_least=0, at_most=0, source="derived")
CHANGED = Line(_CHANGED, "> 0 in every network", at_least=1 / (ROWS * len(FACTORS)), at_most=1, source="derived")


def scaled(config: ScalingToy, reporter: Reporter) -> list[Check]:
    """Answers that change under positive scaling of the input and of both layers."""
    stack = train(config.model_copy(update={"biases": (False, True)}), reporter)
    why, tried = stack.untrained, ROWS * len(FACTORS)
    checks: list[Check] = []
    for biases, line, kind in ((False, UNCHANGED, "bias-free networks"), (True, CHANGED, "networks with biases")):
        here = stack.where(biases=biases)
        for site in (None, *SITES):
            place = "the input" if site is None else f"the {site.path} layer"
            counts = np.array(
                [0.0 if why else sum(flips(*_tested(config, stack, i), f, site) for f in FACTORS) for i in here]
            )
            note = f"{counts.min():.0f} to {counts.max():.0f} of {tried} a network, factors {FACTORS}"
            # Every network must have a share above 0, not only their mean.
            found = mean(counts / tried, note, holds=not biases or bool((counts > 0).all()))
            checks.append(line.fill(found, why, kind=kind, place=place))
    return checks


def _tested(config: ScalingToy, stack: Classifiers, i: int) -> tuple[Classifier, Tensor]:
    """A network and its test rows, in float64."""
    draws = Draws([derive_seed(stack.grid.seeds[i], "scaling", "test")])
    x = clusters(config, stack.centres[i : i + 1], draws, ROWS)[0][0].double()
    return stack.into(config.build(), i).double(), x


def flips_figure(config: ScalingToy, reporter: Reporter) -> Any:
    """Share of answers that change, over the factor, with and without biases."""
    config = config.model_copy(update={"biases": (False, True)})
    stack, factors = train(config, reporter), np.geomspace(0.05, 20, 17)
    figure, axes = panels(3, width=11, height=3.4)
    for ax, site in zip(axes, (None, *SITES), strict=True):
        for biases, colour in ((True, "tab:red"), (False, "tab:blue")):
            tested = [_tested(config, stack, i) for i in stack.where(biases=biases)]
            shares = [[flips(module, x, float(f), site) / ROWS for f in factors] for module, x in tested]
            ax.plot(factors, np.mean(shares, 0), color=colour, label="with biases" if biases else "bias-free")
        ax.set(xscale="log", xlabel="factor", title="input" if site is None else f"{site.path} layer")
    axes[0].set_ylabel("share of answers that change")
    axes[0].legend(frameon=False)
    return figure


ENTRY = Entry(
    ScalingToy,
    (Experiment("scaled", "fast", "answers that change under positive scaling, with and without biases", scaled),),
    {"flips": flips_figure},
)
