"""Every latent of every judged dictionary in one table, columns first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from polyseme.causal import Effect
from polyseme.core.records import STATUSES, Status
from polyseme.core.table import Table

if TYPE_CHECKING:
    from polyseme.studies.findings import Findings


@dataclass(frozen=True, repr=False)
class LatentTable(Table):
    """One row a latent, by site in the order of the study and then by index; NaN is "not measured".

    >>> table = result.latents("blocks.0.resid_post")
    >>> bool(table["density"].max() <= 1)
    True
    >>> table.to_pandas().shape[0]
    32

    The columns:

    - `site`, `seed`, `latent`: which one; `status`: its verdict; `missing`: with `insufficient_data`, why it has none.
    - `density`, `n_tokens`, `n_documents`: held-out vectors, tokens and documents where it fires.
    - `effect`, `effect_low`, `effect_high`, `null`: the causal effect that is tested, in nats a firing token, its 95%
      interval, and that of a random direction of equal norm: the `kl_…` columns, or with `causal.statistic = "ce"` the
      `loss_…` columns; `p`, `p_corrected`: that the effect is above its null, alone and corrected over the dictionary;
      `n_samples`, `n_sampled_documents`: what it rests on.
    - `kl_effect`, `kl_effect_low`, `kl_effect_high`, `kl_null`: the effect by KL(clean ‖ ablated) of the predictions.
    - `loss_effect`, `loss_effect_low`, `loss_effect_high`, `loss_null`: the effect by ΔCE of the actual next tokens.
    - `causal_passed`, `specific_passed`: the two tests; False where one was not made.
    - `recurrence`: correlation with the best match in another seed's dictionary.
    - `margin`: the least model-specificity over the controls; and for each control `margin_<control>` with its
      interval `…_low`, `…_high`, the `threshold_<control>` it must reach (infinite where the FDR filter found none),
      and `match_<control>`, the correlation with the control's best match.
    - `token_share`, `token_share_low`, `token_share_high`: ε², how much follows from the present token alone.

    Attributes:
        columns: name to values, all of one length.
        sites: sites of the study, whether latents of theirs are in the table or not.
    """

    row = "Latent"
    previewed = ("site", "latent", "status", "density", "n_documents", "effect", "null", "p_corrected", "margin")

    sites: tuple[str, ...]

    @property
    def title(self) -> str:
        verdicts = ", ".join(f"{n:,} {status}" for status, n in self.counts.items() if n)
        sites = len(set(self.columns["site"].tolist()))
        return f"{len(self):,} latents at {sites} {'site' if sites == 1 else 'sites'}: {verdicts or 'none'}"

    @property
    def counts(self) -> dict[Status, int]:
        """How many of these latents have each verdict."""
        return {status: int((self.columns["status"] == status).sum()) for status in STATUSES}

    def where(self, site: str | None = None, *, status: Status | None = None) -> "LatentTable":
        """The latents of one site, or with one verdict, or both.

        Raises:
            InputError: the study has no such site, or there is no such verdict.
        """
        chosen = self.rows_where({"site": site, "status": status}, {"site": self.sites, "status": STATUSES})
        return LatentTable({name: values[chosen] for name, values in self.columns.items()}, self.sites)


def latent_table(findings: "Findings") -> LatentTable:
    """Every latent of the judged seed's dictionaries, with everything that was measured of it."""
    parts = [_of_site(findings, site) for site in findings.config.bindings]
    return LatentTable(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, tuple(findings.config.bindings)
    )


def _of_site(findings: "Findings", site: str) -> dict[str, np.ndarray]:
    seed = findings.config.seeds[0]
    firings, judged = findings.real.readings.firings[site, seed], findings.verdicts[site]
    effects, specific = findings.effects.get(site), findings.specificity.get(site)
    share, n = findings.shares[site], firings.n_latents
    absent = np.full(n, np.nan)
    fired = firings.counts
    causal: dict[str, np.ndarray] = {
        **_effect("", effects.of(findings.config.causal.statistic) if effects else None, absent),
        "p": effects.p if effects else absent,
        "p_corrected": judged.p_corrected,
        "n_samples": effects.n_tokens if effects else np.zeros(n, dtype=np.int64),
        "n_sampled_documents": effects.n_documents if effects else np.zeros(n, dtype=np.int64),
        **_effect("kl_", effects.of("kl") if effects else None, absent),
        **_effect("loss_", effects.of("ce") if effects else None, absent),
        "causal_passed": judged.tests["causal_effect"].passed,
    }
    specificity: dict[str, np.ndarray] = {
        "specific_passed": judged.tests["model_specificity"].passed,
        "recurrence": specific.recurrence.value if specific else absent,
        "margin": specific.smallest.value if specific else absent,
    }
    for control in findings.config.judging:
        name = control.name
        margin = specific.margins[name] if specific else None
        specificity |= {
            f"margin_{name}": margin.value if margin else absent,
            f"margin_{name}_low": margin.low if margin else absent,
            f"margin_{name}_high": margin.high if margin else absent,
            f"threshold_{name}": np.full(n, judged.thresholds.get(name, np.nan)),
            f"match_{name}": specific.controls[name].value if specific else absent,
        }
    return {
        "site": np.full(n, site, dtype=object),
        "seed": np.full(n, seed, dtype=np.int64),
        "latent": np.arange(n),
        "status": np.array([v.status for v in judged.verdicts], dtype=object),
        "missing": np.array([v.missing for v in judged.verdicts], dtype=object),
        "density": firings.densities,
        "n_tokens": fired,
        "n_documents": judged.n_documents.astype(np.int64),
        **causal,
        **specificity,
        "token_share": share.value,
        "token_share_low": share.low,
        "token_share_high": share.high,
    }


def _effect(
    prefix: str, effect: Effect | None, absent: Float[np.ndarray, " latent"]
) -> dict[str, Float[np.ndarray, " latent"]]:
    return {
        f"{prefix}effect": effect.value if effect else absent,
        f"{prefix}effect_low": effect.low if effect else absent,
        f"{prefix}effect_high": effect.high if effect else absent,
        f"{prefix}null": effect.null if effect else absent,
    }
