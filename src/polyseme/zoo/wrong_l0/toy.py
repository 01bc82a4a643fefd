"""Wrong L0: too few latents a vector, and every latent takes on a part of the feature that the others go with.

Feature 0 correlates with each other one, and they depend on it alone. A k under the true L0 is best spent on latents
that write their own feature and what is to be expected of feature 0 beside it, so that a dictionary that starts at the
truth leaves it. Two things decide whether k at the true L0 finds the features:

*Where b_dec starts.* A latent that reads and writes −f₀, with f₀ in the bias, says "f₀ is absent" and reconstructs f₀
as well as one that says it is there. With b_dec at the data's mean half of the random latents lean to that side, and
training does not turn them round. With b_dec at 0 they read ⟨w, x⟩, which no absence makes positive. So dictionaries
start at 0 here, as in the paper's code, and the experiment `bias` compares the two: 5 of 5 dictionaries find every
feature from 0, none of 5 from the mean. Features this frequent (p = 0.4) make it visible: the absence of a rare one
would cost nearly a whole latent a vector.

*The batch.* BatchTopK keeps k × batch entries, and a batch's own L0 is k only up to 1/√batch: batches above it are
encoded with too small a k, and k = 2 mixes a little, the less the larger the batch: cosines of 0.07 to 0.10 with f₀ at
512 rows, about 0.04 at 2048.

At k under the true L0 random starts end in local minima of a higher loss than the start at the truth, where not every
latent mixes f₀ in. So the statement is about the optimum, and is checked from the truth.

Chanin & Garriga-Alonso 2025, Sparse but wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.dictionaries import BatchTopKConfig, SparseDictionary
from polyseme.zoo.tools.checks import Check, Experiment, Line, fill, mean, share, table
from polyseme.zoo.tools.exact import (
    Mixture,
    ShortTraining,
    Start,
    components,
    cosine_map,
    crowded,
    features_of,
    fvu,
    own_latents,
    planted,
    rows_of,
    started,
    train_on,
    untrained,
)
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.toy import Entry, Toy, TrainedToy

CEILING = 0.5
"""A dictionary with an FVU above this did not train; one latent a vector of its own leaves less."""
RECOVERED = 0.99
"""Least cosine of a latent with its feature in a dictionary that found them."""
Kind = tuple[float, Start]
"""A dictionary's k and start."""


class WrongL0Toy(Toy):
    """Orthogonal features, all equally often on."""

    title: ClassVar[str] = "dictionaries of the wrong L0"
    paper: ClassVar[str] = "Chanin & Garriga-Alonso 2025, Sparse but wrong, arXiv 2508.16560"

    n_features: Annotated[Width, Field(ge=3)] = 5
    d: Width = 20
    p: float = Field(default=0.4, gt=0, lt=1)
    """How often each feature is on."""
    correlation: float = Field(default=0.4, gt=0, lt=1)
    """Correlation of feature 0 with each other one."""
    spread: float = Field(default=0.15, ge=0, lt=1 / math.sqrt(3))
    """Standard deviation of values, which are 1 plus this times a uniform number in ±√3."""
    low: float = Field(default=0.9, gt=0, lt=1)
    """The k that is too small, as a share of the true L0."""
    seeds: Annotated[Seeds, Field(min_length=2)] = (0, 1, 2, 3, 4)
    training: ShortTraining = ShortTraining(steps=600, batch=2048)

    @model_validator(mode="after")
    def _possible(self) -> "WrongL0Toy":
        if why := crowded(self.n_features, self.d):
            raise ValueError(why)
        return self

    @property
    def l0(self) -> float:
        """The true L0."""
        return self.n_features * self.p

    def build(self) -> Mixture:
        return Mixture(torch.zeros(self.n_features, self.d))

    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """The mixture of each seed."""
        return [planted(self.n_features, self.d, seed, self._draw, {"p": self.p}) for seed in self.seeds]

    def _draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "row feature"]:
        """P(i | 0 on) = p + ρ(1 − p) and P(i | 0 off) = p(1 − ρ) give each feature p and its correlation with 0 ρ."""
        u = torch.rand(n, self.n_features, generator=generator)
        first = u[:, :1] < self.p
        given = torch.where(first, self.p + self.correlation * (1 - self.p), self.p * (1 - self.correlation))
        on = torch.cat([first, u[:, 1:] < given], 1)
        noise = math.sqrt(3) * (2 * torch.rand(n, self.n_features, generator=generator) - 1)
        return on * (1 + self.spread * noise)


