"""Per-document additive sums: what every metric is made of, what is saved, and what is resampled.

A metric is a pure function (its *finish*) of the totals of some columns over documents. The columns, one row a
document, are saved beside the record, so that anyone can recompute the value and its interval, and so that a control
measured on the same documents can be paired with the trained network document by document.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.errors import DamagedArtifact
from polyseme.core.records import Better, Interval, MetricRecord
from polyseme.core.stats import bootstrap_documents, least_documents
from polyseme.store import load_array, load_json, save_array, save_json

Values = Float[np.ndarray, " resample"]
NOT_MEASURED = Interval(low=math.nan, high=math.nan)
NEGLIGIBLE = 0.01
"""A loss without an interval differs from another one where the difference is more than this share of it."""


@dataclass(frozen=True)
class Totals:
    """Sums over documents, on their way to a value.

    Attributes:
        sums: one row a resample.
        columns: names of the statistics.
        parameters: parameters of the finish.
    """

    sums: Float[np.ndarray, "resample statistic"]
    columns: tuple[str, ...]
    parameters: Mapping[str, Any]

    def combine(self, weights: Mapping[str, float]) -> Values:
        """Σ weight · column."""
        parts = [weight * self.sums[:, self.columns.index(name)] for name, weight in weights.items()]
        return np.sum(parts, axis=0)


@dataclass(frozen=True)
class Finish:
    """How totals become a value.

    Attributes:
        value: totals to values, one a resample.
        resampling: `bootstrap` over documents, or `jackknife` (leave one document out) where the bootstrap is
            inconsistent because a resample repeats documents and so never sees as many distinct ones.
        bounds: the interval is clipped to these.
        missing: why there is no value although the sums give a number, from the sums, the seed and the number of
            resamples; empty where there is one.
    """

    value: Callable[[Totals], Values]
    resampling: Literal["bootstrap", "jackknife"] = "bootstrap"
    bounds: tuple[float, float] = (-math.inf, math.inf)
    missing: "Callable[[DocumentSums, int, int], str] | None" = None


def _divide(numerator: Values, denominator: Values) -> Values:
    """NaN where there is nothing to divide by: not measured."""
    return numerator / np.where(denominator == 0, np.nan, denominator)


def _ratio(totals: Totals) -> Values:
    """Σ wᵢ cᵢ / Σ vᵢ cᵢ for the weights w (`numerator`) and v (`denominator`) by column name."""
    return _divide(totals.combine(totals.parameters["numerator"]), totals.combine(totals.parameters["denominator"]))


def _fvu(totals: Totals) -> Values:
    """Σ‖y−ŷ‖² / (Σ‖y−c‖² − ‖Σ(y−c)‖²/n): columns n, error, square, then Σ(y−c) itself, c any fixed vector."""
    n, error, square = (totals.sums[:, i] for i in range(3))
    variation = square - _divide((totals.sums[:, 3:] ** 2).sum(-1), n)
    # A constant target leaves rounding noise instead of 0: nothing to explain, so not measured.
    return _divide(error, np.where(variation <= 1e-12 * square, 0.0, variation))


def _dead_share(totals: Totals) -> Values:
    """1 − (latents firing in two documents or more + Σ latents firing in this document only) / n_latents."""
    alive = totals.parameters["shared"] + totals.sums[:, 0]
    return 1 - alive / totals.parameters["n_latents"]


def _dense_share(totals: Totals) -> Values:
    """Share of latents whose firings (columns after n) exceed `threshold` of the n vectors."""
    density = totals.sums[:, 1:] / totals.sums[:, :1]
    return (density > totals.parameters["threshold"]).sum(-1) / totals.parameters["n_latents"]


def _nothing_to_recover(entry: "DocumentSums", seed: int, n_resamples: int) -> str:
    """Why a share of the loss that ablation costs means nothing: there is no such loss, or it is lost in its spread.

    The cost must be positive by more than half the width of its interval: the ratio's own interval is bounded where
    the cost's leaves out 0 (Fieller 1954, Some problems in interval estimation), and of use some way from there.
    With too few documents for an interval, the cost must be positive in every one of them, and their mean cost more
    than `NEGLIGIBLE` times the network's own loss.
    """
    broken = predicts_nothing(entry, seed=seed, n_resamples=n_resamples)
    if broken:
        return f"{broken}, so there is no loss to recover"
    cost = replace(
        entry, finish="ratio", parameters={**entry.parameters, **_per_token(entry.parameters["denominator"])}
    )
    value, interval = interval_of(cost.sums, cost.values, "ratio", seed=seed, n_resamples=n_resamples)
    costs = f"the ablation costs {_nats(entry, value, interval)}"
    if value <= 0 or interval.low <= (interval.high - interval.low) / 2:
        return f"{costs}, so there is no loss to recover"
    if math.isnan(value) or len(entry.sums) >= least_documents():
        return ""
    own = _own_loss(entry, seed=seed, n_resamples=n_resamples)
    if own is not None and value <= NEGLIGIBLE * own[0]:
        return f"{costs}, at most {NEGLIGIBLE:.0%} of the network's own {own[0]:.2f}, so no loss to recover is shown"
    free = int((cost.values(cost.sums) <= 0).sum())
    return f"{costs}, and nothing in {free} of them, so no loss to recover is shown" if free else ""


def _per_token(weights: Mapping[str, float]) -> dict[str, Any]:
    return {"numerator": weights, "denominator": {"n": 1.0}}


def predicts_nothing(entry: "DocumentSums", *, seed: int = 0, n_resamples: int = 1000) -> str:
    """Why losses of this network say nothing: it predicts no better than a uniform guess; empty where it does.

    The upper end of its loss's interval must lie below ln V; with too few documents for an interval, the loss itself
    must, by more than `NEGLIGIBLE` times ln V.

    Args:
        entry: a metric with a column `ce_clean` and the parameter `uniform`, the loss ln V of a uniform guess.
        seed: seed of the resampling.
        n_resamples: bootstrap replicates.
    """
    uniform = entry.parameters.get("uniform")
    own = _own_loss(entry, seed=seed, n_resamples=n_resamples)
    if uniform is None or own is None:
        return ""
    value, interval = own
    highest = value + NEGLIGIBLE * uniform if math.isnan(interval.high) else max(value, interval.high)
    if highest < uniform or math.isnan(value):
        return ""
    better = "no better" if value >= uniform else "not shown to be better"
    loss = f"the network's own loss of {_nats(entry, value, interval)}"
    return f"{loss} is {better} than a uniform guess (ln V = {uniform:.2f} nats)"


def _own_loss(entry: "DocumentSums", *, seed: int, n_resamples: int) -> tuple[float, Interval] | None:
    """The loss of the unedited network per token; None where the entry does not hold it."""
    if "ce_clean" not in entry.columns:
        return None
    clean = replace(entry, finish="ratio", parameters=_per_token({"ce_clean": 1.0}))
    return interval_of(clean.sums, clean.values, "ratio", seed=seed, n_resamples=n_resamples)


def _nats(entry: "DocumentSums", value: float, interval: Interval) -> str:
    """A mean loss with its interval, or with the reason why it has none."""

    def written(x: float) -> str:
        return (f"{x:.2f}" if x == 0 or abs(x) >= 0.1 else f"{x:.2g}").replace("-", "−")

    n = len(entry.sums)
    if n < least_documents():
        return f"{written(value)} nats/token ({n} document{'s' if n > 1 else ''}, too few for an interval)"
    bounds = "" if math.isnan(interval.low) else f" [{written(interval.low)}, {written(interval.high)}]"
    return f"{written(value)}{bounds} nats/token"


FINISHES: dict[str, Finish] = {
    "ratio": Finish(_ratio),
    "recovered": Finish(_ratio, missing=_nothing_to_recover),
    "fvu": Finish(_fvu, bounds=(0.0, math.inf)),
    "dead_share": Finish(_dead_share, resampling="jackknife", bounds=(0.0, 1.0)),
    "dense_share": Finish(_dense_share, bounds=(0.0, 1.0)),
}


@dataclass(frozen=True)
class DocumentSums:
    """One metric's additive sums, a row a document.

    Attributes:
        name: the metric.
        finish: key in `FINISHES`.
        columns: names of the statistics; the last name may stand for a whole vector (`fvu`, `dense_share`).
        sums: float64 [document, statistic], in C order: numpy's sums depend on it in the last bit.
        documents: index in `Windows.names` of each row: every document with a counted token, ascending.
        n: how many `n_unit` the value rests on.
        parameters: parameters of the finish (JSON).
        details: JSON that travels into the record.
    """

    name: str
    finish: str
    columns: tuple[str, ...]
    sums: Float[np.ndarray, "document statistic"]
    documents: Int[np.ndarray, " document"]
    n: int
    n_unit: str = "tokens"
    unit: str = ""
    better: Better = "neither"
    scope: dict[str, str | int] = field(default_factory=dict[str, str | int])
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    version: int = 1

    def values(self, totals: Float[np.ndarray, "*batch statistic"]) -> Float[np.ndarray, "*batch"]:
        """The metric's value for totals over documents, over any leading axes."""
        flat = Totals(totals.reshape(-1, totals.shape[-1]), self.columns, self.parameters)
        return FINISHES[self.finish].value(flat).reshape(totals.shape[:-1])

    def record(self, *, seed: int = 0, n_resamples: int = 1000) -> MetricRecord:
        """The metric's value and 95% interval; the same `seed` draws the same documents for every metric.

        NaN with the reason in `details.note` where the sums give a number that means nothing.
        """
        details = {**self._means(), "n_documents": len(self.sums), **self.details}
        reason = self.missing(seed=seed, n_resamples=n_resamples)
        if reason:
            return self.recorded(math.nan, NOT_MEASURED, {**details, "note": f"not measured: {reason}"})
        value, interval = interval_of(self.sums, self.values, self.finish, seed=seed, n_resamples=n_resamples)
        return self.recorded(value, interval, details)

    def missing(self, *, seed: int = 0, n_resamples: int = 1000) -> str:
        """Why there is no value although the sums give a number; empty where there is one."""
        missing = FINISHES[self.finish].missing
        return missing(self, seed, n_resamples) if missing else ""

    def recorded(self, value: float, interval: Interval, details: dict[str, Any]) -> MetricRecord:
        """A value and its interval as a record of this metric."""
        return MetricRecord(
            name=self.name,
            value=value,
            interval=interval,
            n=self.n,
            n_unit=self.n_unit,
            unit=self.unit,
            better=self.better,
            scope=self.scope,
            details=details,
            version=self.version,
        )

    def _means(self) -> dict[str, float]:
        """The parts of a ratio a token, so that a CE recovered is never seen without its CEs."""
        if self.finish not in ("ratio", "recovered") or "n" not in self.columns:
            return {}
        totals = self.sums.sum(0)
        n = totals[self.columns.index("n")]
        return {name: float(total / n) for name, total in zip(self.columns, totals, strict=True) if n and name != "n"}


