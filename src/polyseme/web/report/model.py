"""The report's data model, under the name the web layer uses for it.

It lives in `polyseme.interpret.report`, because contexts and logit effects are made there and nothing below the web
layer may import it.
"""

from polyseme.interpret.report import (
    SCHEMA,
    Calibration,
    Chart,
    Comparison,
    Context,
    Continuation,
    ControlSummary,
    ControlValue,
    Curve,
    DictionaryReport,
    Faithfulness,
    Histogram,
    LatentPoint,
    LatentReport,
    Neighbour,
    Provenance,
    SpliceRow,
    Stratum,
    StudyReport,
    StudySummary,
    TokenWeight,
)

__all__ = [
    "SCHEMA",
    "Calibration",
    "Chart",
    "Comparison",
    "Context",
    "Continuation",
    "ControlSummary",
    "ControlValue",
    "Curve",
    "DictionaryReport",
    "Faithfulness",
    "Histogram",
    "LatentPoint",
    "LatentReport",
    "Neighbour",
    "Provenance",
    "SpliceRow",
    "Stratum",
    "StudyReport",
    "StudySummary",
    "TokenWeight",
]
