"""The table of metrics: all that the report, the terminal, the docs and the tests know about each of them.

A metric of a pass that exists needs its line here and, where the pass does not sum what it is made of, a statistic
there. Sums become values by a finish of `polyseme.evaluation.finishes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from polyseme.core.records import Better, Interval, MetricRecord
from polyseme.evaluation.finishes import DEAD_SHARE, DENSE_SHARE, FVU, RATIO, RECOVERED, Finish

Pass = Literal["reconstruction", "lookup", "splice", "ladder", "stability", "recovery"]
Vectors = Literal["counted", "ordinary", "all"]
Change = Literal["batches", "documents", "scale", "shift", "latents"]
Weights = Mapping[str, float]
_TOKENS: Weights = {"n": 1.0}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: what records and files call it.
        title: what people read.
        meaning: its definition, for the glossary of the report and the table in the docs.
        measured: the pass that gives it.
        finish: how sums over documents become its value; None where they are not sums over documents.
        numerator, denominator: weights of the pass's columns, for a finish that is a ratio. `ce_ablated` stands for the
            loss under each ablation in turn.
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
        changes_with: what changes its value; it is blind to every other `Change`: the split into batches, the order of
            documents, the scale of the vectors, a constant added to them, the order of latents.
        version: raised when its definition changes, so that old and new numbers are never compared.
    """

    name: str
    title: str
    meaning: str
    measured: Pass
    finish: Finish | None = RATIO
    numerator: Weights = field(default_factory=dict[str, float])
    denominator: Weights = field(default_factory=lambda: _TOKENS)
    vectors: Vectors = "counted"
    unit: str = ""
    better: Better = "neither"
    is_share: bool = False
    compared: bool = False
    of_a_prediction: bool = False
    primary: bool = False
    in_terminal: bool = False
    changes_with: frozenset[Change] = frozenset()
    version: int = 1

    @property
    def weights(self) -> dict[str, Any]:
        """Parameters of a finish that is a ratio."""
        return {"numerator": dict(self.numerator), "denominator": dict(self.denominator)}

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


_SHIFT: frozenset[Change] = frozenset({"shift"})

