"""Metrics on held-out documents, one family a file; every one is a function of additive per-document sums.

To add one: its line in `METRICS` (`metrics.py`) and, where no pass sums what it is made of, a statistic of a pass, or a
file that yields `DocumentSums` (where documents play no part, `MetricRecord`s).
"""

from polyseme.evaluation.compute_equivalent import Rung, compute_equivalent
from polyseme.evaluation.continuation import Continuation, ContinuationConfig, continue_text
from polyseme.evaluation.gap import gap, gap_of_records
from polyseme.evaluation.lookup import Lookup, LookupConfig, LookupSums, evaluate_lookup, learn_lookup
from polyseme.evaluation.metric import Metric
from polyseme.evaluation.metrics import METRICS
from polyseme.evaluation.passes import Runner
from polyseme.evaluation.patching import clean_reads, patch_edits
from polyseme.evaluation.reconstruction import (
    ReconstructionSums,
    density_histogram,
    evaluate_reconstruction,
)
from polyseme.evaluation.splice import splice, splice_sums
from polyseme.evaluation.stability import matched_cosines, mcc, random_matched_cosines, stability
from polyseme.evaluation.sums import DocumentSums, load_sums, save_sums
from polyseme.evaluation.sweep import Visitor, counted_documents, sweep

__all__ = [
    "METRICS",
    "Continuation",
    "ContinuationConfig",
    "DocumentSums",
    "Lookup",
    "LookupConfig",
    "LookupSums",
    "Metric",
    "ReconstructionSums",
    "Rung",
    "Runner",
    "Visitor",
    "clean_reads",
    "compute_equivalent",
    "continue_text",
    "counted_documents",
    "density_histogram",
    "evaluate_lookup",
    "evaluate_reconstruction",
    "gap",
    "gap_of_records",
    "learn_lookup",
    "load_sums",
    "matched_cosines",
    "mcc",
    "patch_edits",
    "random_matched_cosines",
    "save_sums",
    "splice",
    "splice_sums",
    "stability",
    "sweep",
]
