"""Every metric of a study in one table."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from polyseme.core.records import MetricRecord
from polyseme.core.table import Table

_SCOPE = ("study", "site", "seed", "ablation", "gap")
"""What a metric may have been measured on, in the order of the columns; what else there is follows."""


@dataclass(frozen=True, repr=False)
class MetricTable(Table):
    """One row a metric: its name, what it was measured on, its value and its 95% interval; NaN is "not measured".

    >>> result.metrics.where("l0", study="trained", seed=0)["value"].tolist()
    [4.0, 4.0]

    - `name`: `fvu`, `l0`, `ce_patched`, …; `study`: `trained`, or the control that it was measured on.
    - `site`, `seed`, `ablation`, …: what it was measured on, None where that says nothing.
    - `gap`: of a difference between the study and a control, which one.
    - `value`, `low`, `high`, `unit`, `better`; `n`, `n_unit`: what it rests on.
    """

    row = "Metric"
    previewed = ("name", *_SCOPE, "value", "low", "high", "unit")

    @property
    def title(self) -> str:
        names = len(set(self.columns["name"].tolist()))
        return f"{len(self):,} values of {names} metric{'' if names == 1 else 's'}"

    def where(self, name: str | None = None, **scope: str | int) -> "MetricTable":
        """The rows of one metric, or of one scope (`site="blocks.2.resid_post"`, `study="trained"`), or both.

        Raises:
            InputError: there is no such metric, or none with such a scope.
        """
        for column in scope:
            _ = self[column]
        chosen = self.rows_where({"name": name, **scope})
        return MetricTable({name: values[chosen] for name, values in self.columns.items()})


def metric_table(records: Iterable[MetricRecord]) -> MetricTable:
    """The records as columns."""
    found = list(records)
    keys = list(dict.fromkeys([*_SCOPE, *(key for record in found for key in record.scope)]))
    bounds = [(r.interval.low, r.interval.high) if r.interval else (nan, nan) for r in found]

    def texts(values: Iterable[Any]) -> np.ndarray:
        return np.array(list(values), dtype=object)

    return MetricTable(
        {
            "name": texts(r.name for r in found),
            **{key: texts(r.scope.get(key) for r in found) for key in keys},
            "value": np.array([r.value for r in found], dtype=np.float64),
            "low": np.array([low for low, _ in bounds], dtype=np.float64),
            "high": np.array([high for _, high in bounds], dtype=np.float64),
            "unit": texts(r.unit for r in found),
            "better": texts(r.better for r in found),
            "n": np.array([r.n for r in found], dtype=np.int64),
            "n_unit": texts(r.n_unit for r in found),
        }
    )