_TABLE = (
    Metric(
        "fvu",
        "FVU",
        "Fraction of variance unexplained: Σ‖y−ŷ‖² / Σ‖y−ȳ‖² over the whole held-out split, ȳ the split's mean. 0 "
        "is perfect, 1 is no better than the mean. Never a mean of batch ratios. Not measured where y does not vary.",
        "reconstruction",
        FVU,
        better="lower",
        compared=True,
        primary=True,
        in_terminal=True,
    ),
    Metric(
        "fvu_ordinary",
        "FVU, ordinary vectors",
        "FVU of the ordinary vectors alone, about their own mean.",
        "reconstruction",
        FVU,
        vectors="ordinary",
        better="lower",
        compared=True,
        primary=True,
        in_terminal=True,
    ),
    Metric(
        "shrinkage_ordinary",
        "Shrinkage, ordinary vectors",
        "Shrinkage of the ordinary vectors alone.",
        "reconstruction",
        numerator={"square_hat": 1.0},
        denominator={"dot_hat": 1.0},
        vectors="ordinary",
        compared=True,
        changes_with=_SHIFT,
    ),
    Metric(
        "l0",
        "L0",
        "Mean number of non-zero latents per vector.",
        "reconstruction",
        numerator={"l0": 1.0},
        unit="latents/vector",
        compared=True,
    ),
    Metric(
        "cosine",
        "Cosine of y and ŷ",
        "Mean cosine between a vector and its reconstruction; a zero vector has cosine 0.",
        "reconstruction",
        numerator={"cosine": 1.0},
        better="higher",
        compared=True,
        changes_with=_SHIFT,
    ),
    Metric(
        "norm_ratio",
        "Norm ratio",
        "Σ‖ŷ‖ / Σ‖y‖.",
        "reconstruction",
        numerator={"norm_hat": 1.0},
        denominator={"norm": 1.0},
        changes_with=_SHIFT,
    ),
    Metric(
        "shrinkage",
        "Shrinkage",
        "Σ‖ŷ‖² / Σ ŷ·y: below 1 the reconstruction is too short, whatever its direction (relative reconstruction bias, "
        "Rajamanoharan et al. 2024, eq. 10).",
        "reconstruction",
        numerator={"square_hat": 1.0},
        denominator={"dot_hat": 1.0},
        compared=True,
        changes_with=_SHIFT,
    ),
    Metric(
        "dead_latents",
        "Dead latents",
        "Share of latents that never fired on the held-out vectors.",
        "reconstruction",
        DEAD_SHARE,
        better="lower",
        is_share=True,
        compared=True,
    ),
    Metric(
        "dense_latents",
        "Dense latents",
        "Share of latents that fired on more than 10% of the held-out vectors.",
        "reconstruction",
        DENSE_SHARE,
        is_share=True,
        compared=True,
    ),
    Metric(
        "fvu_token",
        "FVU of a token look-up",
        "FVU of E[y | token], learned on the first evaluation.lookup_tokens training tokens (200,000 unless set); a "
        "token not seen there gets the mean vector. What a table without any network inside scores.",
        "lookup",
        FVU,
    ),
    Metric(
        "fvu_token_ordinary",
        "FVU of a token look-up, ordinary vectors",
        "FVU of a token look-up of the ordinary vectors alone.",
        "lookup",
        FVU,
        vectors="ordinary",
    ),
    Metric(
        "fvu_bigram",
        "FVU of a bigram look-up",
        "FVU of E[y | the last two tokens], of at most 100,000 bigrams; a bigram not seen in training gets its token's "
        "vector.",
        "lookup",
        FVU,
    ),
    Metric(
        "fvu_bigram_ordinary",
        "FVU of a bigram look-up, ordinary vectors",
        "FVU of a bigram look-up of the ordinary vectors alone.",
        "lookup",
        FVU,
        vectors="ordinary",
    ),
    Metric(
        "ce_clean",
        "CE clean",
        "Cross-entropy of the next token, with the network as it is.",
        "splice",
        numerator={"ce_clean": 1.0},
        unit="nats/token",
        better="lower",
        compared=True,
    ),
    Metric(
        "ce_patched",
        "CE patched",
        "Cross-entropy of the next token with the reconstruction in place of the network's vectors.",
        "splice",
        numerator={"ce_patched": 1.0},
        unit="nats/token",
        better="lower",
        compared=True,
        of_a_prediction=True,
    ),
    Metric(
        "ce_zero",
        "CE zero-ablated",
        "Cross-entropy of the next token with zeros in place of the network's vectors.",
        "splice",
        numerator={"ce_zero": 1.0},
        unit="nats/token",
        changes_with=_SHIFT,
    ),
    Metric(
        "ce_mean",
        "CE mean-ablated",
        "Cross-entropy of the next token with the site's mean vector in place of the network's vectors.",
        "splice",
        numerator={"ce_mean": 1.0},
        unit="nats/token",
    ),
    Metric(
        "kl",
        "KL(clean ‖ patched)",
        "KL divergence of the patched network's prediction of the next token from the clean network's, mean over "
        "tokens.",
        "splice",
        numerator={"kl": 1.0},
        unit="nats/token",
        better="lower",
        compared=True,
        of_a_prediction=True,
        primary=True,
    ),
    Metric(
        "ce_increase",
        "ΔCE",
        "CE patched − CE clean.",
        "splice",
        numerator={"ce_patched": 1.0, "ce_clean": -1.0},
        unit="nats/token",
        better="lower",
        compared=True,
        of_a_prediction=True,
        primary=True,
    ),
    Metric(
        "ce_patched_ordinary",
        "CE patched, ordinary vectors",
        "CE patched where the ordinary vectors alone are replaced.",
        "splice",
        numerator={"ce_patched_ordinary": 1.0},
        vectors="ordinary",
        unit="nats/token",
        better="lower",
    ),
    Metric(
        "ce_increase_ordinary",
        "ΔCE, ordinary vectors",
        "ΔCE where the ordinary vectors alone are replaced.",
        "splice",
        numerator={"ce_patched_ordinary": 1.0, "ce_clean": -1.0},
        vectors="ordinary",
        unit="nats/token",
        better="lower",
    ),
    Metric(
        "ce_patched_all",
        "CE patched, left-out vectors too",
        "CE patched where the vectors that training left out are replaced too.",
        "splice",
        numerator={"ce_patched_all": 1.0},
        vectors="all",
        unit="nats/token",
        better="lower",
    ),
    Metric(
        "ce_increase_all",
        "ΔCE, left-out vectors too",
        "ΔCE where the vectors that training left out are replaced too.",
        "splice",
        numerator={"ce_patched_all": 1.0, "ce_clean": -1.0},
        vectors="all",
        unit="nats/token",
        better="lower",
    ),
    Metric(
        "ce_recovered",
        "CE recovered",
        "(CE ablated − CE patched) / (CE ablated − CE clean), for zero and for mean ablation. The choice of "
        "ablation changes the number, so both are shown with every CE behind them. Not measured where ablation costs "
        "no loss to recover: see the note beside it.",
        "splice",
        RECOVERED,
        numerator={"ce_ablated": 1.0, "ce_patched": -1.0},
        denominator={"ce_ablated": 1.0, "ce_clean": -1.0},
        better="higher",
        is_share=True,
        compared=True,
        of_a_prediction=True,
        primary=True,
        in_terminal=True,
        changes_with=_SHIFT,
        version=2,
    ),
    Metric(
        "ce_interaction",
        "Interaction",
        "ΔCE(joint) − Σ ΔCE(single). Above 0: the errors of the sites make each other worse.",
        "splice",
        unit="nats/token",
        better="lower",
    ),
    Metric(
        "compute_equivalent",
        "Compute-equivalent",
        "The size of the plain model, on a measured ladder of models trained alike, whose CE equals the patched CE. "
        "Beyond the ends of the ladder only the side is given.",
        "ladder",
        None,
        unit="parameters",
        better="higher",
    ),
    Metric(
        "stability_cosine",
        "Seed stability (mean cosine)",
        "Mean cosine of the best one-to-one matching of two dictionaries' write directions.",
        "stability",
        None,
        better="higher",
        in_terminal=True,
    ),
    Metric(
        "stability_shared",
        "Seed stability (cosine > 0.7)",
        "Share of the pairs in the best one-to-one matching of two dictionaries' write directions whose cosine is "
        "above 0.7.",
        "stability",
        None,
        better="higher",
        is_share=True,
        in_terminal=True,
    ),
    Metric(
        "mcc",
        "MCC",
        "Mean |cosine| of the best one-to-one matching to the true directions.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "mmcs",
        "MMCS",
        "Largest cosine of a living latent's write direction to each feature's direction, mean over features.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "ml2r",
        "ML2R",
        "Size that the nearest latent writes for a feature over the feature's own, mean over features.",
        "recovery",
        None,
    ),
    Metric(
        "feature_coverage",
        "Coverage",
        "Share of features with a living latent of cosine at least 0.9.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "splitting",
        "Splitting",
        "Latents of cosine at least 0.7 to a feature, mean over features with any; at 1 none is split.",
        "recovery",
        None,
        unit="latents/feature",
        better="lower",
    ),
    Metric(
        "hedging",
        "Hedging",
        "How far latents lean towards the features that correlate with their own; 0 is not at all.",
        "recovery",
        None,
        better="lower",
    ),
    Metric(
        "feature_precision",
        "Precision",
        "P(feature on | its best latent active), mean over features.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "feature_recall",
        "Recall",
        "P(best latent active | feature on), mean over features.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "feature_f1",
        "F1",
        "F1 of each feature's best latent as its detector, mean over features.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "latent_precision",
        "Precision of latents",
        "P(its best feature on | latent active), mean over living latents.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "latent_recall",
        "Recall of latents",
        "P(latent active | its best feature on), mean over living latents.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "latent_f1",
        "F1 of latents",
        "F1 of each living latent as the detector of its best feature, mean over latents.",
        "recovery",
        None,
        better="higher",
    ),
    Metric(
        "absorption",
        "Absorption",
        "Share of a child feature's rows on which its latent stands in for the parent's, beyond the rows that the "
        "parent's latent misses anyway.",
        "recovery",
        None,
        better="lower",
    ),
    Metric(
        "feature_shrinkage",
        "Shrinkage of features",
        "Slope of the size that a feature's latent writes on the true size, where both are on.",
        "recovery",
        None,
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by name; records, pages and tables keep its order."""


def of_pass(which: Pass) -> tuple[Metric, ...]:
    """The metrics of one pass, in order."""
    return tuple(metric for metric in METRICS.values() if metric.measured == which)