def interval_of(
    sums: Float[np.ndarray, "document *statistic"],
    values: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]],
    finish: str,
    *,
    seed: int,
    n_resamples: int,
    clip: bool = True,
) -> tuple[float, Interval]:
    """A value and its 95% interval over documents, by the resampling its finish asks for.

    The jackknife's is θ ± t × `jackknife_error`, one document left out at a time, t of as many degrees of freedom.
    """
    kind = FINISHES[finish]
    if not len(sums):
        return math.nan, NOT_MEASURED
    if kind.resampling == "jackknife":
        value, interval = _jackknife(sums, values)
    else:
        value, interval = bootstrap_documents(sums, values, seed=seed, n_resamples=n_resamples)
    if not clip or math.isnan(interval.low):
        return value, interval
    low, high = kind.bounds
    return value, interval.model_copy(update={"low": max(interval.low, low), "high": min(interval.high, high)})


def _jackknife(
    sums: Float[np.ndarray, "document *statistic"],
    values: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]],
) -> tuple[float, Interval]:
    from scipy.special import stdtrit

    total = sums.sum(0)
    value, m = float(values(total)), len(sums)
    method = "jackknife over documents"
    if m < 2:
        return value, Interval(low=math.nan, high=math.nan, method=method)
    reach = float(stdtrit(m - 1, 0.975)) * float(jackknife_error(values(total - sums)))
    return value, Interval(low=value - reach, high=value + reach, method=method)


