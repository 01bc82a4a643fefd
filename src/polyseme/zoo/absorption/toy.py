"""Absorption: a sparsity penalty pays for one latent where the truth has two.

A parent is on alone or with one of its children. A row with a child costs an L1 penalty of 2 where parent and child
have latents of their own, and √2 where the child's latent writes both: f₀ + fᵢ. So the child's latent takes on the
parent, and the parent's own latent learns to be silent there: it reads f₀ − Σ fᵢ. Nothing is reconstructed worse.

That this is the optimum is exact. Unit decoders w write y = Σ aⱼ wⱼ at a penalty of Σ aⱼ ≥ ‖y‖, so that a row costs

    ‖x − y‖² + λ Σ aⱼ ≥ ‖x − y‖² + λ ‖y‖ ≥ λ ‖x‖ − λ²/4        (‖x‖ ≥ λ/2; no bias)

and one latent a kind of row, the absorbing dictionary, reaches it. Dictionaries start at the truth, as in the paper's
code, so that where they end does not depend on a random start. Random dictionaries rarely get there: the penalty turns
a child's latent to its parent slowly, and some lose a latent to silence, where ReLU has no gradient.

Siblings exclude each other here; in the paper's code they are drawn one by one.

Chanin et al. 2024, A is for absorption; Chanin et al. 2025, Feature hedging.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.dictionaries import ReLUConfig, SparseDictionary
from polyseme.evaluation.recovery import Answers, FeatureTruth
from polyseme.evaluation.recovery import absorption as absorbed_children
from polyseme.zoo.tools.checks import Check, Experiment, Line, fill, mean, table
from polyseme.zoo.tools.exact import (
    Mixture,
    ShortTraining,
    Start,
    components,
    cosine_map,
    crowded,
    features_of,
    fvu,
    l1_coefficient,
    own_latents,
    planted,
    rows_of,
    started,
    train_on,
    untrained,
)
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.toy import Entry, Toy, TrainedToy

CEILING = 0.1
"""A dictionary with as many latents as features and an FVU above this did not train, or lost a latent."""


class AbsorptionToy(Toy):
    """A tree of orthogonal features, each on at 1; siblings exclude each other."""

    title: ClassVar[str] = "absorption: children that speak for their parent"
    paper: ClassVar[str] = "Chanin et al. 2024, A is for absorption, arXiv 2409.14507"

    d: Width = 50
    p: float = Field(default=0.25, gt=0, lt=1)
    """How often the root is on."""
    branching: int = Field(default=3, ge=1, le=1000)
    """Children of each feature that has any."""
    given: float = Field(default=0.15, gt=0, lt=1)
    """P(child | parent) of each child; with three of 0.15 the parent is alone in 0.55 of its rows."""
    depth: int = Field(default=1, ge=1, le=16)
    """Generations under the root."""
    penalty: float = Field(default=3e-2, gt=0, le=1e6)
    """Coefficient of the L1 norm, in the data's own units."""
    seeds: Annotated[Seeds, Field(min_length=2)] = (0, 1, 2, 3, 4)
    training: ShortTraining = ShortTraining(steps=1_000)

    @model_validator(mode="after")
    def _possible(self) -> "AbsorptionToy":
        if why := crowded(self.n_features, self.d):
            raise ValueError(why)
        if self.branching * self.given >= 1:
            raise ValueError(
                f"{self.branching} children of {self.given:g} leave their parent no row alone: lower branching or given"
            )
        return self

    @property
    def n_features(self) -> int:
        """Features of the whole tree."""
        return sum(self.branching**generation for generation in range(self.depth + 1))

    @property
    def parents(self) -> list[int]:
        """The parent of each feature, generation by generation; −1 for the root."""
        return [-1, *((child - 1) // self.branching for child in range(1, self.n_features))]

    def build(self) -> Mixture:
        return Mixture(torch.zeros(self.n_features, self.d))

    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """The mixture of each seed."""
        return [planted(self.n_features, self.d, seed, self._draw, {"depth": self.depth}) for seed in self.seeds]

    def _draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "row feature"]:
        """One uniform number a parent, cut into an interval a child."""
        on = torch.zeros(n, self.n_features)
        on[:, 0] = (torch.rand(n, generator=generator) < self.p).float()
        for parent in range(self.n_features // self.branching):
            children = [c for c, of in enumerate(self.parents) if of == parent]
            which = torch.floor(torch.rand(n, generator=generator) / self.given)
            for i, child in enumerate(children):
                on[:, child] = on[:, parent] * (which == i)
        return on


@dataclass(frozen=True)
class Found:
    """A dictionary of as many ReLU latents as features, trained under the penalty.

    Attributes:
        read, write: cosines of its latents' directions with the features; latent i is that of feature i by what it
            writes.
        fvu: FVU on its training vectors.
        loss: mean on them of ‖x − x̂‖² + penalty × Σ f, over the least that it can be.
        depth, absorbed: depth of each child, and the share of its rows that are absorbed beyond carelessness.
    """

    read: Float[Tensor, "latent feature"]
    write: Float[Tensor, "latent feature"]
    fvu: float
    loss: float
    depth: np.ndarray
    absorbed: np.ndarray


def bound(x: Float[Tensor, "row d"], penalty: float) -> float:
    """The least loss of any dictionary of unit decoders without a bias: mean of λ‖x‖ − λ²/4, of ‖x‖² under λ/2."""
    norm = torch.linalg.vector_norm(x.double(), dim=1)
    return float(torch.where(norm >= penalty / 2, penalty * norm - penalty**2 / 4, norm**2).mean())


def penalised(dictionary: SparseDictionary, x: Float[Tensor, "row d"], penalty: float) -> float:
    """Mean over rows of ‖x − x̂‖² + penalty × Σ f."""
    z = dictionary.encode(x)
    error = float((dictionary.decode(z).double() - x.double()).square().sum())
    return (error + penalty * float(z.values.double().sum())) / len(x)


def found(config: AbsorptionToy, starts: Sequence[Start], reporter: Reporter) -> dict[Start, list[Found]]:
    """A dictionary of each start for each seed; those of a seed are trained in one pass."""
    out: dict[Start, list[Found]] = {start: [] for start in starts}
    for toy in config.train(reporter):
        F, x = features_of(toy), rows_of(toy, config.training.rows)
        relu = ReLUConfig(n_latents=config.n_features, coefficient=l1_coefficient(config.penalty, x))
        dictionaries: dict[Start, SparseDictionary] = {
            start: started(relu, toy, x, start, name="absorption") for start in starts
        }
        train_on(toy, x, dictionaries, config.training, reporter)
        heldout, sample = toy.activations(config.training.rows, make_generator(toy.seed, "heldout"))
        for start, dictionary in dictionaries.items():
            answers = Answers.of([(dictionary.encode(heldout), sample.features)])
            children = absorbed_children(answers, FeatureTruth(F, config.parents))
            write = components(dictionary.write_directions(), F)
            own = own_latents(write)
            read = components(dictionary.read_directions(), F)
            loss = penalised(dictionary, x, config.penalty) / bound(x, config.penalty)
            scores = fvu(dictionary, x), loss
            out[start].append(Found(read[own], write[own], *scores, children.depth, children.excess))
    return out


*LINES, AT_DEPTH = table(
    Line(
        "greatest cosine of what the parent's latent reads with a child",
        "< −0.1: a negative component of each child",
        at_most=-0.1,
    ),
    Line(
        "least cosine of what a child's latent writes with the parent",
        "≥ 0.5 (1/√2 where it is absorbed in whole)",
        at_least=0.5,
    ),
    Line(
        "share of children's rows where the parent's latent is silent, beyond carelessness",
        "≥ 0.9",
        at_least=0.9,
    ),
    Line(
        "penalised loss over the least there can be",
        "1 ± 0.02: absorption is the optimum",
        target=1,
        within=0.02,
        source="derived",
        paper="λ‖x‖ − λ²/4 a row",
    ),
    Line(
        "absorbed share of children's rows at depth {depth}",
        "> 0: the penalty pays at every depth",
        at_least=math.ulp(0),
        beyond=True,
    ),
    n_unit="dictionaries",
)


def absorbed(config: AbsorptionToy, reporter: Reporter) -> list[Check]:
    """The parent's latent reads its children with a minus sign and is silent on their rows; theirs write the parent."""
    truth, random = found(config, ("at the truth", "at random"), reporter).values()
    children = [c for c, parent in enumerate(config.parents) if parent == 0]
    reached = sum(of.loss <= 1.02 for of in random)
    lost = sum(of.fvu > CEILING for of in random)
    values = (
        mean([float(of.read[0, children].max()) for of in truth]),
        mean([float(of.write[children, 0].min()) for of in truth]),
        mean([float(of.absorbed[of.depth == 1].mean()) for of in truth]),
        mean(
            [of.loss for of in truth],
            f"{reached} of {len(random)} random starts come as near, {lost} lose a latent (FVU above {CEILING:g})",
        ),
    )
    return fill(LINES, values, untrained([of.fvu for of in truth], CEILING))


def by_depth(config: AbsorptionToy, reporter: Reporter) -> list[Check]:
    """Two generations: what is absorbed at each depth.

    It is at most 1 − branching × given at depth 1, where a grandchild's latent speaks for the child too, else 1.
    """
    deeper = config.model_copy(update={"depth": 2})
    why = crowded(deeper.n_features, deeper.d)
    dictionaries = [] if why else found(deeper, ("at the truth",), reporter)["at the truth"]
    why = why or untrained([of.fvu for of in dictionaries], CEILING)
    checks: list[Check] = []
    for depth in (1, 2):
        values = [of.absorbed[of.depth == depth] for of in dictionaries]
        found_there = mean([float(of.mean()) if len(of) else math.nan for of in values])
        checks.append(AT_DEPTH.fill(found_there, why, depth=depth))
    return checks


def directions(config: AbsorptionToy, reporter: Reporter) -> Any:
    """What each latent writes and reads, by cosines with the features, from both starts: the first seed's."""
    of_seed = found(config.model_copy(update={"seeds": config.seeds[:1]}), ("at the truth", "at random"), reporter)
    figure, axes = panels(4, width=14, height=3.6)
    for i, (start, (dictionary,)) in enumerate(of_seed.items()):
        about = f"started {start}, {dictionary.loss:.2f} of least loss"
        cosine_map(axes[2 * i], dictionary.write, title=f"writes (decoder)\n{about}", left=i == 0)
        cosine_map(axes[2 * i + 1], dictionary.read, title=f"reads (encoder)\n{about}", left=False)
    figure.suptitle(f"Absorption at L1 {config.penalty:g}: cosines with parent f0 and its children", fontsize=11)
    return figure


ENTRY = Entry(
    AbsorptionToy,
    (
        Experiment("absorbed", "fast", "the parent's latent reads its children with a minus sign", absorbed),
        Experiment("depth", "fast", "absorption in a tree of two generations", by_depth),
    ),
    {"directions": directions},
)
