"""What a metric knows about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from polyseme.core.records import Better, Interval, MetricRecord
from polyseme.evaluation.finishes import RATIO, Finish

Pass = Literal["reconstruction", "lookup", "splice", "ladder", "stability", "learning", "recovery"]
Vectors = Literal["counted", "ordinary", "all"]
Change = Literal["batches", "documents", "scale", "shift", "latents"]
Weights = Mapping[str, float]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: what records and files call it.
        title: what people read.
        meaning: its definition, for the glossary of the report and the table in the docs.
        measured: the pass that gives it.
        finish: how sums over documents become its value; None where they are not sums over documents.
        numerator, denominator: weights of the pass's columns, for a finish that is a ratio; by default the mean a token
            of the column of the metric's name. `ce_ablated` stands for the loss under each ablation in turn.
        vectors: which of a site's vectors it is about, or is patched at: the counted ones (less those that training
            left out, where vectors are patched), the ordinary ones among them, or all that are counted. The last two
            are given only where they differ from the first.
        unit: empty for a ratio.
        better: the direction that is better.
        is_share: a share of something, written as a percentage.
        compared: compared with every null.
        of_a_prediction: means something only of a network that predicts better than a uniform guess.
        primary: shown by the report at once; the others that are compared are folded away.
        in_terminal: printed when a study ends.
        in_summary: a column of the table that a finished study shows of its sites.
        changes_with: what changes its value; it is blind to every other `Change`: the split into batches, the order of
            documents, the scale of the vectors, a constant added to them, the order of latents.
        version: raised when its definition changes, so that old and new numbers are never compared.
    """

    name: str
    title: str
    meaning: str
    measured: Pass
    finish: Finish | None = RATIO
    numerator: Weights | None = None
    denominator: Weights = field(default_factory=lambda: {"n": 1.0})
    vectors: Vectors = "counted"
    unit: str = ""
    better: Better = "neither"
    is_share: bool = False
    compared: bool = False
    of_a_prediction: bool = False
    primary: bool = False
    in_terminal: bool = False
    in_summary: bool = False
    changes_with: frozenset[Change] = frozenset()
    version: int = 1

    @property
    def weights(self) -> dict[str, Any]:
        """Parameters of a finish that is a ratio."""
        numerator = {self.name: 1.0} if self.numerator is None else dict(self.numerator)
        return {"numerator": numerator, "denominator": dict(self.denominator)}

    def record(
        self,
        value: float,
        interval: Interval | None,
        *,
        n: int,
        n_unit: str = "tokens",
        scope: Mapping[str, str | int] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> MetricRecord:
        """A value of this metric as a record."""
        return MetricRecord(
            name=self.name,
            value=value,
            interval=interval,
            n=n,
            n_unit=n_unit,
            unit=self.unit,
            better=self.better,
            scope=dict(scope or {}),
            details=dict(details or {}),
            version=self.version,
        )
