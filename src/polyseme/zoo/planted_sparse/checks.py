"""What planted sparse data are held against: their exact distribution, the chance level, the order of dictionaries."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from polyseme.core.progress import Reporter
from polyseme.core.seeds import make_generator
from polyseme.zoo.planted_sparse.data import PlantedSparseConfig
from polyseme.zoo.tools.checks import Check, check, mean_interval, not_measured, share_interval
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.recovery import (
    NAMES,
    RECOVERY,
    RecoveryPoint,
    RecoverySweep,
    chance_mcc,
    difference,
    recovery_sweep,
)
from polyseme.zoo.tools.recovery_figures import recovery_figure

PAPER = "Chanin & Garriga-Alonso 2026, SynthSAEBench"
EXACT = "the sampled distribution's own definition"
ROWS = 100_000
LEVEL = 1e-3
"""Family-wise level of the comparisons with exact probabilities."""
CLOSE = 0.05
"""What ≈ allows between two architectures, in MCC, F1 and explained variance."""


def drawn(config: PlantedSparseConfig, seed: int, n: int = ROWS) -> Bool[np.ndarray, "row feature"]:
    """Which features are on in `n` rows of a seed."""
    sample = config.instance(seed).draw(n, make_generator(seed, "planted sparse", "checks"))
    return (sample.features > 0).numpy()


def free_features(config: PlantedSparseConfig) -> Int[np.ndarray, " free"]:
    """Features without a parent: those that the copula draws."""
    return np.flatnonzero(np.array(config.parents()) < 0)


def joint_probabilities(config: PlantedSparseConfig, seed: int) -> Float[np.ndarray, "free free"]:
    """Exact probability that two features without a parent are on together.

    Φ₂(Φ⁻¹(pᵢ), Φ⁻¹(pⱼ); ±correlation) where they lean on one factor, pᵢ pⱼ where they do not.
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


def least_p(counts: Int[np.ndarray, " test"], n: int, p: Float[np.ndarray, " test"]) -> float:
    """The smallest two-sided binomial p-value of counts out of `n` against exact probabilities, times their number."""
    from scipy import stats

    tails = np.minimum(stats.binom.cdf(counts, n, p), stats.binom.sf(counts - 1, n, p))
    return float(min(1.0, 2 * tails.min() * len(counts))) if len(counts) else math.nan


def distribution(config: PlantedSparseConfig, reporter: Reporter) -> Sequence[Check]:  # noqa: ARG001  nothing is trained
    """Frequencies, L0, correlation, hierarchy and exclusion of drawn rows against what they must be exactly."""
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
        # A pair whose sign five standard errors tell from none.
        clear = np.abs(joint - apart)[pairs] > 5 * np.sqrt(apart[pairs] / len(on))
        signed += int(clear.sum())
        right += int((np.sign(counts / len(on) - apart) == np.sign(joint - apart))[pairs][clear].sum())
        nested = np.flatnonzero(parents >= 0)
        orphans += int((on[:, nested] & ~on[:, parents[nested]]).sum())
        sibling_rows += sum(int((on[:, parents == parent].sum(1) > 1).sum()) for parent in set(parents[nested]))
    n, rows = len(config.seeds), len(config.seeds) * ROWS
    value, interval = mean_interval(np.array(l0))
    exact: dict[str, Any] = {"source": "derived", "paper": EXACT}
    sampled: dict[str, Any] = {**exact, "n": rows, "n_unit": "rows"}
    lines = [
        check(
            "features on in a row",
            value,
            reference=f"{config.l0:g} ± 1%",
            at_least=0.99 * config.l0,
            at_most=1.01 * config.l0,
            interval=interval,
            **sampled,
        ),
        check(
            f"frequencies of {config.n_features} features: least p-value, Bonferroni",
            min(1.0, n * min(frequency)),
            reference=f"≥ {LEVEL:g}: as Zipf's law and the trees say",
            at_least=LEVEL,
            **sampled,
        ),
        check(
            f"co-occurrence of {len(pairs[0])} pairs without parents: least p-value, Bonferroni",
            min(1.0, n * min(together)),
            reference=f"≥ {LEVEL:g}: as the copula says",
            at_least=LEVEL,
            **sampled,
        ),
    ]
    name, reference = "pairs whose correlation has the sign of their sides", "1"
    if signed:
        share, of = share_interval(right, signed)
        measured: dict[str, Any] = {"at_least": 1, "interval": of, "n": signed, "n_unit": "pairs"}
        lines.append(check(name, share, reference=reference, **measured, **exact))
    else:
        lines.append(not_measured(name, reference=reference, why="no two features are correlated enough", **exact))
    label = "rows with a child and without its parent"
    if config.trees and config.depth:
        lines.append(check(label, orphans, reference="0", at_most=0, **sampled))
    else:
        lines.append(not_measured(label, reference="0", why="there is no hierarchy", **exact))
    label = "times that two siblings are on together"
    if config.trees and config.depth and config.exclusive and config.branching > 1:
        lines.append(check(label, sibling_rows, reference="0", at_most=0, **sampled))
    else:
        lines.append(not_measured(label, reference="0", why="no siblings exclude each other", **exact))
    return lines


