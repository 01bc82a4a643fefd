"""Checks of SynthSAEBench's setting: drawn data against what their definition gives exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse

from polyseme.core.batch import Latents
from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.zoo.synth_sae_bench.toy import SynthSaeBenchToy
from polyseme.zoo.synth_sae_bench.world import World
from polyseme.zoo.tools.checks import Check, Line, Value, least_p, mean, table
from polyseme.zoo.tools.figures import panels

EXACT = "the sampled distribution's own definition"
ROWS = 100_000
LEVEL = 1e-3
"""Family-wise significance level of the comparisons with exact probabilities."""
PAIRED = 48
"""Features without a parent whose pairs are compared, the most frequent ones."""
_DERIVED: dict[str, Any] = {"source": "derived", "paper": EXACT, "n_unit": "rows"}
_TESTS = table(
    Line("frequencies of {features} features without a parent: least p-value, Bonferroni", f"≥ {LEVEL:g}"),
    Line("co-occurrence of {pairs} pairs of them: least p-value, Bonferroni", f"≥ {LEVEL:g}: as the copula predicts"),
    Line(
        "frequencies of {children} children given their parents, without a copula: least p-value, Bonferroni",
        f"≥ {LEVEL:g}: as the chances of being chosen and of winning predict",
    ),
    at_least=LEVEL,
    **_DERIVED,
)
_ORPHANS = Line("times that a child is on without its parent", "0", at_most=0, **_DERIVED)
_SIBLINGS = Line("times that two siblings that exclude each other are on together", "0", at_most=0, **_DERIVED)
_SIZE = Line(
    "mean size of a child over its own mean, where its parent's size is taken out",
    "1 ± 0.01",
    target=1,
    within=0.01,
    source="derived",
    paper=EXACT,
    n_unit="seeds",
)


@dataclass(frozen=True)
class Drawn:
    """Rows of a world.

    Attributes:
        world: where they come from.
        values: sizes, `[row, feature]`.
    """

    world: World
    values: sparse.csc_array

    @classmethod
    def of(cls, config: SynthSaeBenchToy, seed: int, n: int = ROWS) -> "Drawn":
        """`n` rows of a seed."""
        world = config.world(seed)
        return cls(world, _matrix(world.draw(n, make_generator(seed, "synth sae bench", "checks"))))

    @cached_property
    def counts(self) -> Int[np.ndarray, " feature"]:
        """Rows on which each feature is on."""
        return np.diff(self.values.indptr)

    @cached_property
    def parents(self) -> Int[np.ndarray, " feature"]:
        """The parent of each feature, −1 for none."""
        return self.world.forest.parents.numpy()

    @cached_property
    def positive(self) -> Float[np.ndarray, " feature"]:
        """P(size > 0) = Φ(μ / σ) of a chosen feature."""
        from scipy import stats

        return stats.norm.cdf(self.world.mean.numpy() / self.world.spread.numpy())

    def on(self, feature: int) -> Bool[np.ndarray, " row"]:
        """Where a feature is on."""
        return self._dense(feature) > 0

    def _dense(self, feature: int) -> Float[np.ndarray, " row"]:
        return self.values[:, [feature]].toarray()[:, 0]

    def free(self) -> Int[np.ndarray, " free"]:
        """Features without a parent."""
        return np.flatnonzero(self.parents < 0)

    def families(self) -> list[Int[np.ndarray, " child"]]:
        """The children of each parent."""
        forest = self.world.forest
        return list(forest.children(torch.arange(forest.n_parents)).numpy())

    def sizes_within(self, child: int) -> Float[np.ndarray, " row"]:
        """A child's sizes where it and its parent are on, without the parent's part."""
        parent, size = int(self.parents[child]), self._dense(child)
        above = self._dense(parent)
        rows = (size > 0) & (above > 0)
        return size[rows] / (above[rows] / float(self.world.mean[parent]))


def _matrix(values: Latents) -> sparse.csc_array:
    arrays = (values.values.numpy(), values.indices.numpy(), values.offsets.numpy())
    return sparse.csc_array(sparse.csr_array(arrays, shape=(values.n_rows, values.n_latents)))


def joint_probabilities(drawn: Drawn, features: Int[np.ndarray, " feature"]) -> Float[np.ndarray, "feature feature"]:
    """Exact probability that two features without a parent are on together: Φ₂(Φ⁻¹(p̃ᵢ), Φ⁻¹(p̃ⱼ); uᵢ·uⱼ), both > 0."""
    from scipy import stats

    world = drawn.world
    bound = stats.norm.ppf(world.chosen.numpy()[features])
    loadings = world.loadings.double().numpy()[features]
    rho = loadings @ loadings.T
    normal: Any = stats.multivariate_normal  # the stubs know no matrix for its cov
    joint = np.outer(drawn.positive[features], drawn.positive[features])
    for i in range(len(features)):
        for j in range(i):
            joint[i, j] *= normal.cdf((bound[i], bound[j]), cov=((1, rho[i, j]), (rho[i, j], 1)))
            joint[j, i] = joint[i, j]
    return joint


def given_parent(drawn: Drawn, family: Int[np.ndarray, " child"]) -> Float[np.ndarray, " child"]:
    """P(child on | parent on) where features are chosen independently.

    A child that is chosen with a size above 0 stays with probability 1 / (1 + K), K of its siblings being the same.
    """
    q = drawn.world.chosen.numpy()[family] * drawn.positive[family]
    if not bool(drawn.world.forest.excluding[drawn.parents[family[0]]]):
        return q
    stays: list[float] = []
    for child in range(len(q)):
        siblings = np.ones(1)
        for p in np.delete(q, child):
            siblings = np.convolve(siblings, (1 - p, p))
        stays.append(float((siblings / np.arange(1, len(siblings) + 1)).sum()))
    return q * np.array(stays)


def distribution(config: SynthSaeBenchToy, reporter: Reporter) -> Sequence[Check]:  # noqa: ARG001  nothing is trained
    """Frequencies, correlation, hierarchy, exclusion and sizes of drawn rows, compared with their exact values."""
    alone = config.model_copy(update={"correlation": 0.0})
    least: list[tuple[float, float, float]] = []
    orphans = together = 0
    sizes: list[float] = []
    free = np.zeros(0, np.int64)
    for seed in config.seeds:
        drawn, uncorrelated = Drawn.of(config, seed), Drawn.of(alone, seed)
        free = drawn.free()
        probability = drawn.world.chosen.numpy() * drawn.positive
        least.append(
            (
                least_p(drawn.counts[free], ROWS, probability[free]),
                _pairs_p(drawn, free[:PAIRED]),
                _children_p(uncorrelated),
            )
        )
        ratios: list[float] = []
        for family in drawn.families():
            parent = drawn.on(int(drawn.parents[family[0]]))
            on = drawn.values[:, family].toarray() > 0
            orphans += int(on[~parent].sum())
            if bool(drawn.world.forest.excluding[drawn.parents[family[0]]]):
                together += int((on.sum(1) > 1).sum())
            if config.scaled and len(ratios) < PAIRED:
                ratios += [_size_ratio(drawn, int(child)) for child in family if drawn.counts[child] > 200]
        sizes.append(float(np.mean(ratios)) if ratios else math.nan)
    rows, children = ROWS * len(config.seeds), config.n_features - len(free)
    pairs = math.comb(min(PAIRED, len(free)), 2)
    none = "" if children else "there is no hierarchy"
    words = {"features": len(free), "pairs": pairs, "children": children}
    checks = [
        line.fill(Value(min(1.0, len(least) * min(found)), rows), why, **words)
        for line, found, why in zip(_TESTS, zip(*least, strict=True), ("", "", none), strict=True)
    ]
    return [
        *checks,
        _ORPHANS.fill(Value(orphans, rows), none),
        _SIBLINGS.fill(Value(together, rows), none or ("" if config.exclusive else "no siblings exclude each other")),
        _SIZE.fill(mean(sizes), none or ("" if config.scaled else "children are not scaled")),
    ]


def _pairs_p(drawn: Drawn, features: Int[np.ndarray, " feature"]) -> float:
    mask = (drawn.values[:, features].toarray() > 0).astype(np.float32)
    counts = np.rint(mask.T @ mask).astype(np.int64)
    pairs = np.triu_indices(len(features), 1)
    return least_p(counts[pairs], ROWS, joint_probabilities(drawn, features)[pairs])


def _children_p(drawn: Drawn) -> float:
    families = drawn.families()
    if not families:
        return math.nan
    children = np.concatenate(families)
    given = np.concatenate([given_parent(drawn, family) for family in families])
    return least_p(drawn.counts[children], drawn.counts[drawn.parents[children]], given)


def _size_ratio(drawn: Drawn, child: int) -> float:
    from scipy import stats

    mean, spread = float(drawn.world.mean[child]), float(drawn.world.spread[child])
    expected = mean + spread * stats.norm.pdf(mean / spread) / drawn.positive[child]
    return float(drawn.sizes_within(child).mean() / expected)


def sampled_and_wanted(config: SynthSaeBenchToy, reporter: Reporter) -> Any:  # noqa: ARG001  nothing is trained
    """How often features are on beside how often they are to be, by rank."""
    drawn = Drawn.of(config, config.seeds[0])
    figure, (axis,) = panels(1, width=6, height=4)
    rank = np.arange(1, config.n_features + 1)
    roots = rank <= config.trees
    kinds = {"root of a tree": roots, "child in a tree": drawn.parents >= 0, "in no tree": (drawn.parents < 0) & ~roots}
    for name, which in kinds.items():
        axis.loglog(rank[which], drawn.counts[which] / ROWS, ".", ms=3, label=name)
    axis.loglog(rank, drawn.world.frequency.numpy(), "k", lw=0.8, label="wanted")
    axis.set(xlabel="rank", ylabel="share of rows in which it is on", title="Frequencies of features")
    axis.legend(frameon=False)
    return figure
