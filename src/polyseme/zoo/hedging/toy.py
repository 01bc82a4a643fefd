"""Hedging: a dictionary with too few latents writes correlated features into the ones it has.

One latent for two features, a parent and a child that is on only where its parent is. With P(parent) = p and
P(child | parent) = q, the data are 0, f₀ and f₀ + f₁, and as the L1 penalty goes to 0 the decoder is

    f₀ + q f₁                       where the latent is on or off, of one size whenever its parent is on
    the first principal component   where the latent's activation is free

the first because the best constant is the mean of what it stands for, E[x | parent] − E[x | no parent]; the second
because an affine read-off reaches every point of a line, and the line nearest to three points is theirs. A child
independent of the parent is left to the bias: b = q f₁, and the decoder is f₀.

Chanin et al. 2025, Feature hedging.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.dictionaries import ReLUConfig
from polyseme.zoo.tools.checks import Check, Experiment, Line, Value, mean, table
from polyseme.zoo.tools.exact import (
    Mixture,
    ShortTraining,
    bias,
    components,
    features_of,
    fvu,
    l1_coefficient,
    planted,
    rows_of,
    started,
    train_on,
    untrained,
)
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.toy import Entry, Toy, TrainedToy

ALGEBRA = "E[x | on] − E[x | off]"
PCA = "first eigenvector of the covariance"


class HedgingToy(Toy):
    """A parent and a child in one latent."""

    title: ClassVar[str] = "hedging: one latent for two features"
    paper: ClassVar[str] = "Chanin et al. 2025, Feature hedging, arXiv 2505.11756"

    d: Annotated[Width, Field(ge=2)] = 50
    p: float = Field(default=0.25, gt=0, lt=1)
    """How often the parent is on."""
    q: float = Field(default=0.2, gt=0, lt=1)
    """How often the child is on where its parent is; in the independent variant, how often it is on."""
    penalty: float = Field(default=1e-3, gt=0, le=1e6)
    """Coefficient of the L1 norm, in the data's own units, for the statement about its limit 0."""
    seeds: Annotated[Seeds, Field(min_length=2)] = (0, 1, 2, 3, 4)
    training: ShortTraining = ShortTraining()

    def build(self) -> Mixture:
        return Mixture(torch.zeros(2, self.d))

    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """The mixture of each seed."""
        return [self.instance(seed) for seed in self.seeds]

    def instance(self, seed: int, *, independent: bool = False) -> TrainedToy:
        """The data of one seed; an `independent` child is on with or without its parent."""

        def draw(n: int, generator: torch.Generator) -> Float[Tensor, "row feature"]:
            on = torch.rand(n, 2, generator=generator) < torch.tensor([self.p, self.q])
            if not independent:
                on[:, 1] &= on[:, 0]
            return on.float()

        return planted(2, self.d, seed, draw, {"p": self.p, "q": self.q, "independent": int(independent)})