@dataclass(frozen=True)
class Found:
    """A BatchTopK dictionary of as many latents as features.

    Attributes:
        cosines: cosines of its decoder with the features; latent i is that of feature i by the best matching.
        fvu: FVU on its training vectors.
    """

    cosines: Float[Tensor, "latent feature"]
    fvu: float

    @property
    def own(self) -> float:
        """The least cosine of a latent with its feature."""
        return float(self.cosines.diagonal().min())

    @property
    def mixed(self) -> Float[Tensor, " other"]:
        """The cosine with feature 0 of the latent that is nearest to each other feature."""
        return self.cosines[self.cosines[:, 1:].argmax(0), 0]

    @property
    def absent(self) -> bool:
        """Whether a latent writes the opposite of a feature, and so stands for its absence."""
        return bool((self.cosines < -0.5).any())

    @property
    def recovered(self) -> bool:
        """Whether every feature has a latent of its own."""
        return self.own >= RECOVERED


def found(config: WrongL0Toy, wanted: Sequence[Kind], reporter: Reporter) -> dict[Kind, list[Found]]:
    """A trained dictionary of each k and start for each seed; those of a seed are trained in one pass."""
    out: dict[Kind, list[Found]] = {key: [] for key in wanted}
    for toy in config.train(reporter):
        F, x = features_of(toy), rows_of(toy, config.training.rows)
        dictionaries: dict[Kind, SparseDictionary] = {
            (k, start): started(BatchTopKConfig(n_latents=config.n_features, k=k), toy, x, start, name="wrong l0")
            for k, start in wanted
        }
        train_on(toy, x, dictionaries, config.training, reporter)
        for key, dictionary in dictionaries.items():
            cosines = components(dictionary.write_directions(), F)
            out[key].append(Found(cosines[own_latents(cosines)], fvu(dictionary, x)))
    return out


_FVU = "FVU of the start at the truth less that of the seed's random start"
K = table(
    Line(
        "k = {high:g}, started at random: share of dictionaries that find every feature",
        "> 0.5: poor local minima are occasional",
        at_least=0.5 + 1e-9,
    ),
    Line("k = {high:g}: " + _FVU, "≤ 0.002: the features are the optimum", at_most=0.002),
    Line(
        "k = {high:g}, started at the truth: least cosine of a latent with its feature",
        f"≥ {RECOVERED:g}",
        at_least=RECOVERED,
    ),
    Line(
        "k = {high:g}, start of lower FVU: greatest |cosine| of another feature's latent with f0",
        "≤ 0.05",
        at_most=0.05,
    ),
    Line(
        "k = {low:g}, started at the truth: least cosine of another feature's latent with f0",
        "≥ 0.05: in every latent",
        at_least=0.05,
    ),
    Line("k = {low:g}: " + _FVU, "≤ 0: to mix is the better optimum", at_most=0.0),
    n_unit="dictionaries",
)
_BIAS = "k = {k:g}, b_dec from "
BIAS = table(
    Line(_BIAS + "0: share of dictionaries that find every feature", "> 0.5"),
    Line(_BIAS + "the data's mean: share with a latent for a feature's absence", "> 0.5"),
    at_least=0.5 + 1e-9,
    n_unit="dictionaries",
)


