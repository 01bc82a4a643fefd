"""What every name in a report means, said once for the page and the terminal."""

import math

from polyseme.core import numbers
from polyseme.core.records import Interval, MetricRecord, Status
from polyseme.evaluation.metrics import METRICS

STATUS_NAMES: dict[Status, str] = {
    "supported": "supported",
    "mixed": "mixed",
    "indistinguishable_from_control": "indistinguishable from control",
    "insufficient_data": "insufficient data",
}
STATUS_SHORT: dict[Status, str] = {
    "supported": "supported",
    "mixed": "mixed",
    "indistinguishable_from_control": "like a control",
    "insufficient_data": "not judged",
}
STATUS_SIGNS: dict[Status, str] = {
    "supported": "●",
    "mixed": "◐",
    "indistinguishable_from_control": "○",
    "insufficient_data": "◌",
}
STATUS_MEANINGS: dict[Status, str] = {
    "supported": (
        "Both tests pass. Causal: removing it changes the predictions (with causal.statistic = ce: raises the loss of "
        "the actual next token) more than removing a random direction of equal norm does (or what causal.null "
        "says; p corrected over the dictionary's latents by Benjamini–Hochberg, and the effect's interval above the "
        "null's mean). Specific: against every control, the interval of its model-specificity lies above 0 (or "
        "verdicts.margin), and the model-specificity reaches the FDR threshold."
    ),
    "mixed": (
        "Both tests were made and exactly one passes: it has a causal effect but is not shown to be specific to "
        "the trained network, or the other way round."
    ),
    "indistinguishable_from_control": (
        "Both tests were made and neither passes: its causal effect is not shown to exceed that of the "
        "null, nor is it shown to be matched better in another seed's dictionary than in a control's."
    ),
    "insufficient_data": (
        "Not judged: a test that a verdict needs could not be made, or no result could have passed it. It fired or "
        "was sampled in too few held-out documents, or the FDR filter found no threshold, or the study lacks what the "
        "test needs. This is no evidence against it."
    ),
}

EVIDENCE_NAMES = {
    "firing_documents": "Documents fired in",
    "model_specificity": "Model-specificity",
    "observed_loss_effect": "Observed loss effect",
}
TEST_NAMES = {"causal_effect": "effect", "model_specificity": "specific", "firing_documents": "data"}
"""Tests by one word each."""
EFFECT_MEANINGS = {"kl": ("change", "the predictions"), "ce": ("raise", "the loss of the actual next token")}
"""What removing latents does that pass the causal test on this statistic."""
SHOWN_ONLY = frozenset({"observed_loss_effect"})
"""Evidence that no verdict rests on."""


PRIMARY = frozenset(metric.name for metric in METRICS.values() if metric.primary)
"""Metrics whose comparisons with the controls are shown at once; the others are folded away."""


def metric_name(name: str) -> str:
    """How a metric or a test is called in a report; what stands after a slash is kept."""
    head, slash, rest = name.partition("/")
    if head in METRICS:
        known = METRICS[head].title
    else:
        known = EVIDENCE_NAMES.get(head) or (head[:1].upper() + head[1:]).replace("_", " ")
    return f"{known} / {rest}" if slash else known


def _is_share(record: MetricRecord) -> bool:
    return record.name in METRICS and METRICS[record.name].is_share


def value_of(record: MetricRecord | None) -> str:
    """A record's value as its kind is written: shares as percentages."""
    if record is None:
        return numbers.MISSING
    return numbers.percent(record.value, 3) if _is_share(record) else numbers.short(record.value)


def bounds_of(record: MetricRecord | None) -> str:
    """A record's interval as its kind is written; nothing where it was not measured."""
    if record is None or record.interval is None or math.isnan(record.interval.low):
        return ""
    if _is_share(record):
        return f"[{numbers.percent(record.interval.low, 3)}, {numbers.percent(record.interval.high, 3)}]"
    return numbers.interval(record.interval)


def gap_of(gap: float, trained: MetricRecord) -> str:
    """The gap between two values of a metric: percentage points between shares."""
    if not _is_share(trained) or math.isnan(gap):
        return numbers.signed(gap)
    return f"{numbers.signed(100 * gap)} pp"


def gap_bounds(bounds: Interval | None, trained: MetricRecord) -> str:
    """The interval of a gap, in the unit of `gap_of`."""
    if bounds is None or not _is_share(trained):
        return numbers.interval(bounds, sign=True)
    return numbers.interval(Interval(low=100 * bounds.low, high=100 * bounds.high), sign=True)


