"""From evidence to verdicts: which latents are really the network's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field

from polyseme.activations.firings import Firings
from polyseme.causal import CausalEffects, Statistic
from polyseme.core.config import Config
from polyseme.core.errors import InputError
from polyseme.core.records import STATUSES, Evidence, Interval, MetricRecord, Status, Verdict
from polyseme.core.stats import benjamini_hochberg, wilson_interval, within_reach
from polyseme.evaluation.specificity import Margin, Specificity

NO_PREDICTION = "no causal effect: the network does not predict the next token"
NO_RECURRENCE = (
    "no model-specificity: it varies too little in one half of the documents to be correlated with the second seed's "
    "latents"
)

_LOSSES = {"kl": "expected loss, KL(clean ‖ ablated)", "ce": "observed loss, CE(ablated) − CE(clean)"}


class VerdictConfig(Config):
    """When a latent counts as supported."""

    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Level of the causal test after Benjamini–Hochberg correction over the latents tested in the dictionary."""
    min_documents: int = Field(default=20, ge=1, le=10**9)
    """Fewest documents that a latent must have fired in."""
    margin: float = Field(default=0.0, ge=0, lt=1)
    """The interval of the model-specificity must lie above this, for every control."""
    margin_fdr: float = Field(default=0.02, gt=0, le=1)
    """Share of the margins selected that may be there by the luck of training, judged by the mirror image of the
    margins below 0; 1 turns it off. At 0.02 either none is selected or at least fifty are."""


@dataclass(frozen=True)
class Outcome:
    """One of the two tests of every latent of a dictionary.

    Attributes:
        missing: why the test says nothing about a latent; empty where it was made and could have been passed.
        passed: False where it was not made.
    """

    missing: Shaped[np.ndarray, " latent"]
    passed: Bool[np.ndarray, " latent"]

    @property
    def made(self) -> Bool[np.ndarray, " latent"]:
        """Where the test says something, passed or not."""
        return self.missing == ""


@dataclass(frozen=True)
class SiteVerdicts:
    """The verdicts on one dictionary.

    Attributes:
        verdicts: one a latent.
        n_documents: in how many documents each latent fired.
        records: the share of latents with each verdict.
        p_corrected: corrected p-value of the causal test; NaN where it was not made.
        tests: `causal_effect` and `model_specificity`.
        thresholds: the least margin that passes, by control.
    """

    verdicts: list[Verdict]
    n_documents: Int[np.ndarray, " latent"]
    records: list[MetricRecord]
    p_corrected: Float[np.ndarray, " latent"]
    tests: dict[str, Outcome]
    thresholds: dict[str, float]


def judge(
    firings: Firings,
    effects: CausalEffects | None,
    specificity: Specificity | None,
    *,
    config: VerdictConfig | None = None,
    statistic: Statistic = "kl",
    lacks: Sequence[str] = (),
    scope: dict[str, str | int] | None = None,
) -> SiteVerdicts:
    """A verdict on every latent of a dictionary, with all the evidence it rests on.

    Two tests. Causal: ablating it moves the predictions more than its null does (`CausalConfig.null`), in expected
    loss (KL; with `statistic="ce"` in observed loss): p ≤ alpha after Benjamini–Hochberg over the latents that the
    test is made on, and the effect's interval lies above the null. Specific: for every control the margin's interval
    lies above `margin`, and the margin is at least the control's `mirror_threshold`, found on the latents that the test
    is made on. Then

    - supported: both tests pass;
    - mixed: exactly one does;
    - indistinguishable_from_control: neither does;
    - insufficient_data: it fired in fewer than `min_documents` documents, or one of the tests could not be made, or
      could not have been passed: its p-value is out of reach with as few documents (`within_reach`), or the luck
      filter finds no threshold. A test that no result could have passed is no evidence against a latent.

    Args:
        firings: the dictionary's latents over the held-out tokens.
        effects: their causal effects; None where the network predicts nothing, or none were asked for.
        specificity: their recurrence and margins; None without a second seed or a control.
        config: thresholds.
        statistic: what the effects' p-values are of: the expected loss, or the observed one.
        lacks: what the study does not have (`control`, `second seed`) where there is no specificity.
        scope: what the records say they were measured on.

    Raises:
        InputError: the evidence is not about the same latents.
    """
    config = config or VerdictConfig()
    n_documents = firings.document_counts
    margins = specificity.margins if specificity else {}
    measured = [effects.effect] if effects else []
    if {len(values) for values in (*measured, *(m.value for m in margins.values()))} - {firings.n_latents}:
        raise InputError(
            "the causal effects, the margins and the firings are not about the same latents",
            fix="measure them all on the same dictionary",
        )
    least = config.min_documents
    few = f"fired in fewer than {least:,} held-out documents" if least > 1 else "fired in no held-out document"
    rare = (few, n_documents < least)
    causal, causal_evidence = _causal(effects, rare, config, statistic)
    uncompared = f"no model-specificity: the study has no {' and no '.join(lacks) or 'control, or no second seed'}"
    specific, specific_evidence, thresholds = _specific(specificity, rare, config, uncompared)
    # What the whole study lacks comes before what a latent lacks.
    whole = NO_PREDICTION if effects is None else "" if margins else uncompared
    verdicts: list[Verdict] = []
    for i, n in enumerate(n_documents):
        missing = whole or str(causal.missing[i] or specific.missing[i])
        passed = int(causal.passed[i]) + int(specific.passed[i])
        status: Status = ("indistinguishable_from_control", "mixed", "supported")[passed]
        evidence = (
            *([causal_evidence[i]] if causal_evidence else []),
            *(each[i] for each in specific_evidence),
            Evidence(
                name="firing_documents",
                effect=float(n),
                n=int(n),
                n_unit="documents",
                threshold=config.min_documents,
                passed=bool(n >= config.min_documents),
            ),
            *([_observed(effects, i)] if effects and statistic == "kl" else []),
        )
        verdicts.append(Verdict(status="insufficient_data" if missing else status, evidence=evidence, missing=missing))
    tests = {"causal_effect": causal, "model_specificity": specific}
    p_corrected = np.array([e.p_corrected for e in causal_evidence] or [math.nan] * len(n_documents))
    return SiteVerdicts(verdicts, n_documents, summarise(verdicts, scope), p_corrected, tests, thresholds)


