"""Per-document additive sums: what every metric is made of, what is saved, and what is resampled.

A metric is a pure function (its *finish*) of the totals of some columns over documents. The columns, one row a
document, are saved beside the record, so that anyone can recompute the value and its interval, and so that a control
measured on the same documents can be paired with the trained network document by document.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.errors import DamagedArtifact
from polyseme.core.records import Interval, MetricRecord
from polyseme.evaluation.finishes import NOT_MEASURED, RATIO, RECOVERED, Finish, interval_of, values_of
from polyseme.evaluation.metric import Metric, Pass
from polyseme.evaluation.metrics import METRICS
from polyseme.store import load_array, load_json, save_array, save_json


@dataclass(frozen=True)
class DocumentSums:
    """One metric's additive sums, a row a document.

    Attributes:
        metric: which one.
        columns: names of the statistics; the last name may stand for a whole vector (`fvu`, `dense_latents`).
        sums: float64 [document, statistic], in C order: numpy's sums depend on it in the last bit.
        documents: index in `Windows.names` of each row: every document with a counted token, ascending.
        n: how many tokens the value rests on.
        parameters: parameters of the finish (JSON).
        details: JSON that travels into the record.
    """

    metric: Metric
    columns: tuple[str, ...]
    sums: Float[np.ndarray, "document statistic"]
    documents: Int[np.ndarray, " document"]
    n: int
    scope: dict[str, str | int] = field(default_factory=dict[str, str | int])
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    details: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.metric.name

    @property
    def finish(self) -> Finish:
        """The metric's finish."""
        assert self.metric.finish is not None, f"{self.name} is no function of sums over documents"
        return self.metric.finish

    def values(self, totals: Float[np.ndarray, "*batch statistic"]) -> Float[np.ndarray, "*batch"]:
        """The metric's value for totals over documents, over any leading axes."""
        return values_of(self.finish, self)(totals)

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
        return self.finish.missing(self, seed, n_resamples) if self.finish.missing else ""

    def recorded(self, value: float, interval: Interval, details: dict[str, Any]) -> MetricRecord:
        """A value and its interval as a record of this metric."""
        return self.metric.record(value, interval, n=self.n, scope=self.scope, details=details)

    def _means(self) -> dict[str, float]:
        """The parts of a ratio a token, so that a CE recovered is never seen without its CEs."""
        if self.finish not in (RATIO, RECOVERED) or "n" not in self.columns:
            return {}
        totals = self.sums.sum(0)
        n = totals[self.columns.index("n")]
        return {name: float(total / n) for name, total in zip(self.columns, totals, strict=True) if n and name != "n"}


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


def load_sums(folder: Path, *, stem: str = "sums", of: Pass | None = None) -> list[DocumentSums]:
    """What `save_sums` wrote.

    Args:
        folder: where.
        stem: file name without its ending.
        of: the pass that they are of, where each metric must be there that the table has of it now.

    Raises:
        DamagedArtifact: a file is missing, unreadable, or the two do not belong together; or a metric is missing, or is
            of another version than the table's. A stage that loads them is then made again.
    """
    index, sums = load_json(folder / f"{stem}.json"), load_array(folder / f"{stem}.npy")
    try:
        documents = np.array(index["documents"], dtype=np.int64)
        width = max((int(meta["stop"]) for meta in index["metrics"]), default=0)
        if sums.shape != (len(documents), width):
            raise ValueError(f"shape {sums.shape}, the index says {(len(documents), width)}")
        blocks: dict[tuple[int, int], np.ndarray] = {}
        entries = [_entry(meta, sums, documents, blocks) for meta in index["metrics"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedArtifact(
            f"the per-document sums {stem!r} cannot be read ({error!r})",
            where=str(folder),
            fix="run the evaluation again",
        ) from error
    versions = {entry.name: meta["version"] for entry, meta in zip(entries, index["metrics"], strict=True)}
    expected = {m.name: m.version for m in METRICS.values() if m.measured == of and m.vectors == "counted"}
    expected |= {name: METRICS[name].version for name in versions}
    if entries and (old := sorted(name for name, version in expected.items() if versions.get(name) != version)):
        raise DamagedArtifact(
            f"the per-document sums {stem!r} are older than the current definition of {', '.join(old)}",
            where=str(folder),
            fix="run the evaluation again",
        )
    return entries


_META = ("columns", "n", "scope", "parameters", "details")
_OF_METRIC = ("name", "unit", "better", "version")


def _meta(entry: DocumentSums) -> dict[str, Any]:
    own = {key: getattr(entry.metric, key) for key in _OF_METRIC}
    return {**own, "finish": entry.finish.name, **{key: getattr(entry, key) for key in _META}}


def _entry(
    meta: dict[str, Any], sums: np.ndarray, documents: np.ndarray, blocks: dict[tuple[int, int], np.ndarray]
) -> DocumentSums:
    metric = METRICS[meta["name"]]
    known: dict[str, Any] = {key: meta[key] for key in _META}
    known["columns"] = tuple(meta["columns"])
    start, stop = int(meta["start"]), int(meta["stop"])
    columns = blocks.setdefault((start, stop), np.ascontiguousarray(sums[:, start:stop], dtype=np.float64))
    return DocumentSums(metric=metric, sums=columns, documents=documents, **known)
