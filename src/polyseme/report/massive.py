"""What a report says of massive vectors at a site: how many, what they do to its figures, and to which verdicts."""

import numpy as np
from jaxtyping import Bool

from polyseme.activations.massive import FACTOR
from polyseme.core.numbers import count, measured, signed
from polyseme.core.records import MetricRecord
from polyseme.report.comparisons import record_of
from polyseme.studies.findings import Findings

MATERIAL = 0.1
"""Relative difference of FVU with and without them from which it is said."""
MOSTLY = 0.5
"""Share of a latent's Σf², or of its summed effect, from which it rests on them."""


def massive_at(findings: Findings, site: str) -> str:
    """Sentences on a site's massive vectors; empty where they decide nothing and nothing is left out."""
    config, real = findings.config, findings.real
    wanted, factor = config.training.leave_out, config.training.leave_out.norm or FACTOR
    spreads, places = real.trained.statistics.spreads, config.bindings[site].places
    by_place = {place: spreads[place].massive(factor) for place in places}
    where, massive = max(by_place.items(), key=lambda found: found[1].share)
    sums = {entry.name: entry for entry in real.readings.sums[site, config.seeds[0]]}
    fvu, ordinary = record_of(findings, sums["fvu"]), record_of(findings, sums["fvu_ordinary"])
    left_out = len(real.readings.left_out[site])
    differ = left_out > 0 and not abs(fvu.value - ordinary.value) <= MATERIAL * ordinary.value
    trained_without = not real.trained.statistics.trained_on.keys().isdisjoint(real.subject.bindings[site].places)
    if not (massive.telling or differ or (trained_without and left_out)):
        return ""
    parts = [f"at {where} {massive.sentence}"] if massive.n_massive else []
    if wanted.positions:
        parts.append(f"Training leaves out positions 0 to {wanted.positions - 1}")
    parts.append(
        f"FVU is {measured(fvu)} over all {count(fvu.n)} held-out vectors, and {measured(ordinary)} over the "
        f"{count(ordinary.n)} that are not massive"
        + (f" and not at these positions ({count(left_out)} are)" if wanted.positions else "")
    )
    parts += _training(findings, site, trained_without=trained_without)
    if not trained_without:
        parts += _resting(findings, site)
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts)


def _training(findings: Findings, site: str, *, trained_without: bool) -> list[str]:
    """Whether they were trained on, and what the two ways of patching cost."""
    kind = "all" if trained_without else "ordinary"
    said = (
        "The dictionary was trained without them; patching leaves them alone, and its latents are not read there"
        if trained_without
        else "The dictionary was trained on them; training.leave_out leaves them out"
    )
    found = {(e.name, e.scope.get("site")): record_of(findings, e) for e in findings.real.spliced.sums}
    plain, other = found.get(("ce_increase", site)), found.get((f"ce_increase_{kind}", site))
    if plain is None or other is None:
        return [said]
    where = "where they are patched too" if trained_without else "where the network keeps its own vectors there"
    return [said, f"ΔCE is {_signed(plain)}, and {_signed(other)} {where}"]


def _resting(findings: Findings, site: str) -> list[str]:
    """How many latents owe most of what they are judged by to these vectors."""
    seed = findings.config.seeds[0]
    active, effective = latents_resting_on(findings, site, seed)
    features = findings.verdicts[site].status == "network_feature"
    said = f"{count(int(active.sum()))} latents have more than half of their squared activation there"
    if site in findings.effects:
        said += f", {count(int(effective.sum()))} more than half of their summed effect on predictions (KL)"
    n = int(((active | effective) & features).sum())
    return [f"{said}; {count(n)} of the {count(int(features.sum()))} network features are among them"]


def latents_resting_on(
    findings: Findings, site: str, seed: int
) -> tuple[Bool[np.ndarray, " n_latents"], Bool[np.ndarray, " n_latents"]]:
    """Latents with more than half of Σf² at vectors that are not ordinary, and latents with more than half of their
    effect there: Σ KL over the sampled tokens."""
    firings, rows = findings.real.readings.firings[site, seed], findings.real.readings.left_out[site]
    squares = firings.matrix.power(2)
    total, there = (np.asarray(m.sum(axis=0), dtype=np.float64).ravel() for m in (squares, squares[rows]))
    effective = np.zeros(firings.n_latents, dtype=bool)
    if site in findings.effects:
        effects = findings.effects[site]
        sizes, at = effects.sample_kl.astype(np.float64), np.isin(effects.sample_row, rows)
        whole, part = (
            np.bincount(effects.sample_latent, weights=weights, minlength=firings.n_latents)
            for weights in (sizes, sizes * at)
        )
        effective = part > MOSTLY * whole
    return there > MOSTLY * total, effective


def _signed(record: MetricRecord) -> str:
    return measured(record, sign=True) if record.interval else signed(record.value)