Reason = tuple[str, Bool[np.ndarray, "..."]]
"""Why a test says nothing, and of which latents that is true."""


def _first(reasons: Sequence[Reason], n_latents: int) -> Shaped[np.ndarray, " latent"]:
    """The first reason that is true of each latent; empty where none is."""
    missing = np.full(n_latents, "", dtype=object)
    for what, holds in reversed(reasons):
        missing[np.broadcast_to(holds, missing.shape)] = what
    return missing


def _causal(
    effects: CausalEffects | None, rare: Reason, config: VerdictConfig, statistic: Statistic
) -> tuple[Outcome, list[Evidence]]:
    n_latents = len(rare[1])
    if effects is None:
        return Outcome(_first([(NO_PREDICTION, np.asarray(True))], n_latents), np.zeros(n_latents, dtype=bool)), []
    unmeasured = ("no causal effect could be measured", ~np.isfinite(effects.p))
    # Only latents that the test is made on are counted: the others would only water the correction down.
    tried = _first([rare, unmeasured], n_latents) == ""
    p = np.where(tried, effects.p, np.nan)
    beyond = (
        "its causal effect was sampled in too few documents for any effect to pass",
        ~within_reach(p, effects.least_p, alpha=config.alpha),
    )
    corrected = benjamini_hochberg(p)
    effect, what = effects.of(statistic), _LOSSES[statistic]
    passed = (corrected <= config.alpha) & (effect.low > effect.null)
    outcome = Outcome(_first([rare, unmeasured, beyond], n_latents), passed)
    evidence = [
        Evidence(
            name="causal_effect",
            effect=float(effect.value[i]),
            interval=Interval(low=float(effect.low[i]), high=float(effect.high[i])),
            null=float(effect.null[i]),
            n=int(effects.n_tokens[i]),
            n_unit="tokens",
            threshold=config.alpha,
            p_corrected=float(corrected[i]),
            passed=bool(passed[i]),
            made=bool(outcome.made[i]),
            note=f"nats of {what}; tokens of {int(effects.n_documents[i])} documents; the "
            "threshold is for the corrected p, and the interval must lie above the null too",
        )
        for i in range(n_latents)
    ]
    return outcome, evidence


