"""What a study must have for its verdicts to be able to come out either way, said before the work."""

import math
from collections.abc import Collection, Sequence

from polyseme.causal import CausalConfig
from polyseme.core.stats import least_together
from polyseme.verdicts.judge import VerdictConfig, least_selected


def impossible(causal: CausalConfig, verdicts: VerdictConfig, n_latents: int) -> str:
    """Why these thresholds let no latent pass, however much is sampled; empty where they do.

    Few samples, documents or latents are not refused: a small study may be run for its other figures (`shortfalls`).
    """
    smallest = 1 / (causal.flips(n_latents) + 1)
    if causal.n_samples <= 0 or smallest <= verdicts.alpha:
        return ""
    return (
        f"no latent can be supported with `verdicts.alpha` = {verdicts.alpha:g}: with {causal.flips(n_latents):,} sign "
        f"flips a p-value is at least {smallest:.2g}; set `causal.n_flips` to {math.ceil(1 / verdicts.alpha):,} or "
        "more, or raise `verdicts.alpha`"
    )


def shortfalls(
    causal: CausalConfig,
    verdicts: VerdictConfig,
    widths: Collection[int],
    *,
    n_documents: int,
    predicts: bool,
    lacks: Sequence[str],
) -> list[str]:
    """What keeps this study's verdicts from saying anything of some or all latents, one sentence each.

    Args:
        causal, verdicts: settings of the study.
        widths: latents of each dictionary that is judged.
        n_documents: on the held-out side.
        predicts: whether the network predicts the next token.
        lacks: which of a control to judge against and a second seed the study does not have.
    """
    found: list[str] = []
    if not predicts:
        found.append(
            "The network does not predict the next token, so no causal effect can be measured and no latent gets a "
            "verdict; model-specificity is measured where the study has a control of the weights or tokens and a "
            "second seed."
        )
    elif causal.n_samples <= 0:
        found.append("With causal.n_samples = 0 no causal effect is measured, so no latent gets a verdict.")
    elif causal.n_samples < 2 or n_documents < 2:
        found.append("A causal effect sampled in fewer than two documents has no p-value, so no latent gets a verdict.")
    else:
        n_latents = max(widths)
        sampled = min(causal.n_samples, n_documents)
        smallest = max(0.5**sampled, 1 / (causal.flips(n_latents) + 1))
        together = least_together(smallest, n_latents, alpha=verdicts.alpha)
        if together > 1:
            found.append(
                f"Sampled in at most {sampled} documents, a latent's p-value is at least {smallest:.2g}: after "
                f"correction over {n_latents:,} latents {_together(together, n_latents)}; with "
                f"{samples_alone(n_latents, verdicts.alpha)} samples in as many documents one can pass alone."
            )
    if lacks:
        found.append(
            "Model-specificity needs a control of the weights or tokens and a second seed, and the study has no "
            f"{' and no '.join(lacks)}: no latent gets a verdict."
        )
    elif min(widths) < least_selected(verdicts.margin_fdr):
        found.append(
            f"The FDR filter (verdicts.margin_fdr = {verdicts.margin_fdr:g}) can only select "
            f"{least_selected(verdicts.margin_fdr):,} latents or more, and a dictionary has {min(widths):,}: none of "
            "its latents gets a verdict. Widen the dictionary or raise margin_fdr (1 turns the filter off)."
        )
    if n_documents < verdicts.min_documents:
        found.append(
            f"The held-out side has {n_documents:,} documents, and a verdict needs a latent to fire in "
            f"{verdicts.min_documents:,} (verdicts.min_documents): no latent gets a verdict."
        )
    return found


def samples_alone(n_latents: int, alpha: float) -> int:
    """Samples in documents of their own that let one latent of a dictionary pass alone."""
    return math.ceil(math.log2(n_latents / alpha))


def _together(together: int, n_latents: int) -> str:
    if together > n_latents:
        return "none can pass, and no latent gets a verdict"
    return f"one passes only where at least {together:,} have it"
