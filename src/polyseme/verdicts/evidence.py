"""What the latents of one dictionary are judged on, and when an axis of their profile says yes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import Field

from polyseme.causal import CausalEffects
from polyseme.core.config import Config
from polyseme.core.contrast import Contrast
from polyseme.core.records import AXES, Axis
from polyseme.evaluation.recurrence import Recurrence


class VerdictConfig(Config):
    """When an axis of a latent's profile says yes."""

    replaced: ClassVar[Mapping[str, str]] = {
        "margin_fdr": "each axis has one correction for all latents, and `verdicts.alpha` is its false discovery rate"
    }

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of false answers among the `yes` of an axis, and among the latents with a word, that is expected at most
    (false discovery rate), over the latents of all sites."""
    min_documents: int = Field(default=20, ge=2, le=10**9)
    """Smallest number of held-out documents that a latent must fire in."""
    recurrence: float = Field(default=0.7, ge=0, lt=1)
    """A recurrent latent correlates with its best match in other seeds' dictionaries by more than this, and by more
    than 95% of random directions of the same density do."""
    in_one: float = Field(default=0.7, ge=0, lt=1)
    """A recurrent latent's best match alone explains more than this share of the variance of it that all latents of the
    other dictionary explain together."""
    margin: float = Field(default=0.05, ge=0, lt=1)
    """Other seeds' dictionaries must predict a latent better, by this much correlation, than a null network's
    dictionaries (axis `network`) or a table of tokens (axis `beyond_tokens`) do."""


@dataclass(frozen=True)
class AxisEvidence:
    """What an axis of one site rests on.

    Attributes:
        contrasts: null to the comparison of every latent with it; empty where there is none.
        least: the difference that must be exceeded.
        n: units that the figures of each latent rest on.
        n_unit: what they are.
        missing: why, where no latent can be compared.
    """

    contrasts: Mapping[str, Contrast]
    least: float = 0.0
    n: Int[np.ndarray, " latent"] | None = None
    n_unit: str = "documents"
    missing: str = ""


@dataclass(frozen=True)
class SiteEvidence:
    """What the latents of one dictionary are judged on.

    Attributes:
        n_documents: held-out documents that each latent fires in.
        axes: by axis.
    """

    n_documents: Int[np.ndarray, " latent"]
    axes: Mapping[Axis, AxisEvidence]


def site_evidence(
    n_documents: Int[np.ndarray, " latent"],
    recurrence: Recurrence | None,
    effects: CausalEffects | None,
    *,
    config: VerdictConfig,
    missing: Mapping[Axis, str],
) -> SiteEvidence:
    """What the latents of one dictionary are judged on, axis by axis.

    Args:
        n_documents: held-out documents that each latent fires in.
        recurrence: what other dictionaries make of each latent; None where that was not measured.
        effects: what removing each latent does; None where that was not measured.
        config: the least correlation of `recurrent`, and the margin of `network` and `beyond_tokens`.
        missing: why an axis cannot compare any latent, one clause each, where the study knows that; nothing that was
            measured is compared there.

    Raises:
        InputError: the parts are not about the same latents.
    """
    contrasts: dict[Axis, dict[str, Contrast]] = {axis: {} for axis in AXES}
    if recurrence is not None:
        contrasts["recurrent"] = recurrence.recurrent(config.recurrence, config.in_one)
        contrasts["network"] = recurrence.network()
        contrasts["beyond_tokens"] = recurrence.beyond_tokens()
    if effects is not None:
        contrasts["used"] = effects.used()
    contrasts |= {axis: {} for axis, why in missing.items() if why}
    least: dict[Axis, float] = {"network": config.margin, "beyond_tokens": config.margin}
    return SiteEvidence(
        n_documents,
        {
            axis: AxisEvidence(
                contrasts[axis],
                least.get(axis, 0.0),
                effects.n_documents if axis == "used" and effects is not None else n_documents,
                missing=missing.get(axis, ""),
            )
            for axis in AXES
        },
    )
