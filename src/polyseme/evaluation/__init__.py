"""Metrics on held-out documents, one family a file; every one is a function of additive per-document sums.

To add one: a file that yields `DocumentSums` (or, where documents play no part, a `MetricRecord`), and its line in
`METRICS`.
"""

from polyseme.evaluation.compute_equivalent import Rung, compute_equivalent
from polyseme.evaluation.continuation import Continuation, ContinuationConfig, continue_text
from polyseme.evaluation.gap import gap, gap_of_records
from polyseme.evaluation.lookup import Lookup, LookupConfig, LookupSums, evaluate_lookup, learn_lookup
from polyseme.evaluation.reconstruction import (
    ReconstructionSums,
    Visitor,
    counted_documents,
    density_histogram,
    evaluate_reconstruction,
    sweep,
)
from polyseme.evaluation.splice import Runner, patch_edits, splice, splice_sums
from polyseme.evaluation.stability import matched_cosines, mcc, random_matched_cosines, stability
from polyseme.evaluation.sums import FINISHES, DocumentSums, load_sums, save_sums

METRICS: dict[str, str] = {
    "fvu": "fraction of variance unexplained: Σ‖y−ŷ‖² / Σ‖y−ȳ‖² over the whole split",
    "fvu_ordinary": "FVU of the ordinary vectors alone: without massive ones and those at positions left out",
    "l0": "mean non-zero latents a token",
    "cosine": "mean cosine between a vector and its reconstruction",
    "norm_ratio": "Σ‖ŷ‖ / Σ‖y‖",
    "shrinkage": "Σ‖ŷ‖² / Σ ŷ·y; below 1 the reconstruction is too short",
    "shrinkage_ordinary": "shrinkage of the ordinary vectors alone",
    "dead_latents": "share of latents that never fired",
    "dense_latents": "share of latents that fire on more than 10% of the tokens",
    "fvu_token": "fraction of variance that the token's mean vector leaves unexplained",
    "fvu_bigram": "fraction of variance that the bigram's mean vector leaves unexplained",
    "fvu_token_ordinary": "fvu_token of the ordinary vectors alone",
    "fvu_bigram_ordinary": "fvu_bigram of the ordinary vectors alone",
    "ce_clean": "cross-entropy of the untouched network",
    "ce_patched": "cross-entropy with reconstructions in the place of the network's vectors",
    "ce_zero": "cross-entropy with zeros in the place of the network's vectors",
    "ce_mean": "cross-entropy with the training mean in the place of the network's vectors",
    "ce_increase": "CE patched − CE clean",
    "ce_patched_ordinary": "cross-entropy with reconstructions in the place of the ordinary vectors alone",
    "ce_increase_ordinary": "CE patched at ordinary vectors alone − CE clean",
    "ce_patched_all": "cross-entropy with reconstructions in the place of the vectors that training left out, too",
    "ce_increase_all": "CE patched at the vectors that training left out, too − CE clean",
    "ce_recovered": "(CE ablated − CE patched) / (CE ablated − CE clean)",
    "kl": "KL(clean ‖ patched) of the next token",
    "ce_interaction": "ΔCE with all sites patched − Σ ΔCE with one site patched",
    "compute_equivalent": "size of the plain model that predicts as well as the patched one",
    "stability_cosine": "mean cosine of the best one-to-one matching of two dictionaries' write directions",
    "stability_shared": "share of that matching above cosine .7",
    "mcc": "mean |cosine| of the best one-to-one matching to the true directions",
    "mmcs": "mean over features of the largest cosine of a living latent's write direction",
    "ml2r": "mean over features of the size that the nearest latent writes for it over its own",
    "feature_coverage": "share of features with a living latent of cosine at least .9",
    "splitting": "latents of cosine at least .7 to a feature, for features with any; 1: none is split",
    "hedging": "how far latents lean to the features that correlate with their own; 0: not at all",
    "feature_precision": "P(feature on | its best latent active), mean over features",
    "feature_recall": "P(best latent active | feature on), mean over features",
    "feature_f1": "F1 of each feature's best latent as its detector, mean over features",
    "latent_precision": "P(its best feature on | latent active), mean over living latents",
    "latent_recall": "P(latent active | its best feature on), mean over living latents",
    "latent_f1": "F1 of each living latent as the detector of its best feature, mean over latents",
    "absorption": "share of a child's rows where its latent speaks for the parent's, beyond the parent's carelessness",
    "feature_shrinkage": "slope of the size a feature's latent writes on the true size, where both are on",
}
"""What each record's `name` means."""

__all__ = [
    "FINISHES",
    "METRICS",
    "Continuation",
    "ContinuationConfig",
    "DocumentSums",
    "Lookup",
    "LookupConfig",
    "LookupSums",
    "ReconstructionSums",
    "Rung",
    "Runner",
    "Visitor",
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
