"""Do two dictionaries agree: the best one-to-one matching of their directions, beside that of random directions."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.records import Interval, MetricRecord
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.evaluation.metric import Metric
from polyseme.evaluation.metrics import METRICS
from polyseme.kernels.shield import shielded

EXACT = 4096
"""Up to this many directions on the smaller side, and four times as many on the larger, the matching is exact
(Hungarian); above, greedy."""
CANDIDATES = 32
"""Nearest directions of each direction that the greedy matching considers."""
SHARED = 0.7
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


@shielded
def matched_cosines(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d_b"],
    *,
    alive_a: Bool[np.ndarray, " n"] | None = None,
    alive_b: Bool[np.ndarray, " m"] | None = None,
    absolute: bool = False,
) -> tuple[Float[np.ndarray, " pair"], str]:
    """Cosines of the one-to-one matching that maximises their sum, min(n, m) of them, and the matching's name.

    Dead latents take part with cosine 0, so that each unit without a living partner counts as a miss. With more
    directions than `EXACT` the matching is greedy: pairs are taken from the highest cosine down among each
    direction's `CANDIDATES` nearest, and what is left unmatched counts 0, so that agreement is never overstated.

    Args:
        a: directions of any length; zero directions have cosine 0 with all.
        b: directions of the other side.
        alive_a: latents that fire; all by default.
        alive_b: the same for the other side.
        absolute: match on |cosine|.

    Raises:
        InputError: directions of different widths, or none.
    """
    if a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise InputError(
            f"cannot match {len(a)} directions of width {a.shape[1]} with {len(b)} of width {b.shape[1]}",
            where="matching of directions",
            fix="compare dictionaries that write to the same site",
        )
    a, b = _units(a, alive_a), _units(b, alive_b)
    if min(len(a), len(b)) > EXACT or max(len(a), len(b)) > 4 * EXACT:
        return _greedy(a, b, absolute), f"greedy over the {CANDIDATES} nearest"
    from scipy.optimize import linear_sum_assignment

    cosines = (a @ b.T).cpu().numpy()
    cosines = np.abs(cosines) if absolute else cosines
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return np.clip(cosines[rows, columns].astype(np.float64), -1.0, 1.0), "hungarian"


@shielded
def stability(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d_b"],
    *,
    alive_a: Bool[np.ndarray, " n"] | None = None,
    alive_b: Bool[np.ndarray, " m"] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
    n_resamples: int = 1000,
    scope: Mapping[str, str | int] | None = None,
) -> list[MetricRecord]:
    """How far two dictionaries found the same write directions.

    `stability_cosine`: mean matched cosine (signed: a latent that writes the opposite is another latent);
    `stability_shared`: share of pairs above 0.70. Both carry in `details` the share above every threshold (`curve`),
    the same for random directions of which as many are alive on either side (`null_curve`), and `chance`, the value
    they reach: with dead latents both are low, and only their difference says how far the dictionaries agree.

    The interval resamples latents (pairs, the matching kept): documents play no part in a comparison of weights.

    Args:
        a: write directions of one dictionary.
        b: write directions of another one at the same site.
        alive_a: latents that fire; the others count as misses.
        alive_b: the same for the other one.
        thresholds: the cosines at which the curve is evaluated.
        seed: seed of the bootstrap and the null.
        n_resamples: bootstrap replicates.
        scope: scope of the records.

    Raises:
        InputError: directions of different widths.
    """
    cosines, matching = matched_cosines(a, b, alive_a=alive_a, alive_b=alive_b)
    alive = _count(alive_a, len(a)), _count(alive_b, len(b))
    null = random_matched_cosines(len(a), len(b), a.shape[1], alive=alive, seed=seed)
    details = {
        "matching": matching,
        "alive": list(alive),
        "thresholds": list(thresholds),
        "curve": [float((cosines > t).mean()) for t in thresholds],
        "null_curve": [float((null > t).mean()) for t in thresholds],
    }
    of_cosine = {**details, "chance": float(null.mean())}
    of_share = {**details, "chance": float((null > SHARED).mean()), "threshold": SHARED}
    return [
        _record(METRICS["stability_cosine"], cosines, of_cosine, seed, n_resamples, scope),
        _record(METRICS["stability_shared"], (cosines > SHARED) * 1.0, of_share, seed, n_resamples, scope),
    ]


@shielded
def mcc(
    directions: Float[Tensor, "n_latents d"],
    truth: Float[Tensor, "n_features d_truth"],
    *,
    alive: Bool[np.ndarray, " n_latents"] | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
    scope: Mapping[str, str | int] | None = None,
) -> MetricRecord:
    """Mean |cosine| of the best one-to-one matching to the true directions, dead latents counted as misses.

    The mean is over min(n_latents, n_features) pairs. `details.of_weights` is the same with the dead counted by their
    directions, as SynthSAEBench has it (arXiv 2602.14687). `details.chance` is what random directions reach of which as
    many are alive: with many latents in few dimensions that is far above 0, and no MCC means anything without it.

    Args:
        directions: directions of the latents.
        truth: directions of the features.
        alive: latents that fire; all by default.
        seed: seed of the bootstrap and of the chance level.
        n_resamples: bootstrap replicates, over matched pairs.
        scope: scope of the record.
    """
    cosines, matching = matched_cosines(directions, truth, alive_a=alive, absolute=True)
    n_alive = _count(alive, len(directions))
    random = random_directions(len(directions), truth.shape[1], seed=seed).to(truth.device)
    chance, _ = matched_cosines(random, truth, alive_a=np.arange(len(random)) < n_alive, absolute=True)
    all_of_them = cosines
    if n_alive < len(directions):
        all_of_them, _ = matched_cosines(directions, truth, absolute=True)
    details = {
        "matching": matching,
        "chance": float(chance.mean()),
        "of_weights": float(all_of_them.mean()),
        "n_latents": len(directions),
        "n_features": len(truth),
        "alive": n_alive,
    }
    return _record(METRICS["mcc"], cosines, details, seed, n_resamples, scope)


@shielded
@lru_cache(maxsize=32)
def random_matched_cosines(
    n: int, m: int, d: int, *, alive: tuple[int, int] | None = None, seed: int
) -> Float[np.ndarray, " pair"]:
    """Matched cosines of n and m independent random unit directions in d dimensions: the null of `stability`.

    Args:
        n: directions on one side.
        m: on the other.
        d: their width.
        alive: how many of either side are alive, the others having cosine 0 with all; all by default.
        seed: seed of the directions.
    """
    a, b = random_directions(n, d, seed=seed), random_directions(m, d, seed=seed, side="b")
    of_a, of_b = alive or (n, m)
    cosines, _ = matched_cosines(a, b, alive_a=np.arange(n) < of_a, alive_b=np.arange(m) < of_b)
    cosines.flags.writeable = False
    return cosines


def random_directions(n: int, d: int, *, seed: int, side: str = "a") -> Float[Tensor, "n d"]:
    """Normal vectors on the CPU: directions that know nothing of any network, one set a seed and side."""
    return torch.randn(n, d, generator=make_generator(seed, "random directions", side), dtype=torch.float32)


def _units(directions: Tensor, alive: np.ndarray | None) -> Tensor:
    units = torch.nn.functional.normalize(directions.detach().float(), dim=1)
    if alive is not None:
        units = units * torch.from_numpy(np.asarray(alive)).to(units)[:, None]
    return units


def _greedy(a: Tensor, b: Tensor, absolute: bool, chunk: int = 1024) -> Float[np.ndarray, " pair"]:
    """Pairs from the highest cosine down, each side at most once; ties by index."""
    k = min(CANDIDATES, len(a), len(b))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for left, right, swapped in ((a, b, False), (b, a, True)):
        for start in range(0, len(left), chunk):
            cosines = left[start : start + chunk] @ right.T
            values, near = (cosines.abs() if absolute else cosines).topk(k, dim=1)
            rows = np.repeat(np.arange(start, start + len(near)), k)
            columns = near.flatten().cpu().numpy()
            one, other = (columns, rows) if swapped else (rows, columns)
            found.append((one, other, values.flatten().cpu().numpy().astype(np.float64)))
    rows, columns, values = (np.concatenate([part[i] for part in found]) for i in range(3))
    order = np.lexsort((columns, rows, -values))
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    out = np.zeros(min(len(a), len(b)))
    n = 0
    for i in order:
        row, column = rows[i], columns[i]
        if free_a[row] and free_b[column]:
            free_a[row] = free_b[column] = False
            out[n] = values[i]
            n += 1
    return np.clip(out, -1.0, 1.0)


def _count(alive: np.ndarray | None, n: int) -> int:
    return n if alive is None else int(np.count_nonzero(alive))


def _record(
    metric: Metric,
    values: Float[np.ndarray, " pair"],
    details: dict[str, Any],
    seed: int,
    n_resamples: int,
    scope: Mapping[str, str | int] | None,
) -> MetricRecord:
    rng = np.random.default_rng(derive_seed(seed, "latents"))
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(n_resamples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return metric.record(
        float(values.mean()),
        Interval(low=float(low), high=float(high), method="bootstrap over latents, matching kept"),
        n=len(values),
        n_unit="latents",
        scope=scope,
        details=details,
    )
