"""What keeps the verdicts of a study from saying anything: said before the work, and of every site after it."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Shaped

from polyseme.causal import CausalConfig
from polyseme.core.config import Record
from polyseme.core.records import AXES, Axis, Number
from polyseme.verdicts.evidence import VerdictConfig
from polyseme.verdicts.judge import SiteVerdicts
from polyseme.verdicts.words import CHAIN

TOKENS_A_LATENT = 4
"""Tokens that a prediction must be learned on for each latent that it is from. Of 20 sums of two latents of a partner,
which matched one of them with r of 0.60 to 0.65, √0.7 r of the prediction exceeded the match of all 20 with 4 tokens a
latent or more, and of 17 and 9 with 2 and with 1."""


def unused(causal: CausalConfig, *, predicts: bool) -> str:
    """Why axis `used` can compare no latent, a clause; empty where it can.

    Args:
        causal: settings of the study.
        predicts: whether the network predicts the next token.
    """
    if not predicts:
        return "the network does not predict the next token"
    return "no firings are sampled (`causal.n_samples` is 0)" if causal.n_samples == 0 else ""


def shortfalls(
    missing: Mapping[Axis, str],
    causal: CausalConfig,
    verdicts: VerdictConfig,
    *,
    n_documents: int,
    predicts: bool,
    n_latents: int,
    match_tokens: int,
) -> list[str]:
    """What keeps this study's verdicts from saying anything of any latent, or from saying what is true, one sentence
    each.

    A small study may be run for its other figures, so nothing here is refused.

    Args:
        missing: axes that the seeds and controls of the study let say nothing, each with the reason, a clause.
        causal, verdicts: settings of the study.
        n_documents: on the held-out side.
        predicts: whether the network predicts the next token.
        n_latents: of the widest dictionary.
        match_tokens: train tokens that predictions are learned on.
    """
    reasons: dict[Axis, str] = {axis: why for axis, why in missing.items() if why}
    if why := unused(causal, predicts=predicts):
        reasons["used"] = why
    found = [
        f"{_axes([axis for axis in AXES if reasons.get(axis) == why])} `unknown` of every latent: {why}."
        for why in dict.fromkeys(reasons[axis] for axis in AXES if axis in reasons)
    ]
    silent = next((i for i, (axis, _) in enumerate(CHAIN) if axis in reasons), None)
    if silent is not None:
        found.append(f"Every latent is {_listed([*(word for _, word in CHAIN[:silent]), 'undecided'], 'or')}.")
    if n_documents < verdicts.min_documents:
        found.append(
            f"The held-out side has {n_documents:,} documents, and a latent must fire in {verdicts.min_documents:,} "
            "(`verdicts.min_documents`): every latent is `undecided`."
        )
    if match_tokens < TOKENS_A_LATENT * n_latents and "recurrent" not in reasons:
        found.append(
            f"Predictions from {n_latents:,} latents are learned on {match_tokens:,} train tokens "
            "(`evaluation.match_tokens`), so few that they are over-fitted: sums of features may be called recurrent, "
            f"and fewer latents the network's. {TOKENS_A_LATENT * n_latents:,} are enough."
        )
    return found


def _axes(axes: list[Axis]) -> str:
    return f"Axis {_listed(axes, 'and')} says" if len(axes) == 1 else f"Axes {_listed(axes, 'and')} say"


def _listed(names: Sequence[str], last: str) -> str:
    quoted = [f"`{name}`" for name in names]
    return f" {last} ".join([", ".join(quoted[:-1]), quoted[-1]] if len(names) > 1 else quoted)


class AxisPower(Record):
    """What one axis could say of the latents of one site."""

    axis: Axis
    n_latents: int
    """Latents of the site."""
    n_answered: int
    """Those that the axis says `yes` or `no` of."""
    n_yes: int
    """Those that it says `yes` of."""
    detectable: Number
    """Median over the answered latents of the least difference that would have been shown, after correction."""
    left_out: tuple[str, ...] = ()
    """Nulls that no latent of the site could be compared with."""
    why_none: str = ""
    """Where no latent is answered: the reason that most of them have."""

    @property
    def has_power(self) -> bool:
        """Whether it could say `yes` or `no` of any latent."""
        return self.n_answered > 0


def power(judged: SiteVerdicts) -> tuple[AxisPower, ...]:
    """What each axis could say of the latents of one site, in the order of `AXES`."""
    found: list[AxisPower] = []
    for axis in AXES:
        outcome = judged.outcomes[axis]
        made: Bool[np.ndarray, " latent"] = outcome.made
        detectable = outcome.detectable[made & np.isfinite(outcome.detectable)]
        found.append(
            AxisPower(
                axis=axis,
                n_latents=len(made),
                n_answered=int(made.sum()),
                n_yes=int(outcome.yes.sum()),
                detectable=float(np.median(detectable)) if len(detectable) else np.nan,
                left_out=outcome.left_out,
                why_none="" if made.any() else _commonest(outcome.missing),
            )
        )
    return tuple(found)


def _commonest(reasons: Shaped[np.ndarray, " latent"]) -> str:
    if not len(reasons):
        return "the dictionary has no latents"
    names, counts = np.unique(reasons.astype(str), return_counts=True)
    return str(names[counts.argmax()])
