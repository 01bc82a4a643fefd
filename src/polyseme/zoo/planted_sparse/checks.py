"""Checks of planted sparse data: their exact distribution, the chance level, the order of dictionaries."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.zoo.planted_sparse.figures import recovery_figure
from polyseme.zoo.planted_sparse.sweep import (
    NAMES,
    RECOVERY,
    RecoveryPoint,
    RecoverySweep,
    chance_mcc,
    difference,
    recovery_sweep,
)
from polyseme.zoo.planted_sparse.toy import PlantedSparseToy
from polyseme.zoo.tools.checks import Check, Line, Value, least_p, mean, share
from polyseme.zoo.tools.figures import panels

EXACT = "the sampled distribution's own definition"
ROWS = 100_000
LEVEL = 1e-3
"""Family-wise significance level of the comparisons with exact probabilities."""
CLOSE = 0.05
"""Largest difference in MCC, F1 or explained variance that counts as ≈."""
_EXACT: dict[str, Any] = {"source": "derived", "paper": EXACT}
SAMPLED = (
    Line("features on in a row", "{target:g} ± 1%", relative=0.01, n_unit="rows", **_EXACT),
    Line(
        "frequencies of {features} features: least p-value, Bonferroni",
        f"≥ {LEVEL:g}: as Zipf's law and the trees predict",
        at_least=LEVEL,
        n_unit="rows",
        **_EXACT,
    ),
    Line(
        "co-occurrence of {pairs} pairs without parents: least p-value, Bonferroni",
        f"≥ {LEVEL:g}: as the copula predicts",
        at_least=LEVEL,
        n_unit="rows",
        **_EXACT,
    ),
)
SIGNS = Line("pairs whose correlation has the sign of their sides", "1", at_least=1, n_unit="pairs", **_EXACT)
ORPHANS = Line("rows with a child and without its parent", "0", at_most=0, n_unit="rows", **_EXACT)
SIBLINGS = Line("times that two siblings are on together", "0", at_most=0, n_unit="rows", **_EXACT)
CHANCE = Line(
    "MCC of random directions, 1024 with 256 features in 64 dimensions",
    "0.41 ± 0.01",
    target=0.41,
    within=0.01,
    source="computed",
    paper="numerical check",
    n_unit="draws",
)
_LESS = "{what} of {better} less that of {worse}"
GREATER = Line(_LESS, "> 0 beyond the interval", at_least=math.ulp(0), beyond=True, source="published", n_unit="seeds")
NEAR = Line(_LESS, f"0 ± {CLOSE:g}", target=0, within=CLOSE, n_unit="seeds")


def drawn(config: PlantedSparseToy, seed: int, n: int = ROWS) -> Bool[np.ndarray, "row feature"]:
    """Which features are on in `n` rows of a seed."""
    sample = config.instance(seed).draw(n, make_generator(seed, "planted sparse", "checks"))
    return (sample.features > 0).numpy()


def free_features(config: PlantedSparseToy) -> Int[np.ndarray, " free"]:
    """Features without a parent, which the copula draws."""
    return np.flatnonzero(np.array(config.parents()) < 0)


def joint_probabilities(config: PlantedSparseToy, seed: int) -> Float[np.ndarray, "free free"]:
    """Exact probability that two features without a parent are on together.

    Φ₂(Φ⁻¹(pᵢ), Φ⁻¹(pⱼ); ±correlation) where they depend on one factor, pᵢ pⱼ elsewhere.
    """
    from scipy import stats

    free = free_features(config)
    p = config.frequencies()[free]
    bound = stats.norm.ppf(p)
    normal: Any = stats.multivariate_normal  # the stubs know no matrix for its cov
    factor, side = (of.numpy()[free] for of in config.leanings(seed))
    joint = np.outer(p, p)
    first, second = np.nonzero(np.triu(factor[:, None] == factor, 1))
    for i, j in zip(first, second, strict=True):
        rho = config.correlation * side[i] * side[j]
        joint[i, j] = joint[j, i] = normal.cdf((bound[i], bound[j]), cov=((1, rho), (rho, 1)))
    np.fill_diagonal(joint, p)
    return joint


def distribution(config: PlantedSparseToy, reporter: Reporter) -> Sequence[Check]:  # noqa: ARG001  nothing is trained
    """Frequencies, L0, correlation, hierarchy and exclusion of drawn rows, compared with their exact values."""
    p, parents, free = config.frequencies(), np.array(config.parents()), free_features(config)
    pairs = np.triu_indices(len(free), 1)
    l0: list[float] = []
    frequency: list[float] = []
    together: list[float] = []
    orphans = sibling_rows = right = signed = 0
    for seed in config.seeds:
        on = drawn(config, seed)
        l0.append(float(on.sum(1).mean()))
        frequency.append(least_p(on.sum(0), len(on), p))
        mask = on[:, free].astype(np.float32)
        counts = np.rint(mask.T @ mask).astype(np.int64)
        joint = joint_probabilities(config, seed)
        together.append(least_p(counts[pairs], len(on), joint[pairs]))
        apart = np.outer(p[free], p[free])
        # Pairs whose correlation is more than five standard errors from 0.
        clear = np.abs(joint - apart)[pairs] > 5 * np.sqrt(apart[pairs] / len(on))
        signed += int(clear.sum())
        right += int((np.sign(counts / len(on) - apart) == np.sign(joint - apart))[pairs][clear].sum())
        nested = np.flatnonzero(parents >= 0)
        orphans += int((on[:, nested] & ~on[:, parents[nested]]).sum())
        sibling_rows += sum(int((on[:, parents == parent].sum(1) > 1).sum()) for parent in set(parents[nested]))
    n, rows = len(config.seeds), len(config.seeds) * ROWS
    nested_data = config.trees > 0 and config.depth > 0
    siblings = nested_data and config.exclusive and config.branching > 1
    on_in_row, at_least_one, at_least_two = SAMPLED
    return [
        on_in_row.fill(replace(mean(l0), n=rows), target=config.l0),
        at_least_one.fill(Value(min(1.0, n * min(frequency)), rows), features=config.n_features),
        at_least_two.fill(Value(min(1.0, n * min(together)), rows), pairs=len(pairs[0])),
        SIGNS.fill(share(right, signed), "" if signed else "no two features are correlated enough"),
        ORPHANS.fill(Value(orphans, rows), "" if nested_data else "there is no hierarchy"),
        SIBLINGS.fill(Value(sibling_rows, rows), "" if siblings else "no siblings exclude each other"),
    ]


def chance(config: PlantedSparseToy, reporter: Reporter) -> Sequence[Check]:  # noqa: ARG001  nothing is trained
    """The MCC that random directions reach, without which no MCC can be judged."""
    sizes = [PlantedSparseToy(n_features=256, d=64, seeds=(seed,)) for seed in config.seeds]
    return [CHANCE.fill(mean([chance_mcc(of, 1024) for of in sizes]))]


def order(config: PlantedSparseToy, reporter: Reporter, checkpoints: Path | None = None) -> Sequence[Check]:
    """At the true L0, L1 < BatchTopK ≈ JumpReLU, and Matryoshka recovers more and reconstructs less."""
    sweep = RecoverySweep(
        toy=config,
        architectures=("relu", "batch_topk", "jumprelu", "matryoshka"),
        l0=(config.l0,),
        n_latents=config.n_features,
        tokens=1_000_000,
    )
    report = recovery_sweep(sweep, reporter, root=checkpoints)
    return expected_order({p.architecture: p for p in report.points})


def expected_order(points: dict[str, RecoveryPoint]) -> list[Check]:
    """The order that is expected between dictionaries of one L0, by paired differences over seeds."""
    why = [
        f"{name}: FVU {p.value('fvu'):.3f}, L0 {p.value('l0'):.2f} for {p.wanted_l0:g}"
        for name, p in points.items()
        if not (p.value("fvu") < 1 and abs(p.value("l0") / p.wanted_l0 - 1) <= 0.15)
    ]
    greater = [
        *(("batch_topk", "relu", metric) for metric in ("fvu", *RECOVERY)),
        *(("jumprelu", "relu", metric) for metric in ("fvu", *RECOVERY)),
        *(("matryoshka", "batch_topk", metric) for metric in RECOVERY),
        ("batch_topk", "matryoshka", "fvu"),
    ]
    near = [("jumprelu", "batch_topk", metric) for metric in ("fvu", *RECOVERY)]
    checks: list[Check] = []
    for line, compared in ((GREATER, greater), (NEAR, near)):
        for better, worse, metric in compared:
            # Explained variance in place of FVU: the lower is the better.
            a, b = (worse, better) if metric == "fvu" else (better, worse)
            value, interval = difference(points[a], points[b], metric)
            found = Value(value, len(points[better].record("fvu").details["seeds"]), interval)
            what = "explained variance" if metric == "fvu" else NAMES[metric]
            checks.append(line.fill(found, "; ".join(why), what=what, better=better, worse=worse))
    return checks


def sampled_and_exact(config: PlantedSparseToy, reporter: Reporter) -> Any:  # noqa: ARG001  nothing is trained
    """Frequencies by rank, and correlations of features without a parent, sampled beside exact."""
    seed = config.seeds[0]
    on, p, parents = drawn(config, seed), config.frequencies(), np.array(config.parents())
    figure, (left, right) = panels(2, width=10, height=4)
    root = np.arange(len(p)) < config.trees
    kinds = {"root of a tree": root, "child in a tree": parents >= 0, "alone": (parents < 0) & ~root}
    for kind, of in kinds.items():
        left.plot(np.flatnonzero(of) + 1, on.mean(0)[of], "o", ms=3, label=f"{kind}, sampled")
    left.plot(np.arange(len(p)) + 1, p, color="0.3", lw=0.8, label="exact")
    left.set(xscale="log", yscale="log", xlabel="feature", ylabel="share of rows where it is on", title="Frequencies")
    left.legend(frameon=False)
    free = free_features(config)
    pairs = np.triu_indices(len(free), 1)
    spread = np.sqrt(p[free] * (1 - p[free]))
    scale, apart = np.outer(spread, spread)[pairs], np.outer(p[free], p[free])[pairs]
    mask = on[:, free].astype(np.float32)
    exact = (joint_probabilities(config, seed)[pairs] - apart) / scale
    sampled = ((mask.T @ mask)[pairs] / len(on) - apart) / scale
    right.plot(exact, sampled, "o", ms=2, alpha=0.4)
    ends = [float(exact.min()), float(exact.max())]
    right.plot(ends, ends, color="0.3", lw=0.8)
    right.set(xlabel="exact correlation of being on", ylabel="sampled", title="Pairs of features without a parent")
    figure.suptitle(f"Planted sparse data, {len(on):,} rows of seed {seed}", fontsize=11)
    return figure


def fronts(config: PlantedSparseToy, reporter: Reporter) -> Any:
    """The whole recovery sweep on this data, as `polyseme zoo recovery` draws it."""
    return recovery_figure(recovery_sweep(RecoverySweep(toy=config, n_latents=config.n_features), reporter))
