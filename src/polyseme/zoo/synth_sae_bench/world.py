"""One world of SynthSAEBench's setting: what decides its data, and what draws them, sparse and fast.

*Frequencies.* pᵢ = p_min + (p_max − p_min)(i^−γ − N^−γ) / (1 − N^−γ): Zipf's law, moved and scaled so that it begins
and ends where it should.

*Trees.* So that a child c of q is on in about p_c of the rows, it is chosen with probability

    p̃_c = min(1, p_c / p_q × (1 + Σ p_s / p_q over its siblings s, where they exclude each other))

which makes up for the rows without q, and approximately for those that a sibling wins (with p_c, if not compensated).

*Copula.* Feature i is chosen where uᵢ·ε + √(1 − ‖uᵢ‖²) ηᵢ < Φ⁻¹(p̃ᵢ), with loadings uᵢ ~ N(0, scale²) on a few factors ε
that all features of a row share (a longer uᵢ is cut to ‖uᵢ‖² = 0.99), and ηᵢ of its own.

*Directions.* Random unit vectors, moved apart by Adam on Σ_{i≠j} (fᵢ·fⱼ)² + N Σ (‖fᵢ‖² − 1)². Its gradient is
4 F (FᵀF) less what i has of itself, so that a step costs N d² operations instead of the N² d of all pairs.

Everything here but the numbers of `MEANS` to `MOST_SHARED` is in the paper or in the documentation of the reference
implementation, `sae_lens.synthetic`. Our draws have the distribution of its draws, and none of its random numbers.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.core.batch import Latents
from polyseme.core.seeds import make_generator
from polyseme.kernels import tiles

MEANS = (5.0, 4.0)
"""Mean size of the most and of the least frequent feature; linear between them."""
SPREAD = (0.5, 0.5)
"""Sizes of feature i have a standard deviation of σᵢ = |m + s n|."""
BIAS = 0.5
"""Norm of the bias."""
STEPS, RATE = 100, 3e-4
"""Steps and learning rate with which directions are moved apart."""
MOST_SHARED = 0.99
"""Largest ‖uᵢ‖²."""
ROWS = 512
"""Rows that are drawn at a time."""
BLOCK = 32
"""Features that are bounded together when rare ones without a parent are drawn."""
RARE = 1 / 32
"""Features are drawn by the process of their blocks where they are chosen less often than this."""
CERTAIN = 1 - 2**-23
"""Probabilities above this count as this, where a rate is infinite at 1."""


def frequencies(n: int, exponent: float, most: float, least: float) -> Float[Tensor, " feature"]:
    """Zipf's law between two frequencies, float64."""
    law = torch.arange(1, n + 1, dtype=torch.float64) ** -exponent
    return least + (most - least) * (law - law[-1]) / (law[0] - law[-1])


def moved_apart(directions: Float[Tensor, "feature d"], steps: int = STEPS) -> Float[Tensor, "feature d"]:
    """Unit vectors after some steps that lower Σ_{i≠j} (fᵢ·fⱼ)²."""
    F = torch.nn.Parameter(torch.nn.functional.normalize(directions, dim=1))
    optimiser = torch.optim.Adam([F], lr=RATE)
    with torch.no_grad():
        for _ in range(steps):
            squared = F.square().sum(1, keepdim=True)
            F.grad = 4 * (F @ (F.T @ F) - squared * F + len(F) * (squared - 1) * F)
            optimiser.step()
        return torch.nn.functional.normalize(F, dim=1)


