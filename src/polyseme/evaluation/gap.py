"""Trained network less control: the same metric on the same held-out documents, with the interval of the difference."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from polyseme.core.errors import InputError
from polyseme.core.records import Interval, MetricRecord
from polyseme.evaluation.finishes import NOT_MEASURED, interval_of
from polyseme.evaluation.sums import DocumentSums


def gap(
    trained: DocumentSums,
    control: DocumentSums,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
    scope: Mapping[str, str | int] | None = None,
) -> MetricRecord:
    """trained − control, its interval from resamples that draw the same documents for both.

    Pairing removes the variance the two share (hard documents are hard for both), so that the interval is that of the
    difference itself.

    NaN, with the reason in `details.note`, where either value means nothing.

    Args:
        trained: the metric on the network.
        control: the same metric on a control, over the same documents.
        seed: seed of the resampling.
        n_resamples: bootstrap replicates.
        scope: added to the record's scope (`control`: its name).

    Raises:
        InputError: not the same metric, or not the same documents.
    """
    _check_same_metric((trained.name, trained.metric.version), (control.name, control.metric.version))
    if not np.array_equal(trained.documents, control.documents):
        raise InputError(
            f"{trained.name!r} was measured on {len(trained.documents)} documents of the network and "
            f"{len(control.documents)} of the control, not on the same ones",
            fix="evaluate both on the same held-out windows",
        )
    for whose, entry in (("the trained network", trained), ("the control", control)):
        reason = entry.missing(seed=seed, n_resamples=n_resamples)
        if reason:
            return _called_gap(trained.recorded(math.nan, NOT_MEASURED, {"note": f"{whose}: {reason}"}), scope)
    split = trained.sums.shape[1]

    def difference(totals: Float[np.ndarray, "*batch statistic"]) -> Float[np.ndarray, "*batch"]:
        return np.asarray(trained.values(totals[..., :split]) - control.values(totals[..., split:]))

    both = np.concatenate([trained.sums, control.sums], axis=1)
    value, interval = interval_of(both, difference, trained.finish, seed=seed, n_resamples=n_resamples, clip=False)
    details = {
        "trained": float(trained.values(trained.sums.sum(0))),
        "control": float(control.values(control.sums.sum(0))),
        "n_documents": len(trained.documents),
    }
    paired = interval.model_copy(update={"method": f"paired {interval.method}"})
    return _called_gap(trained.recorded(value, paired, details), scope)


def gap_of_records(
    trained: MetricRecord, control: MetricRecord, *, scope: Mapping[str, str | int] | None = None
) -> MetricRecord:
    """trained − control of two independent records, where there are no shared documents (seed stability).

    With the intervals [l₁, u₁] and [l₂, u₂] of x₁ and x₂ the difference lies between
    x₁ − x₂ − √((x₁−l₁)² + (u₂−x₂)²) and x₁ − x₂ + √((u₁−x₁)² + (x₂−l₂)²) (Zou & Donner 2008, eq. 3).

    Raises:
        InputError: not the same metric.
    """
    _check_same_metric((trained.name, trained.version), (control.name, control.version))
    value = trained.value - control.value
    low = high = math.nan
    if trained.interval is not None and control.interval is not None:
        a, b = trained.interval, control.interval
        low = value - math.hypot(trained.value - a.low, b.high - control.value)
        high = value + math.hypot(a.high - trained.value, control.value - b.low)
    record = trained.model_copy(
        update={
            "value": value,
            "interval": Interval(low=low, high=high, method="of two independent intervals (Zou & Donner 2008)"),
            "details": {"trained": trained.value, "control": control.value},
        }
    )
    return _called_gap(record, scope)


def _check_same_metric(trained: tuple[str, int], control: tuple[str, int]) -> None:
    if trained != control:
        raise InputError(
            f"the gap is between two values of one metric, not {trained[0]!r} (version {trained[1]}) and "
            f"{control[0]!r} (version {control[1]})",
            fix="evaluate both with the same version of polyseme",
        )


def _called_gap(record: MetricRecord, scope: Mapping[str, str | int] | None) -> MetricRecord:
    """The record with a scope that says it is a difference, and of what."""
    return record.model_copy(update={"scope": {**record.scope, "gap": "trained − control", **(scope or {})}})