def chance(config: PlantedSparseConfig, reporter: Reporter) -> Sequence[Check]:  # noqa: ARG001  nothing is trained
    """The level that random directions reach: no MCC means anything without it."""
    sizes = [PlantedSparseConfig(n_features=256, d=64, seeds=(seed,)) for seed in config.seeds]
    value, interval = mean_interval(np.array([chance_mcc(of, 1024) for of in sizes]))
    return [
        check(
            "MCC of random directions, 1024 with 256 features in 64 dimensions",
            value,
            reference="0.41 ± 0.01",
            source="computed",
            paper="numerical check",
            at_least=0.40,
            at_most=0.42,
            interval=interval,
            n=len(sizes),
            n_unit="draws",
        )
    ]


def order(config: PlantedSparseConfig, reporter: Reporter, checkpoints: Path | None = None) -> Sequence[Check]:
    """At the true L0: L1 < BatchTopK ≈ JumpReLU, and Matryoshka, which recovers more and reconstructs less."""
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
    lines: list[Check] = []
    for better, worse, metric in greater:
        value, interval, called = _gain(points[better], points[worse], metric)
        shared: dict[str, Any] = {"reference": "> 0 beyond the interval", "source": "published", "paper": PAPER}
        bounds: dict[str, Any] = {"at_least": interval.high - value, "interval": interval}
        name = f"{called} of {better} less that of {worse}"
        lines.append(
            not_measured(name, why="; ".join(why), **shared)
            if why
            else check(name, value, n=_seeds(points[better]), n_unit="seeds", **bounds, **shared)
        )
    for metric in ("fvu", *RECOVERY):
        value, interval, called = _gain(points["jumprelu"], points["batch_topk"], metric)
        name = f"{called} of jumprelu less that of batch_topk"
        shared = {"reference": f"0 ± {CLOSE:g}", "source": "proposed", "paper": PAPER}
        bounds = {"at_least": -CLOSE, "at_most": CLOSE, "interval": interval, "n": _seeds(points["jumprelu"])}
        lines.append(
            not_measured(name, why="; ".join(why), **shared)
            if why
            else check(name, value, n_unit="seeds", **bounds, **shared)
        )
    return lines


def _gain(a: RecoveryPoint, b: RecoveryPoint, metric: str) -> tuple[float, Any, str]:
    """a's value less b's, explained variance in place of FVU, and what it is called."""
    if metric == "fvu":
        return *difference(b, a, metric), "explained variance"
    return *difference(a, b, metric), NAMES[metric]


def _seeds(point: RecoveryPoint) -> int:
    return len(point.record("fvu").details["seeds"])


def sampled_and_exact(config: PlantedSparseConfig, reporter: Reporter) -> Any:  # noqa: ARG001  nothing is trained
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


def fronts(config: PlantedSparseConfig, reporter: Reporter) -> Any:
    """The whole recovery sweep on this data, as `polyseme toys recovery` draws it."""
    return recovery_figure(recovery_sweep(RecoverySweep(toy=config, n_latents=config.n_features), reporter))