def _specific(
    specificity: Specificity | None, rare: Reason, config: VerdictConfig, uncompared: str
) -> tuple[Outcome, list[list[Evidence]], dict[str, float]]:
    n_latents = len(rare[1])
    if specificity is None or not specificity.margins:
        return Outcome(_first([(uncompared, np.asarray(True))], n_latents), np.zeros(n_latents, dtype=bool)), [], {}
    margins = specificity.margins
    unmeasured = [(NO_RECURRENCE, ~np.isfinite(specificity.recurrence.low)), *_against(margins)]
    tried = _first([rare, *unmeasured], n_latents) == ""
    least = least_selected(config.margin_fdr)
    few = (
        f"the FDR filter (margin_fdr {config.margin_fdr:g}) needs {least:,} specific latents, and only "
        f"{int(tried.sum()):,} could be compared",
        np.asarray(tried.sum() < least),
    )
    thresholds = {
        name: max(config.margin, mirror_threshold(np.where(tried, margin.value, np.nan), q=config.margin_fdr))
        for name, margin in margins.items()
    }
    without = [name for name, threshold in thresholds.items() if math.isinf(threshold)]
    luck = (
        f"the FDR filter (margin_fdr {config.margin_fdr:g}) finds no threshold against {', '.join(without)}",
        np.asarray(bool(without)),
    )
    passed = {
        name: tried & (margin.low > config.margin) & (margin.value >= thresholds[name])
        for name, margin in margins.items()
    }
    outcome = Outcome(_first([rare, *unmeasured, few, luck], n_latents), np.all(list(passed.values()), axis=0))
    evidence = [
        [
            Evidence(
                name=f"model_specificity/{name}",
                effect=float(margin.value[i]),
                interval=Interval(low=float(margin.low[i]), high=float(margin.high[i])),
                null=0.0,
                n=int(specificity.n_documents[i]),
                n_unit="documents",
                threshold=thresholds[name],
                passed=bool(passed[name][i]),
                made=bool(outcome.made[i]),
                note=f"best match: another seed {specificity.recurrence.value[i]:.3f}, the control "
                f"{specificity.controls[name].value[i]:.3f}",
            )
            for i in range(n_latents)
        ]
        for name, margin in margins.items()
    ]
    return outcome, evidence, thresholds


def _against(margins: Mapping[str, Margin]) -> list[Reason]:
    """Each set of controls against which the margins of some latents were not measured, and of which latents."""
    absent = np.stack([~np.isfinite(margin.low) for margin in margins.values()], axis=1)
    sets, set_of = np.unique(absent, axis=0, return_inverse=True)
    named = [", ".join(name for name, is_absent in zip(margins, each, strict=True) if is_absent) for each in sets]
    what = "no model-specificity could be measured against"
    return [(f"{what} {names}", set_of == i) for i, names in enumerate(named) if names]


def least_selected(q: float) -> float:
    """The fewest latents that `mirror_threshold` selects at a share q when it selects any; infinity for q = 0."""
    if q >= 1:
        return 1
    if q <= 0:
        return math.inf
    n = math.ceil(1 / q)
    return n if q * n >= 1 else n + 1


def mirror_threshold(margins: Float[np.ndarray, " latent"], *, q: float) -> float:
    """The smallest margin at which at most a share q of the latents selected is expected to be there by luck.

    A latent that is no more the trained network's than the control's is matched better by either dictionary with
    equal chance: which one is the luck of two training runs, and no amount of held-out text averages it out. So the
    margins below −τ tell how many are above τ by luck: τ = min {t > 0 : (1 + #{m ≤ −t}) / #{m ≥ t} ≤ q} (the
    knockoff+ filter; Barber & Candès 2015, Controlling the false discovery rate via knockoffs, equation 1.9).

    It is needed: on planted truth (six networks, 154 latents of trained dictionaries that stand for a statistic of the
    input, which the control has too) the interval alone lay above 0 for 54%, and 36% would have been called supported;
    with the threshold at q = 0.02, none.

    Args:
        margins: one a latent; NaN is left out.
        q: the share of false discoveries.

    Returns:
        The threshold; 0 with q ≥ 1, infinity where no threshold will do.
    """
    if q >= 1:
        return 0.0
    measured = margins[np.isfinite(margins)]
    candidates = np.unique(np.abs(measured[measured != 0]))
    ordered = np.sort(measured)
    below = np.searchsorted(ordered, -candidates, side="right")
    above = len(ordered) - np.searchsorted(ordered, candidates, side="left")
    good = np.flatnonzero(1 + below <= q * above)
    return float(candidates[good[0]]) if len(good) else math.inf


def summarise(verdicts: Sequence[Verdict], scope: dict[str, str | int] | None = None) -> list[MetricRecord]:
    """How many latents of a dictionary got each verdict: one record each, a share with its Wilson interval."""
    n = len(verdicts)
    counts = {status: sum(verdict.status == status for verdict in verdicts) for status in STATUSES}
    return [
        MetricRecord(
            name="verdict_share",
            value=count / n if n else math.nan,
            interval=wilson_interval(count, n),
            n=n,
            n_unit="latents",
            better="higher" if status == "supported" else "neither",
            scope={**(scope or {}), "status": status},
            details={"count": count},
        )
        for status, count in counts.items()
    ]


def _observed(effects: CausalEffects, i: int) -> Evidence:
    """The same effect on the tokens that really came next: shown, but too noisy to rest a verdict on."""
    return Evidence(
        name="observed_loss_effect",
        effect=float(effects.effect[i]),
        interval=Interval(low=float(effects.low[i]), high=float(effects.high[i])),
        null=float(effects.null[i]),
        n=int(effects.n_tokens[i]),
        n_unit="tokens",
        passed=bool(effects.low[i] > effects.null[i]),
        note="nats, CE(ablated) − CE(clean) of the actual next token; not part of the verdict",
    )
