"""The records: one dictionary against truth, and many of them over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.records import MetricRecord
from polyseme.evaluation.intervals import mean_interval
from polyseme.evaluation.metrics import METRICS
from polyseme.evaluation.recovery import directions as by_direction
from polyseme.evaluation.recovery import firing as by_firing
from polyseme.evaluation.recovery import nearest as by_nearest
from polyseme.evaluation.recovery.answers import Answers, FeatureTruth
from polyseme.evaluation.stability import mcc, random_directions

Scope = Mapping[str, str | int]


def recovery(
    write: Float[Tensor, "n_latents d"],
    truth: FeatureTruth,
    answers: Answers,
    *,
    read: Float[Tensor, "n_latents d"] | None = None,
    seed: int = 0,
    scope: Scope | None = None,
    hedging: bool = True,
) -> list[MetricRecord]:
    """Every metric of one dictionary against truth, in the order of `polyseme.evaluation.METRICS`.

    Intervals are over features (latents for those of latents): they say how much the mean rests on which features
    there were. `over_seeds` puts intervals over seeds in their place.

    Args:
        write: directions that latents write, of any length; activations are in units of them.
        truth: the features.
        answers: activations and values on the same held-out rows.
        read: directions that latents read, for an MCC of their own.
        seed: seed of the random directions that give chance levels.
        scope: scope of the records.
        hedging: whether to measure hedging, which takes a few numbers for every pair of features.

    Raises:
        InputError: shapes that do not fit.
    """
    n_latents, n_features = len(answers.fired), len(answers.occurred)
    for name, tensor in {"write": write, "read": write if read is None else read}.items():
        if tuple(tensor.shape) != (n_latents, truth.directions.shape[1]) or len(truth) != n_features:
            raise InputError(
                f"{name} directions {list(tensor.shape)} and true ones {list(truth.directions.shape)} do not fit "
                f"{n_latents} latents and {n_features} features",
                where="recovery",
                fix="give directions, activations and values of the same dictionary and the same features",
            )
    alive = answers.fired > 0
    make = _Records(dict(scope or {}))
    scored = mcc(write, truth.directions, alive=alive, seed=seed, scope=make.scope)
    records = [scored]
    if read is not None:
        of_read = mcc(read, truth.directions, alive=alive, seed=seed, scope={**make.scope, "directions": "read"})
        records.append(of_read)
    return [
        *records,
        *_direction_records(write, truth, answers, seed, make, hedging=hedging),
        *_firing_records(answers, make),
        *_nearest_records(write, truth, answers, seed, make),
        *_absorption_records(answers, truth, make),
        *_size_records(write, truth, answers, make),
    ]


class _Records:
    """Makes records of means over units."""

    def __init__(self, scope: dict[str, str | int]):
        self.scope = scope

    def __call__(
        self,
        name: str,
        values: Float[np.ndarray, " unit"],
        *,
        over: str = "features",
        scope: Scope | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> MetricRecord:
        value, interval = mean_interval(values, over=over)
        n = int(np.count_nonzero(~np.isnan(np.asarray(values, np.float64))))
        return METRICS[name].record(
            value, interval, n=n, n_unit=over, scope={**self.scope, **(scope or {})}, details=details
        )


def _direction_records(
    write: Tensor, truth: FeatureTruth, answers: Answers, seed: int, make: _Records, *, hedging: bool
) -> list[MetricRecord]:
    cosines = by_direction.cosines(write, truth.directions, alive=answers.fired > 0)
    random = by_direction.random_cosines(len(write), truth.directions, seed=seed)
    nearest, chance = by_direction.nearest_cosine(cosines), by_direction.nearest_cosine(random)
    n_copies = by_direction.copies(cosines)
    # A latent's length is what it writes for a feature of value 1, on average over the rows where the feature is on.
    norms = torch.linalg.vector_norm(write.detach().cpu().double(), dim=1).numpy()
    squares = answers.squares[None]
    slopes = np.where(squares > 0, answers.products.T / np.where(squares > 0, squares, 1), np.nan)
    ratio = by_direction.length_ratio(cosines, slopes * norms[:, None], truth.lengths)
    records = [
        make("mmcs", nearest, details={"chance": float(chance.mean())}),
        make("ml2r", ratio),
        make(
            "feature_coverage",
            (nearest >= by_direction.COVERED).astype(np.float64),
            details={
                "chance": float((chance >= by_direction.COVERED).mean()),
                "threshold": by_direction.COVERED,
            },
        ),
        make(
            "splitting",
            np.where(n_copies > 0, n_copies, np.nan),
            details={"threshold": by_direction.OWN, "split": float((n_copies > 1).mean())},
        ),
    ]
    if hedging:
        hedges = by_direction.hedging(cosines, truth.directions, answers.correlation)
        records.append(make("hedging", hedges, over="latents", details={"chance": 0.0}))
    return records


def _firing_records(answers: Answers, make: _Records) -> list[MetricRecord]:
    records: list[MetricRecord] = []
    by_feature, by_latent = by_firing.feature_scores(answers), by_firing.latent_scores(answers)
    for scores, over, axis in ((by_feature, "features", 1), (by_latent, "latents", 0)):
        unit = over.removesuffix("s")
        records += [
            make(f"{unit}_precision", scores.precision, over=over),
            make(f"{unit}_recall", scores.recall, over=over),
            make(f"{unit}_f1", scores.f1, over=over, details={"chance": by_firing.chance_f1(answers, axis)}),
        ]
    return records


def _nearest_records(
    write: Tensor, truth: FeatureTruth, answers: Answers, seed: int, make: _Records
) -> list[MetricRecord]:
    nearest = by_nearest.nearest_feature(write, truth.directions)
    of_random = by_nearest.nearest_feature(
        random_directions(len(write), write.shape[1], seed=seed), truth.directions.detach().cpu()
    )
    unique = by_nearest.first_of_its_feature(nearest).astype(np.float64)
    chance = float(by_nearest.first_of_its_feature(of_random).mean())
    records = [make("unique_features", unique, over="latents", details={"chance": chance})]
    scores = by_nearest.nearest_scores(answers, nearest)
    permuted = by_nearest.nearest_scores(answers, nearest, chance=True)
    for name in ("precision", "recall", "f1"):
        details = {"chance": float(getattr(permuted, name).mean())}
        records.append(make(f"nearest_{name}", getattr(scores, name), over="latents", details=details))
    return records


def _absorption_records(answers: Answers, truth: FeatureTruth, make: _Records) -> list[MetricRecord]:
    if truth.parents is None:
        return []
    found = by_firing.absorption(answers, truth)

    def of(which: Bool[np.ndarray, " child"], scope: Scope) -> MetricRecord:
        absorbed = float(found.absorbed[which].mean()) if which.any() else None
        details = {"chance": 0.0, "absorbed": absorbed}
        return make("absorption", found.excess[which], over="children", scope=scope, details=details)

    depths = range(1, int(truth.depths.max()) + 1)
    return [of(found.depth > 0, {}), *(of(found.depth == depth, {"depth": depth}) for depth in depths)]


def _size_records(write: Tensor, truth: FeatureTruth, answers: Answers, make: _Records) -> list[MetricRecord]:
    norms = torch.linalg.vector_norm(write.detach().cpu().double(), dim=1).numpy()
    l0 = np.diff(answers.latents.indptr).astype(np.float64)
    true_l0 = np.diff(answers.features.indptr).astype(np.float64)
    share = {"true_l0": float(true_l0.mean()), "ratio": float(l0.mean() / true_l0.mean()) if true_l0.any() else None}
    dead = (answers.fired == 0).astype(np.float64)
    return [
        make("feature_shrinkage", by_firing.size_ratio(answers, norms, truth.lengths)),
        make("l0", l0, over="rows", details=share),
        make("dead_latents", dead, over="latents"),
    ]


def over_seeds(records: Sequence[Sequence[MetricRecord]]) -> list[MetricRecord]:
    """The mean of each metric over seeds with its t-interval: one list of records a seed, the same metrics in each.

    Numbers in `details` (chance levels among them) are averaged as well; `details.seeds` keeps each seed's value.

    Raises:
        InputError: no seeds, or seeds with different metrics.
    """
    if not records:
        raise InputError("there are no seeds to average over", where="recovery")
    layouts = [[(r.name, {k: v for k, v in r.scope.items() if k != "seed"}) for r in of_seed] for of_seed in records]
    if any(layout != layouts[0] for layout in layouts):
        raise InputError(
            "the seeds have different metrics", where="recovery", fix="measure the same metrics for each seed"
        )
    out: list[MetricRecord] = []
    for same in zip(*records, strict=True):
        values = np.array([record.value for record in same])
        value, interval = mean_interval(values)
        details = {key: _averaged([record.details.get(key) for record in same]) for key in same[0].details}
        out.append(
            same[0].model_copy(
                update={
                    "value": value,
                    "interval": interval,
                    "n": int(np.count_nonzero(~np.isnan(values))),
                    "n_unit": "seeds",
                    "scope": {k: v for k, v in same[0].scope.items() if k != "seed"},
                    "details": {**details, "seeds": [None if math.isnan(v) else float(v) for v in values]},
                }
            )
        )
    return out


def _averaged(values: list[Any]) -> Any:
    """The mean of numbers; anything else is kept where all seeds agree."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return sum(values) / len(values)
    return values[0] if all(v == values[0] for v in values) else values