def jackknife_error(left_out: Float[np.ndarray, "part *value"]) -> Float[np.ndarray, "*value"]:
    """Standard error √((m−1)/m Σ(θ₍ᵢ₎ − θ̄)²) from the values with one of m parts left out (Efron & Stein 1981)."""
    m = len(left_out)
    return np.asarray(np.sqrt((m - 1) / m * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)))


def save_sums(folder: Path, entries: Sequence[DocumentSums], names: Sequence[str], *, stem: str = "sums") -> None:
    """Write `<stem>.npy` (float64 [document, column]) and `<stem>.json` (what each column is).

    In the JSON, `documents` and `names` say what the rows are, and `metrics` gives for each metric its
    columns `[start, stop)`, its finish and its parameters; metrics made of the same sums share columns.

    Args:
        folder: an existing folder.
        entries: metrics measured on the same documents.
        names: `Windows.names`.
        stem: file name without its ending.
    """
    documents = entries[0].documents if entries else np.zeros(0, dtype=np.int64)
    assert all(np.array_equal(e.documents, documents) for e in entries), "metrics measured on different documents"
    metrics: list[dict[str, Any]] = []
    starts: dict[int, int] = {}
    blocks: list[np.ndarray] = [np.zeros((len(documents), 0))]
    stop = 0
    for entry in entries:
        width = entry.sums.shape[1]
        if id(entry.sums) not in starts:
            starts[id(entry.sums)] = stop
            blocks.append(entry.sums)
            stop += width
        start = starts[id(entry.sums)]
        metrics.append({"start": start, "stop": start + width, **_meta(entry)})
    save_array(folder / f"{stem}.npy", np.concatenate(blocks, axis=1))
    rows = [int(d) for d in documents]
    save_json(
        folder / f"{stem}.json",
        {"version": 1, "documents": rows, "names": [names[d] for d in rows], "metrics": metrics},
    )