@dataclass(frozen=True)
class Forest:
    """Trees laid out generation by generation: all roots, all their children, …, then the features in no tree.

    Attributes:
        n_features: number of features.
        trees, branching, depth: number of roots, of children of each parent, and of generations under the roots.
        excluding: parents whose children exclude each other, `[feature]`; False for features without children.
    """

    n_features: int
    trees: int
    branching: int
    depth: int
    excluding: Bool[Tensor, " feature"]

    @classmethod
    def grown(
        cls, n_features: int, trees: int, branching: int, depth: int, share: float, generator: torch.Generator
    ) -> "Forest":
        """A share of the parents with more than one child, drawn at random, has children that exclude each other."""
        forest = cls(n_features, trees, branching, depth, torch.zeros(n_features, dtype=torch.bool))
        n = forest.n_parents if branching > 1 else 0
        forest.excluding[torch.randperm(n, generator=generator)[: int(n * share)]] = True
        return forest

    @property
    def n_parents(self) -> int:
        """Features with children: the first ones."""
        return self.trees * sum(self.branching**g for g in range(self.depth))

    @cached_property
    def parents(self) -> Int[Tensor, " feature"]:
        """The parent of each feature, −1 for none."""
        child = torch.arange(self.n_features)
        parent = torch.div(child - self.trees, self.branching, rounding_mode="floor")
        return torch.where((parent >= 0) & (parent < self.n_parents), parent, -1)

    def children(self, of: Int[Tensor, " parent"]) -> Int[Tensor, "parent child"]:
        """The children of some parents."""
        return self.trees + of[:, None] * self.branching + torch.arange(self.branching, device=of.device)

    def chosen(self, p: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
        """p̃: with what probability each feature is chosen, where it is to be on with p."""
        if not self.n_parents:
            return p
        given = p[self.children(torch.arange(self.n_parents))] / p[: self.n_parents, None]
        siblings = given.sum(1, keepdim=True) - given
        out = p.clone()
        out[self.trees : self.trees + given.numel()] = torch.where(
            self.excluding[: self.n_parents, None], given * (1 + siblings), given
        ).flatten()
        return out.clamp(max=1)


@dataclass(frozen=True)
class World:
    """What decides a data set.

    Attributes:
        directions: unit vectors fᵢ.
        bias: b.
        frequency: pᵢ, how often each feature is to be on.
        forest: who is whose parent.
        chosen: p̃ᵢ.
        mean: μᵢ of the sizes.
        spread: σᵢ of them.
        loadings: uᵢ of the copula.
        scaled: whether children's sizes follow their parents'.
    """

    directions: Float[Tensor, "feature d"]
    bias: Float[Tensor, " d"]
    frequency: Float[Tensor, " feature"]
    forest: Forest
    chosen: Float[Tensor, " feature"]
    mean: Float[Tensor, " feature"]
    spread: Float[Tensor, " feature"]
    loadings: Float[Tensor, "feature factor"]
    scaled: bool

    @classmethod
    def made(cls, config: Any, seed: int) -> "World":
        """The world of a `SynthSaeBenchToy` and a seed."""

        def normal(name: str, *shape: int) -> Tensor:
            return torch.randn(*shape, generator=make_generator(seed, "synth sae bench", name))

        n, d = config.n_features, config.d
        loadings = config.correlation * normal("loadings", n, config.rank)
        length = torch.linalg.vector_norm(loadings, dim=1, keepdim=True)
        loadings *= (MOST_SHARED**0.5 / length.clamp(min=1e-30)).clamp(max=1)
        forest = Forest.grown(
            n,
            config.trees,
            config.branching,
            config.depth,
            config.exclusive,
            make_generator(seed, "synth sae bench", "excluding"),
        )
        p = frequencies(n, config.zipf, *config.frequencies)
        return cls(
            directions=moved_apart(normal("directions", n, d)),
            bias=BIAS * torch.nn.functional.normalize(normal("bias", d), dim=0),
            frequency=p,
            forest=forest,
            chosen=forest.chosen(p) if config.compensated else p,
            mean=torch.linspace(*MEANS, n),
            spread=(SPREAD[0] + SPREAD[1] * normal("spread", n)).abs(),
            loadings=loadings,
            scaled=config.scaled,
        )

    @cached_property
    def _reach(self) -> Float[Tensor, "feature factor_plus_1"]:
        """What (ε, 1) is multiplied with: feature i is chosen where a normal number is below the product."""
        own = (1 - self.loadings.square().sum(1, keepdim=True)).sqrt()
        level = torch.special.ndtri(self.chosen).float()
        return torch.cat([self.loadings, level[:, None]], 1) / own

    @cached_property
    def _parentless(self) -> tuple[Int[Tensor, " free"], Tensor, Tensor]:
        """Features without a parent, frequent ones first, and what gives the reaches of the frequent and of the rare.

        The rare are filled up to whole blocks with ones that are never chosen.
        """
        free = (self.forest.parents < 0).nonzero().view(-1)
        rare = self.chosen[free] < RARE
        never = torch.zeros(-int(rare.sum()) % BLOCK, self._reach.shape[1])
        never[:, -1] = -torch.inf
        frequent, rest = self._reach[free[~rare]], torch.cat([self._reach[free[rare]], never])
        return torch.cat([free[~rare], free[rare]]), frequent.T.contiguous(), rest.T.contiguous()

    def draw(self, n: int, generator: torch.Generator) -> Latents:
        """The sizes of the features that are on, in `n` rows."""
        parts = [self._rows(min(ROWS, n - i), generator) for i in range(0, n, ROWS)]
        lengths = torch.tensor([len(part.values) for part in parts])
        before = (lengths.cumsum(0) - lengths).tolist()
        return Latents(
            torch.cat([part.values for part in parts]),
            torch.cat([part.indices for part in parts]),
            torch.cat(
                [part.offsets[i > 0 :] + start for i, (part, start) in enumerate(zip(parts, before, strict=True))]
            ),
            len(self.directions),
        )

    def vectors(self, values: Latents) -> Float[Tensor, "row d"]:
        """x of drawn rows."""
        return tiles.bag_sum(self.directions, values.indices, values.offsets, values.values).add_(self.bias)

    def _rows(self, n: int, generator: torch.Generator) -> Latents:
        factors = torch.ones(n, self.loadings.shape[1] + 1)
        factors[:, :-1] = torch.randn(n, self.loadings.shape[1], generator=generator)
        row, feature = self._free(factors, generator)
        size = self._sizes(feature, generator)
        row, feature, size = (part[size > 0] for part in (row, feature, size))
        found = [(row, feature, size)]
        for _ in range(self.forest.depth):
            row, feature, size = self._children(factors, row, feature, size, generator)
            found.append((row, feature, size))
        row, feature, size = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = (row * len(self.directions) + feature).argsort()
        offsets = torch.zeros(n + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(row, minlength=n), 0, out=offsets[1:])
        return Latents(size[order], feature[order].to(torch.int32), offsets, len(self.directions))

    def _free(
        self, factors: Float[Tensor, "row factor_plus_1"], generator: torch.Generator
    ) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"]]:
        """Chosen features among those without a parent: their rows and numbers.

        Given ε, feature i is chosen with qᵢ = Φ((Φ⁻¹(p̃ᵢ) − uᵢ·ε) / √(1 − ‖uᵢ‖²)), independently of the others: as
        often as a Poisson process of rate λᵢ = −log(1 − qᵢ) has a point. A rare one seldom has, so the points of a
        process of the largest rate of each block are drawn, and those that are above a feature's own rate dropped.
        """
        free, frequent, rare = self._parentless
        reach = factors @ frequent
        row, feature = (torch.randn(reach.shape, generator=generator) < reach).nonzero(as_tuple=True)
        if not rare.numel():
            return row, free[feature]
        reach = (factors @ rare).view(-1)
        most = _rate(reach.view(-1, BLOCK).amax(1)).double()
        ends = (most * BLOCK).cumsum(0)
        points = _points(float(ends[-1]), generator)
        block = torch.searchsorted(ends, points, right=True).clamp_(max=len(most) - 1)
        highest = most.index_select(0, block)
        place = (points - ends.index_select(0, block)) / highest + BLOCK
        within = place.floor().clamp_(0, BLOCK - 1)
        entry = block * BLOCK + within.long()
        entry = entry[(place - within) * highest < _rate(reach.index_select(0, entry))]
        entry = torch.unique_consecutive(entry)
        rows = torch.div(entry, rare.shape[1], rounding_mode="floor")
        return torch.cat([row, rows]), free[torch.cat([feature, frequent.shape[1] + entry - rows * rare.shape[1]])]

    def _children(
        self,
        factors: Float[Tensor, "row factor_plus_1"],
        row: Int[Tensor, " entry"],
        feature: Int[Tensor, " entry"],
        size: Float[Tensor, " entry"],
        generator: torch.Generator,
    ) -> tuple[Int[Tensor, " child"], Int[Tensor, " child"], Float[Tensor, " child"]]:
        """The children that are on under the features that are, each with its row, number and size."""
        parent = feature < self.forest.n_parents
        row, feature, size = row[parent], feature[parent], size[parent]
        children = self.forest.children(feature)
        weights = self._reach.index_select(0, children.view(-1)).view(*children.shape, factors.shape[1])
        reach = torch.bmm(weights, factors.index_select(0, row)[:, :, None]).squeeze(2)
        own = self._sizes(children, generator)
        on = (torch.randn(children.shape, generator=generator) < reach) & (own > 0)
        lot = torch.rand(children.shape, generator=generator).masked_fill_(~on, -1)
        won = torch.nn.functional.one_hot(lot.argmax(1), children.shape[1]).bool()
        on &= won | ~self.forest.excluding[feature, None]
        if self.scaled:
            own *= (size / self.mean[feature])[:, None]
        which, child = on.nonzero(as_tuple=True)
        return row[which], children[which, child], own[which, child]

    def _sizes(self, features: Int[Tensor, "*entry"], generator: torch.Generator) -> Float[Tensor, "*entry"]:
        """ReLU(μ + σ n)."""
        normal = torch.randn(features.shape, generator=generator)
        return torch.addcmul(self.mean[features], self.spread[features], normal).relu_()


def _rate(reach: Float[Tensor, "*entry"]) -> Float[Tensor, "*entry"]:
    """−log(1 − Φ(reach))."""
    return -torch.log1p(-torch.special.ndtr(reach).clamp_(max=CERTAIN))


def _points(end: float, generator: torch.Generator) -> Float[Tensor, " point"]:
    """A Poisson process of rate 1 on [0, end), ascending."""
    likely = int(end + 6 * end**0.5 + 16)
    points = torch.empty(likely, dtype=torch.float64).exponential_(generator=generator).cumsum_(0)
    while float(points[-1]) < end:
        more = torch.empty(likely, dtype=torch.float64).exponential_(generator=generator).cumsum_(0)
        points = torch.cat([points, points[-1] + more])
    return points[points < end]