def points(config: HedgingToy, *, independent: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Every value of (parent, child) that occurs, `[point, 2]`, and the probability of each."""
    p, q = config.p, config.q
    both, parent, child = p * q, p * (1 - q), (1 - p) * q if independent else 0.0
    table = [((0, 0), 1 - both - parent - child), ((1, 0), parent), ((1, 1), both), ((0, 1), child)]
    kept = [(values, share) for values, share in table if share > 0]
    return np.array([values for values, _ in kept], dtype=float), np.array([share for _, share in kept])


def best_on_off(x: Float[np.ndarray, "point 2"], share: Float[np.ndarray, " point"]) -> Float[np.ndarray, " 2"]:
    """The unit decoder of the on-or-off latent of least squared error, over every set of points for which it may be on.

    Its loss is the variance within the set and within its complement; of such a pair, the set without 0 is looked at.
    """
    least, decoder = math.inf, np.zeros(x.shape[1])
    for code in itertools.product((False, True), repeat=len(x) - 1):
        on = np.array([False, *code])
        if not on.any():
            continue
        centres = [share[s] @ x[s] / share[s].sum() for s in (on, ~on)]
        loss = sum(float(share[s] @ ((x[s] - c) ** 2).sum(1)) for s, c in zip((on, ~on), centres, strict=True))
        if loss < least - 1e-15:
            least, decoder = loss, centres[0] - centres[1]
    return decoder / np.linalg.norm(decoder)


def principal(
    x: Float[np.ndarray, "point 2"], share: Float[np.ndarray, " point"]
) -> tuple[Float[np.ndarray, " 2"], float]:
    """The unit first principal component, turned to the parent's side, and the share of variance it leaves."""
    centred = x - share @ x
    values, vectors = np.linalg.eigh((centred * share[:, None]).T @ centred)
    return vectors[:, -1] * np.sign(vectors[0, -1]), float(values[:-1].sum() / values.sum())


@dataclass(frozen=True)
class OneLatent:
    """A trained ReLU latent.

    Attributes:
        cosines: of its decoder with parent and child.
        bias: the decoder's bias along parent and child.
        fvu: on its training vectors.
    """

    cosines: Float[Tensor, " 2"]
    bias: Float[Tensor, " 2"]
    fvu: float


def trained(config: HedgingToy, reporter: Reporter, *, independent: bool = False) -> list[OneLatent]:
    """A latent for each seed; it starts on the parent's side, as on the other it may stand for the parent's absence."""
    out: list[OneLatent] = []
    for seed in config.seeds:
        toy = config.instance(seed, independent=independent)
        F, x = features_of(toy), rows_of(toy, config.training.rows)
        relu = ReLUConfig(n_latents=1, coefficient=l1_coefficient(config.penalty, x))
        latent = started(relu, toy, x, "at random, b_dec at the mean", name="hedging")
        side = torch.sign(latent.write_directions() @ F[0])
        for name in ("W_dec", "W_enc"):
            latent.parameters()[name].mul_(side)
        train_on(toy, x, {"latent": latent}, config.training, reporter)
        out.append(OneLatent(components(latent.write_directions(), F)[0], F @ bias(latent), fvu(latent, x)))
    return out


_ON_OFF, _ALONE = "on-or-off latent: cosine with the {which}, ", "independent child, trained ReLU latent: "
BEST, FITTED = table(
    Line(_ON_OFF + "best of every code", "{target:.4f} (± 1e-9)", within=1e-9, n_unit="codes"),
    Line(_ON_OFF + "least squares on drawn rows", "{target:.3f} (± 0.01)", within=0.01, n_unit="data sets"),
    source="derived",
    paper=ALGEBRA,
)
FREE, *INDEPENDENT = table(
    Line(
        "trained ReLU latent: cosine with the {which}",
        "{target:.3f} (± 0.01)",
        within=0.01,
        source="derived",
        paper=PCA,
    ),
    Line(_ALONE + "bias along the child", "{target:g} (± 0.02)", within=0.02, source="published"),
    Line(_ALONE + "cosine with the parent", "1 (± 0.01)", target=1, within=0.01, source="derived"),
    Line(_ALONE + "cosine with the child", "0 (± 0.02)", target=0, within=0.02, source="derived"),
    n_unit="dictionaries",
)


def on_off(config: HedgingToy, reporter: Reporter) -> list[Check]:
    """A latent that is on or off: f₀ + q f₁, over every code there is and by least squares on drawn rows."""
    norm = math.hypot(1, config.q)
    x, share = points(config)
    best = best_on_off(x, share)
    fitted: list[Tensor] = []
    for toy in config.train(reporter):
        rows = rows_of(toy, config.training.rows).double()
        parent = (rows @ features_of(toy)[0].double() > 0.5).double()
        design = torch.stack([parent, torch.ones_like(parent)], 1)
        # Not the default driver, gelsy: torch gives it pivots that were never set (pytorch issue 71222).
        best_rows = torch.linalg.lstsq(design, rows, driver="gelsd").solution
        fitted.append(components(best_rows[:1], features_of(toy).double())[0])
    checks: list[Check] = []
    for i, (which, cosine) in enumerate({"parent": 1 / norm, "child": config.q / norm}.items()):
        checks.append(BEST.fill(Value(float(best[i]), 2 ** (len(x) - 1) - 1), target=cosine, which=which))
        checks.append(FITTED.fill(mean(torch.stack(fitted)[:, i]), target=cosine, which=which))
    return checks


def free(config: HedgingToy, reporter: Reporter) -> list[Check]:
    """A trained ReLU latent, whose activation is free: the first principal component, not f₀ + q f₁."""
    wanted, left = principal(*points(config))
    found = trained(config, reporter)
    cosines = torch.stack([of.cosines for of in found])
    why = untrained([of.fvu for of in found], left + 0.02)
    on_off_child = config.q / math.hypot(1, config.q)
    notes = "", f"an on-or-off latent has {on_off_child:.3f} of the child: not what is trained"
    return [
        FREE.fill(mean(cosines[:, i], notes[i]), why, target=float(wanted[i]), which=which)
        for i, which in enumerate(("parent", "child"))
    ]


def independent(config: HedgingToy, reporter: Reporter) -> list[Check]:
    """A child without a parent goes to the bias, and the decoder is the parent's."""
    variances = config.p * (1 - config.p), config.q * (1 - config.q)
    why = "" if variances[0] > variances[1] else "the child varies more than the parent: one latent is the child's"
    found = [] if why else trained(config, reporter, independent=True)
    why = why or untrained([of.fvu for of in found], variances[1] / sum(variances) + 0.02)
    targets = config.q, None, None
    return [
        line.fill(mean([float((of.bias[1], *of.cosines)[i]) for of in found]), why, target=target)
        for i, (line, target) in enumerate(zip(INDEPENDENT, targets, strict=True))
    ]


def decoders(config: HedgingToy, reporter: Reporter) -> Any:
    """The decoder's share of the child over P(child | parent), derived and trained, and what is written at this q."""
    figure, (left, right) = panels(2, width=11, height=4)
    grid = np.linspace(0.01, 0.9, 60)
    at = [config.model_copy(update={"q": float(q)}) for q in grid]
    left.plot(grid, grid / np.hypot(1, grid), label="on or off: f0 + q f1")
    left.plot(grid, [principal(*points(of))[0][1] for of in at], label="free: first principal component")
    for i, q in enumerate(sorted({0.1, 0.4, 0.6, config.q})):
        found = trained(config.model_copy(update={"q": q}), reporter)
        dots = [float(of.cosines[1]) for of in found]
        left.plot([q] * len(dots), dots, "k.", label=None if i else f"trained ReLU latents, L1 {config.penalty:g}")
    left.set(xlabel="q = P(child | parent)", ylabel="cosine of the decoder with the child", ylim=(0, 1))
    left.set_title("One latent, the child under its parent")
    left.legend(frameon=False)
    for offset, (name, alone) in enumerate({"under its parent": False, "independent": True}.items()):
        found = trained(config, reporter, independent=alone)
        mean = torch.stack([torch.cat([of.cosines, of.bias]) for of in found]).mean(0).tolist()
        bars = right.bar(np.arange(4) + 0.4 * offset - 0.2, mean, 0.38, label=f"child {name}")
        right.bar_label(bars, fmt="%.2f", fontsize=8)
    labels = ("decoder\n· parent", "decoder\n· child", "bias\n· parent", "bias\n· child")
    right.set_xticks(range(4), labels)
    right.set(ylabel="cosine (decoder), component (bias)", title=f"Decoder and bias at q = {config.q:g}, trained")
    right.axhline(0, color="0.3", lw=0.8)
    right.legend(frameon=False)
    return figure


ENTRY = Entry(
    HedgingToy,
    (
        Experiment("on_off", "fast", "a latent of one size: decoder ∝ f₀ + q f₁", on_off),
        Experiment("free", "fast", "a trained ReLU latent: the first principal component", free),
        Experiment("independent", "fast", "an independent child goes to the bias", independent),
    ),
    {"decoders": decoders},
)
