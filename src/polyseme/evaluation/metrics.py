"""The table of metrics: all that the report, the terminal, the docs and the tests know about each of them.

A metric of a pass that exists needs its line here and, where the pass does not sum what it is made of, a statistic
there. Sums become values by a finish of `polyseme.evaluation.finishes`.
"""

from collections.abc import Mapping
from functools import partial

from polyseme.evaluation.finishes import DEAD_SHARE, DENSE_SHARE, FVU, RECOVERED
from polyseme.evaluation.metric import Change, Metric, Pass

_SHIFT: frozenset[Change] = frozenset({"shift"})
_reconstruction = partial(Metric, measured="reconstruction")
_lookup = partial(Metric, measured="lookup", finish=FVU)
_loss = partial(Metric, measured="splice", unit="nats/token")
_ladder = partial(Metric, measured="ladder", finish=None)
_stability = partial(Metric, measured="stability", finish=None, better="higher")
_learning = partial(Metric, measured="learning", finish=None)
_recovery = partial(Metric, measured="recovery", finish=None)

_TABLE = (
    _reconstruction(
        "fvu",
        "FVU",
        "Fraction of variance unexplained: Σ‖y−ŷ‖² / Σ‖y−ȳ‖² over the whole held-out split, ȳ the split's mean. 0 "
        "is perfect, 1 is no better than the mean. Never a mean of batch ratios. Not measured where y does not vary.",
        finish=FVU,
        better="lower",
        compared=True,
        primary=True,
        in_terminal=True,
        in_summary=True,
    ),
    _reconstruction(
        "fvu_ordinary",
        "FVU, ordinary vectors",
        "FVU of the ordinary vectors alone, about their own mean.",
        finish=FVU,
        vectors="ordinary",
        better="lower",
        compared=True,
        primary=True,
        in_terminal=True,
    ),
    _reconstruction(
        "shrinkage_ordinary",
        "Shrinkage, ordinary vectors",
        "Shrinkage of the ordinary vectors alone.",
        numerator={"square_hat": 1.0},
        denominator={"dot_hat": 1.0},
        vectors="ordinary",
        compared=True,
        changes_with=_SHIFT,
    ),
    _reconstruction(
        "l0", "L0", "Mean number of non-zero latents per vector.", unit="latents/vector", compared=True, in_summary=True
    ),
    _reconstruction(
        "cosine",
        "Cosine of y and ŷ",
        "Mean cosine between a vector and its reconstruction; a zero vector has cosine 0.",
        better="higher",
        compared=True,
        changes_with=_SHIFT,
    ),
    _reconstruction(
        "norm_ratio",
        "Norm ratio",
        "Σ‖ŷ‖ / Σ‖y‖.",
        numerator={"norm_hat": 1.0},
        denominator={"norm": 1.0},
        changes_with=_SHIFT,
    ),
    _reconstruction(
        "shrinkage",
        "Shrinkage",
        "Σ‖ŷ‖² / Σ ŷ·y: below 1 the reconstruction is too short, whatever its direction (relative reconstruction bias, "
        "Rajamanoharan et al. 2024, eq. 10).",
        numerator={"square_hat": 1.0},
        denominator={"dot_hat": 1.0},
        compared=True,
        changes_with=_SHIFT,
    ),
    _reconstruction(
        "dead_latents",
        "Dead latents",
        "Share of latents that never fired on the held-out vectors.",
        finish=DEAD_SHARE,
        better="lower",
        is_share=True,
        compared=True,
        in_summary=True,
    ),
    _reconstruction(
        "dense_latents",
        "Dense latents",
        "Share of latents that fired on more than 10% of the held-out vectors.",
        finish=DENSE_SHARE,
        is_share=True,
        compared=True,
    ),
    _lookup(
        "fvu_token",
        "FVU of a token look-up",
        "FVU of E[y | token], learned on the first evaluation.lookup_tokens training tokens (200,000 unless set); a "
        "token not seen there gets the mean vector. What a table without any network inside scores.",
    ),
    _lookup(
        "fvu_token_ordinary",
        "FVU of a token look-up, ordinary vectors",
        "FVU of a token look-up of the ordinary vectors alone.",
        vectors="ordinary",
    ),
    _lookup(
        "fvu_bigram",
        "FVU of a bigram look-up",
        "FVU of E[y | the last two tokens], of at most 100,000 bigrams; a bigram not seen in training gets its token's "
        "vector.",
    ),
    _lookup(
        "fvu_bigram_ordinary",
        "FVU of a bigram look-up, ordinary vectors",
        "FVU of a bigram look-up of the ordinary vectors alone.",
        vectors="ordinary",
    ),
    _loss(
        "ce_clean",
        "CE clean",
        "Cross-entropy of the next token, with the network as it is.",
        better="lower",
        compared=True,
    ),
    _loss(
        "ce_patched",
        "CE patched",
        "Cross-entropy of the next token with the reconstruction in place of the network's vectors.",
        better="lower",
        compared=True,
        of_a_prediction=True,
    ),
    _loss(
        "ce_zero",
        "CE zero-ablated",
        "Cross-entropy of the next token with zeros in place of the network's vectors.",
        changes_with=_SHIFT,
    ),
    _loss(
        "ce_mean",
        "CE mean-ablated",
        "Cross-entropy of the next token with the site's mean vector in place of the network's vectors.",
    ),
    _loss(
        "kl",
        "KL(clean ‖ patched)",
        "KL divergence of the patched network's prediction of the next token from the clean network's, mean over "
        "tokens.",
        better="lower",
        compared=True,
        of_a_prediction=True,
        primary=True,
    ),
    _loss(
        "ce_increase",
        "ΔCE",
        "CE patched − CE clean.",
        numerator={"ce_patched": 1.0, "ce_clean": -1.0},
        better="lower",
        compared=True,
        of_a_prediction=True,
        primary=True,
    ),
    _loss(
        "ce_patched_ordinary",
        "CE patched, ordinary vectors",
        "CE patched where the ordinary vectors alone are replaced.",
        vectors="ordinary",
        better="lower",
    ),
    _loss(
        "ce_increase_ordinary",
        "ΔCE, ordinary vectors",
        "ΔCE where the ordinary vectors alone are replaced.",
        numerator={"ce_patched_ordinary": 1.0, "ce_clean": -1.0},
        vectors="ordinary",
        better="lower",
    ),
    _loss(
        "ce_patched_all",
        "CE patched, left-out vectors too",
        "CE patched where the vectors that training left out are replaced too.",
        vectors="all",
        better="lower",
    ),
    _loss(
        "ce_increase_all",
        "ΔCE, left-out vectors too",
        "ΔCE where the vectors that training left out are replaced too.",
        numerator={"ce_patched_all": 1.0, "ce_clean": -1.0},
        vectors="all",
        better="lower",
    ),
    _loss(
        "ce_recovered",
        "CE recovered",
        "(CE ablated − CE patched) / (CE ablated − CE clean), for zero and for mean ablation. The choice of "
        "ablation changes the number, so both are shown with every CE behind them. Not measured where ablation costs "
        "no loss to recover: see the note beside it.",
        finish=RECOVERED,
        unit="",
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
    _loss(
        "ce_interaction",
        "Interaction",
        "ΔCE(joint) − Σ ΔCE(single). Above 0: the errors of the sites make each other worse.",
        better="lower",
        numerator={},
    ),
    _ladder(
        "compute_equivalent",
        "Compute-equivalent",
        "The size of the plain model, on a measured ladder of models trained alike, whose CE equals the patched CE. "
        "Beyond the ends of the ladder only the side is given.",
        unit="parameters",
        better="higher",
    ),
    _stability(
        "stability_cosine",
        "Seed stability (mean cosine)",
        "Mean cosine of the best one-to-one matching of two dictionaries' write directions.",
        in_terminal=True,
    ),
    _stability(
        "stability_shared",
        "Seed stability (cosine > 0.7)",
        "Share of the pairs in the best one-to-one matching of two dictionaries' write directions whose cosine is "
        "above 0.7.",
        is_share=True,
        in_terminal=True,
    ),
    _learning(
        "recurring",
        "Latents that recur",
        "Share of a dictionary's latents whose best match in that of another seed correlates by more than "
        "verdicts.recurrence, mean over pairs of seeds, at a moment of the training before the learning rate falls.",
        is_share=True,
        better="higher",
    ),
    _learning(
        "recurring_match",
        "Mean best match",
        "The mean of these correlations over all latents, at such a moment.",
        better="higher",
    ),
    _learning(
        "recurring_change",
        "Latents that recur, change over the last doubling",
        "How much more of the latents recur than after half the tokens, both before the learning rate falls.",
        is_share=True,
    ),
    _learning(
        "recurring_match_change",
        "Mean best match, change over the last doubling",
        "How much higher the mean best match is than after half the tokens, both before the learning rate falls.",
    ),
    _recovery("mcc", "MCC", "Mean |cosine| of the best one-to-one matching to the true directions.", better="higher"),
    _recovery(
        "mmcs",
        "MMCS",
        "Largest cosine of a living latent's write direction to each feature's direction, mean over features.",
        better="higher",
    ),
    _recovery(
        "ml2r", "ML2R", "Size that the nearest latent writes for a feature over the feature's own, mean over features."
    ),
    _recovery(
        "feature_coverage",
        "Coverage",
        "Share of features with a living latent of cosine at least 0.9.",
        better="higher",
    ),
    _recovery(
        "splitting",
        "Splitting",
        "Latents of cosine at least 0.7 to a feature, mean over features with any; at 1 none is split.",
        unit="latents/feature",
        better="lower",
    ),
    _recovery(
        "hedging",
        "Hedging",
        "How far latents lean towards the features that correlate with their own; 0 is not at all.",
        better="lower",
    ),
    _recovery(
        "feature_precision", "Precision", "P(feature on | its best latent active), mean over features.", better="higher"
    ),
    _recovery("feature_recall", "Recall", "P(best latent active | feature on), mean over features.", better="higher"),
    _recovery(
        "feature_f1", "F1", "F1 of each feature's best latent as its detector, mean over features.", better="higher"
    ),
    _recovery(
        "latent_precision",
        "Precision of latents",
        "P(its best feature on | latent active), mean over living latents.",
        better="higher",
    ),
    _recovery(
        "latent_recall",
        "Recall of latents",
        "P(latent active | its best feature on), mean over living latents.",
        better="higher",
    ),
    _recovery(
        "latent_f1",
        "F1 of latents",
        "F1 of each living latent as the detector of its best feature, mean over latents.",
        better="higher",
    ),
    _recovery(
        "unique_features",
        "Unique features",
        "Distinct features among those of largest |cosine| with each latent, over the number of latents.",
        is_share=True,
        better="higher",
    ),
    _recovery(
        "nearest_precision",
        "Precision, nearest feature",
        "P(the feature of largest |cosine| on | latent active), mean over latents, 0 for a dead one.",
        better="higher",
    ),
    _recovery(
        "nearest_recall",
        "Recall, nearest feature",
        "P(latent active | the feature of largest |cosine| on), mean over latents, 0 for a dead one.",
        better="higher",
    ),
    _recovery(
        "nearest_f1",
        "F1, nearest feature",
        "F1 of each latent as the detector of the feature of largest |cosine|, mean over latents, 0 for a dead one.",
        better="higher",
    ),
    _recovery(
        "absorption",
        "Absorption",
        "Share of a child feature's rows on which its latent stands in for the parent's, beyond the rows that the "
        "parent's latent misses anyway.",
        better="lower",
    ),
    _recovery(
        "feature_shrinkage",
        "Shrinkage of features",
        "Slope of the size that a feature's latent writes on the true size, where both are on.",
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by name; records, pages and tables keep its order."""


def of_pass(which: Pass) -> tuple[Metric, ...]:
    """The metrics of one pass, in order."""
    return tuple(metric for metric in METRICS.values() if metric.measured == which)