def right_and_low(config: WrongL0Toy, reporter: Reporter) -> list[Check]:
    """k at the true L0 finds the features; k under it mixes feature 0 into the others, from the truth as well."""
    high, low = config.l0, config.low * config.l0
    wanted: list[Kind] = [(k, start) for k in (high, low) for start in ("at random", "at the truth")]
    of = found(config, wanted, reporter)
    random, truth, low_random, low_truth = of.values()
    best = [min(pair, key=lambda d: d.fvu) for pair in zip(random, truth, strict=True)]
    hits, n = sum(d.recovered for d in random), len(random)
    least = [float(d.mixed.min()) for d in low_random]
    reached = sum(d.fvu <= t.fvu + 0.002 for t, d in zip(low_truth, low_random, strict=True))
    values = (
        share(hits, n, f"{hits} of {n} with every cosine ≥ {RECOVERED:g}; FVU {_range(random)}"),
        mean(
            [t.fvu - d.fvu for t, d in zip(truth, random, strict=True)],
            f"FVU {_range(truth)} from the truth, {_range(random)} from random weights",
        ),
        mean([d.own for d in truth]),
        mean([float(d.mixed.abs().max()) for d in best], f"FVU {_range(best)}"),
        mean([float(d.mixed.min()) for d in low_truth], f"FVU {_range(low_truth)}"),
        mean(
            [t.fvu - d.fvu for t, d in zip(low_truth, low_random, strict=True)],
            f"{reached} of {n} random starts come within 0.002 (FVU {_range(low_random)}); their least cosine "
            f"with f0 is {min(least):.2f} to {max(least):.2f}",
        ),
    )
    why = untrained([d.fvu for dictionaries in of.values() for d in dictionaries], CEILING)
    return fill(K, values, why, high=high, low=low)


def bias_start(config: WrongL0Toy, reporter: Reporter) -> list[Check]:
    """At the true L0, from random weights: b_dec at 0 finds the features, b_dec at the data's mean their absences."""
    of = found(config, [(config.l0, "at random"), (config.l0, "at random, b_dec at the mean")], reporter)
    zero, mean_start = of.values()
    checks: list[Check] = []
    for line, dictionaries, hits in (
        (BIAS[0], zero, [d.recovered for d in zero]),
        (BIAS[1], mean_start, [d.absent for d in mean_start]),
    ):
        recovered = sum(d.recovered for d in dictionaries)
        note = f"{recovered} of {len(dictionaries)} find every feature; FVU {_range(dictionaries)}"
        why = untrained([d.fvu for d in dictionaries], CEILING)
        checks.append(line.fill(share(hits, note=note), why, k=config.l0))
    return checks


def _range(dictionaries: Sequence[Found]) -> str:
    scores = [d.fvu for d in dictionaries]
    return f"{min(scores):.4f} to {max(scores):.4f}"


def decoders(config: WrongL0Toy, reporter: Reporter) -> Any:
    """Cosines of every latent's decoder with the features, of each k and start: the first seed's dictionaries."""
    high, low = config.l0, config.low * config.l0
    wanted: list[Kind] = [
        (high, "at random, b_dec at the mean"),
        (high, "at random"),
        (low, "at random"),
        (low, "at the truth"),
    ]
    of_seed = found(config.model_copy(update={"seeds": config.seeds[:1]}), wanted, reporter)
    figure, axes = panels(len(of_seed), width=15, height=3.8)
    for i, (axis, ((k, start), (dictionary,))) in enumerate(zip(axes, of_seed.items(), strict=True)):
        title = f"k = {k:g} (FVU {dictionary.fvu:.4f})\nstarted {start}"
        cosine_map(axis, dictionary.cosines, title=title, left=i == 0)
    figure.suptitle(f"Decoder cosines with the features; the true L0 is {config.l0:g}", fontsize=11)
    return figure


ENTRY = Entry(
    WrongL0Toy,
    (
        Experiment(
            "k", "slow", "too small a k mixes correlated features, even from the truth", right_and_low, version=2
        ),
        Experiment("bias", "fast", "b_dec started at 0 finds features, at the mean their absences", bias_start),
    ),
    {"decoders": decoders},
)