_IN_STUDIES = ("reconstruction", "lookup", "splice", "ladder", "stability")
"""The passes whose metrics a study has."""
GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "Latent, feature",
        "A latent is a unit of a dictionary. A feature is a variable of the data or of the network: a truth. The "
        "report judges latents; it never takes them for features.",
    ),
    (
        "Judged",
        "A latent with one of the three verdicts. Latents with insufficient data are counted separately: nothing was "
        "found about them, for them or against them.",
    ),
    (
        "Density",
        "Share of held-out vectors on which a latent fires. Dead: it never fires there; dense: on more than a tenth.",
    ),
    (
        "Massive and ordinary vectors",
        "A vector is massive when its distance from the site's centre, the coordinate-wise median, is more than 10 "
        "times the median distance (or the factor in training.leave_out.norm), as measured on train tokens. A few of "
        "them, most often at the start of a window, can carry most of the variance. Figures for ordinary vectors leave "
        "out massive ones and positions that training leaves out; ȳ is then the mean of the ordinary vectors.",
    ),
    (
        "Mean ablation",
        "Every counted token's vector is replaced by the mean vector of the site over the first 50,000 training tokens "
        "(all of them where there are fewer), in whole windows: one vector for the whole split, not the mean of the "
        "held-out tokens.",
    ),
    (
        "Joint",
        "Every site of the study patched in the same forward pass.",
    ),
    *((m.title, m.meaning) for m in METRICS.values() if m.measured in _IN_STUDIES and m.vectors == "counted"),
    (
        "Causal effect",
        "Mean, over at most causal.n_samples of a latent's firing tokens, of what subtracting fᵢdᵢ there does to the "
        "prediction made there, by full forward passes: KL(clean ‖ ablated), which is the rise of the loss expected "
        "under the network's own predictions, and beside it the observed CE(x − fᵢdᵢ) − CE(x) of the actual next "
        "token, a far noisier reading. The test is made on the first (on the second with causal.statistic = ce). "
        "Null: a random direction of equal norm at the same tokens, or what causal.null says: a direction of the "
        "site's covariance, or another latent's, of equal norm too.",
    ),
    (
        "Control",
        "The same study on a null, with something random in the place of the weights, the tokens or the dictionary's "
        "directions. Verdicts and model-specificity are about controls of the weights and of the tokens alone, whose "
        "dictionaries show what the method finds in a network or a text without what is to be explained. A control of "
        "the dictionary has the real network and text: its scores show what training the directions adds.",
    ),
    (
        "p corrected",
        "One-sided, by sign flips of whole documents, corrected by Benjamini–Hochberg over the latents of the "
        "dictionary that the test is made on. A latent sampled in few documents has a smallest p-value whatever its "
        "effect; where that could not have passed, the latent is not judged.",
    ),
    (
        "Model-specificity",
        "maxⱼ corr(fᵢ, fⱼ of another seed on the same network) − maxⱼ corr(fᵢ, fⱼ of a dictionary trained on the "
        "control), over the same held-out tokens; each match is chosen on one half of the documents and measured on "
        "the other, both ways. Above 0 the other seed's match is closer, which the luck of two training runs can do "
        "too: what is more than luck is left to the FDR threshold.",
    ),
    (
        "FDR threshold",
        "The least model-specificity that passes, for each dictionary and control: verdicts.margin, or the smallest t "
        "above it at which "
        "(1 + latents at or below −t) / (latents at or above t) is at most verdicts.margin_fdr (0.02 unless set). "
        "Margins below 0 are luck, and as many above 0 are expected to be luck too. At 0.02 at least fifty latents "
        "must reach t. Where no t will do, the test says nothing about the dictionary, and no latent of it is judged. "
        "At 1 the threshold is verdicts.margin, and how much of what lies above it is luck is not known.",
    ),
    (
        "Token share ε²",
        "Var(E[f | token]) / Var(f), corrected for tokens that occur a few times only (Kelley's ε²): how much of a "
        "latent follows from the present token alone. About 0 where nothing does, and it may lie a little below.",
    ),
    (
        "Seed recurrence",
        "Correlation with the best match in a dictionary trained from another seed, chosen on one half of the "
        "documents and measured on the other.",
    ),
    (
        "Interval",
        "95%, percentile bootstrap over documents unless said otherwise: tokens of one document depend on each other. "
        "None from fewer than six documents: what they span cannot hold a value 95% of the time.",
    ),
    (
        "Not measured",
        "The number does not exist for this study. It is never replaced by 0.",
    ),
)
LIMITS: tuple[str, ...] = (
    "A supported latent is one whose role in this network on this corpus survives these controls. It is not shown "
    "to be a feature, to be monosemantic, or to mean what its contexts suggest.",
    "A control bounds what the method finds without the thing the control destroys. Another null may explain what "
    "these do not.",
    "Maximal contexts are a selection and flatter a latent. Read the random ones beside them.",
    "Logit effects follow the direct path only: no later layer and no final norm stands between.",
    "Ablating a write direction measures necessity at that site. A copy of the same information elsewhere hides it.",
)