def load_sums(folder: Path, *, stem: str = "sums") -> list[DocumentSums]:
    """What `save_sums` wrote.

    Raises:
        DamagedArtifact: a file is missing, unreadable, or the two do not belong together.
    """
    index, sums = load_json(folder / f"{stem}.json"), load_array(folder / f"{stem}.npy")
    try:
        documents = np.array(index["documents"], dtype=np.int64)
        width = max((int(meta["stop"]) for meta in index["metrics"]), default=0)
        if sums.shape != (len(documents), width):
            raise ValueError(f"shape {sums.shape}, the index says {(len(documents), width)}")
        blocks: dict[tuple[int, int], np.ndarray] = {}
        return [_entry(meta, sums, documents, blocks) for meta in index["metrics"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedArtifact(
            f"the per-document sums {stem!r} cannot be read ({error!r})",
            where=str(folder),
            fix="run the evaluation again",
        ) from error


_META = ("name", "finish", "columns", "n", "n_unit", "unit", "better", "scope", "parameters", "details", "version")


def _meta(entry: DocumentSums) -> dict[str, Any]:
    return {key: getattr(entry, key) for key in _META}


def _entry(
    meta: dict[str, Any], sums: np.ndarray, documents: np.ndarray, blocks: dict[tuple[int, int], np.ndarray]
) -> DocumentSums:
    known: dict[str, Any] = {key: meta[key] for key in _META}
    known["columns"] = tuple(meta["columns"])
    start, stop = int(meta["start"]), int(meta["stop"])
    columns = blocks.setdefault((start, stop), np.ascontiguousarray(sums[:, start:stop], dtype=np.float64))
    return DocumentSums(sums=columns, documents=documents, **known)
