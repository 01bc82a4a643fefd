"""Every latent of every judged dictionary in one table, columns first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from polyseme.causal import EXPECTED, SIZES, CausalEffects, Expected
from polyseme.core.records import AXES, STATUSES, Axis, Status
from polyseme.core.table import Table
from polyseme.evaluation.recurrence import Recurrence
from polyseme.evaluation.tables import TABLES
from polyseme.verdicts.axes import AxisOutcome, against_hardest
from polyseme.verdicts.evidence import AxisEvidence

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

    - `site`, `seed`, `latent`: which one; `status`: the word of its verdict; `missing`: with `undecided`, what is
      missing; `frequency`, `frequency_low`, `frequency_high`: share of repetitions of the study that are expected to
      give the same word, with a 95% interval.
    - `density`, `n_tokens`, `n_documents`: held-out vectors, tokens and documents where it fires.
    - For each axis of the profile (`recurrent`, `network`, `beyond_tokens`, `used`) its answer (`yes`, `no`,
      `unknown`) under the name of the axis; against the hardest null, `<axis>_hardest`: the latent's own figure
      `<axis>_value`, that of the null `<axis>_null`, the 95% interval of their difference `<axis>_low`, `<axis>_high`;
      `<axis>_p` and `<axis>_p_corrected`, that the difference is not above the least one, alone and corrected over
      the latents of all sites; `<axis>_frequency`: expected share of repetitions that answer `yes`.
    - `match`, `predicted`: correlation on held-out text with the best match in another seed's dictionary and with the
      best prediction from all its latents, means over seeds; `match_<kind>`, `predicted_<kind>`: the same with the
      dictionaries of each kind of null; `table_<name>`: with the prediction of a table of tokens; `floor`: what `match`
      is for random directions.
    - `expected`: the expected effect of removing it; `expected_<class>`: the mean for directions of that class.
      `given_token`, `given_token_<class>`: the same against what follows the same tokens.
    - `kl`, `loss`, `kl_later`, `loss_later`, each with its 95% interval `…_low`, `…_high` and with the directions of
      each class `…_<class>`: KL(clean ‖ ablated) and ablated − clean loss in nats, at the token and summed over later
      ones; `n_samples`, `n_sampled_documents`: what they rest on.
    - `token_share`, `token_share_low`, `token_share_high`: ε², how much follows from the present token alone.

    Attributes:
        columns: name to values, all of one length.
        sites: sites of the study, whether latents of theirs are in the table or not.
    """

    row = "Latent"
    previewed = ("site", "latent", "status", "frequency", "density", "n_documents", "match", "predicted", "expected")

    sites: tuple[str, ...]

    @property
    def title(self) -> str:
        verdicts = ", ".join(f"{n:,} {status}" for status, n in self.counts.items() if n)
        sites = len(set(self.columns["site"].tolist()))
        return f"{len(self):,} latents at {sites} {'site' if sites == 1 else 'sites'}: {verdicts or 'none'}"

    @property
    def counts(self) -> dict[Status, int]:
        """How many of these latents have each word."""
        return {status: int((self.columns["status"] == status).sum()) for status in STATUSES}

    def where(self, site: str | None = None, *, status: Status | None = None) -> "LatentTable":
        """The latents of one site, or with one word, or both.

        Raises:
            InputError: the study has no such site, or there is no such word.
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
    config, seed = findings.config, findings.config.seeds[0]
    firings, judged = findings.real.readings.firings[site, seed], findings.verdicts[site]
    evidence, share, n = findings.evidence[site], findings.shares[site], firings.n_latents
    return {
        "site": np.full(n, site, dtype=object),
        "seed": np.full(n, seed, dtype=np.int64),
        "latent": np.arange(n),
        "status": judged.status,
        "missing": judged.missing,
        "frequency": judged.frequencies.expected,
        "frequency_low": judged.frequencies.low,
        "frequency_high": judged.frequencies.high,
        "density": firings.densities,
        "n_tokens": firings.counts,
        "n_documents": judged.n_documents.astype(np.int64),
        **{
            name: values
            for axis in AXES
            for name, values in _axis(axis, evidence.axes[axis], judged.outcomes[axis]).items()
        },
        **_recurrence(findings.recurrence.get(site), tuple(config.drawn), n),
        **_effects(findings.effects.get(site), config.causal.nulls, n),
        "token_share": share.value,
        "token_share_low": share.low,
        "token_share_high": share.high,
    }


def _axis(axis: Axis, evidence: AxisEvidence, outcome: AxisOutcome) -> dict[str, np.ndarray]:
    """What one axis says, with the comparison with the hardest null."""
    hardest = against_hardest(evidence.contrasts, outcome)
    low, high = hardest.interval()
    return {
        axis: outcome.answer,
        f"{axis}_hardest": outcome.hardest,
        f"{axis}_value": hardest.value,
        f"{axis}_null": hardest.null,
        f"{axis}_low": low,
        f"{axis}_high": high,
        f"{axis}_p": outcome.p,
        f"{axis}_p_corrected": outcome.p_corrected,
        f"{axis}_frequency": outcome.frequency,
    }


def _recurrence(found: Recurrence | None, kinds: Sequence[str], n: int) -> dict[str, np.ndarray]:
    absent = np.full(n, math.nan)

    def mean(values: Float[np.ndarray, "dictionary latent"] | None) -> Float[np.ndarray, " latent"]:
        return absent if values is None or not len(values) else values.mean(axis=0)

    columns = {
        "match": mean(found.match.value if found else None),
        "floor": found.floor if found else absent,
        "predicted": mean(found.predicted.value if found else None),
    }
    for kind in kinds:
        columns[f"match_{kind}"] = mean(found.null_match[kind] if found else None)
        columns[f"predicted_{kind}"] = mean(found.nulls[kind].value if found else None)
    for name in TABLES:
        columns[f"table_{name.replace(' ', '_')}"] = mean(found.tables[name].value if found else None)
    return columns


def _effects(found: CausalEffects | None, nulls: Sequence[str], n: int) -> dict[str, np.ndarray]:
    absent, none = np.full(n, math.nan), np.zeros(n, dtype=np.int64)
    columns: dict[str, np.ndarray] = {}
    for name in EXPECTED:
        expected: Expected | None = getattr(found, name) if found else None
        columns[name] = expected.value if expected else absent
        for null in nulls:
            columns[f"{name}_{null}"] = expected.null[null].mean(axis=0) if expected else absent
    for name in SIZES:
        size = found.sizes[name] if found else None
        columns |= {
            name: size.value if size else absent,
            f"{name}_low": size.low if size else absent,
            f"{name}_high": size.high if size else absent,
            **{f"{name}_{null}": size.null[null] if size else absent for null in nulls},
        }
    return {
        **columns,
        "n_samples": found.n_tokens if found else none,
        "n_sampled_documents": found.n_documents if found else none,
    }
