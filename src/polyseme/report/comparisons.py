"""Each metric that the table has compared with the controls, beside the same metric on every control."""

import math
from collections.abc import Iterator, Sequence

from polyseme.core.records import MetricRecord
from polyseme.evaluation import DocumentSums, gap
from polyseme.evaluation.finishes import predicts_nothing
from polyseme.report.schema import Comparison, ControlValue
from polyseme.studies.findings import Findings, Measured


def record_of(findings: Findings, entry: DocumentSums) -> MetricRecord:
    """The metric's record, with the resamples of the study."""
    return entry.record(n_resamples=findings.config.evaluation.n_resamples)


def telling(entries: Sequence[DocumentSums]) -> Iterator[DocumentSums]:
    """Without the figures of ordinary vectors where all are, which are figures that stand there already."""
    return (entry for entry in entries if entry.details.get("left_out") != 0)


def comparisons(findings: Findings) -> Iterator[Comparison]:
    """Each compared metric of each site, and of all jointly, beside the same metric on every control."""
    if not findings.controls:
        return
    seed = findings.config.seeds[0]

    def entries(measured: Measured) -> dict[tuple[str, str, str], DocumentSums]:
        out: dict[tuple[str, str, str], DocumentSums] = {}
        for site in findings.config.bindings:
            out |= {(site, e.name, ""): e for e in measured.readings.sums[site, seed] if e.metric.compared}
        for e in measured.spliced.sums:
            if e.metric.compared:
                out[str(e.scope["site"]), e.name, str(e.scope.get("ablation", ""))] = e
        return out

    others = {name: entries(control) for name, control in findings.controls.items()}
    mute = {name: why_mute(findings, control) for name, control in findings.controls.items()}
    own = why_mute(findings, findings.real)
    for key, real in entries(findings.real).items():
        alike = (real, *(other[key] for other in others.values()))
        if not any(telling(alike)):
            continue
        values: list[ControlValue] = []
        for name, other in others.items():
            difference = gap(real, other[key], n_resamples=findings.config.evaluation.n_resamples)
            # What patching does to a loss that is no better than a guess is neither good nor bad.
            note = (own or mute[name]) if real.metric.of_a_prediction else ""
            note = note or str(difference.details.get("note", ""))
            values.append(
                ControlValue(
                    control=name,
                    record=record_of(findings, other[key]),
                    gap=math.nan if note else difference.value,
                    gap_interval=None if note else difference.interval,
                    note=note,
                )
            )
        yield Comparison(site=key[0], trained=record_of(findings, real), controls=tuple(values))


def why_mute(findings: Findings, measured: Measured) -> str:
    """Why the losses of a network say nothing; empty where it predicts better than a uniform guess, or no tokens."""
    entry = next((e for e in measured.spliced.sums if e.name == "ce_clean"), None)
    return predicts_nothing(entry, n_resamples=findings.config.evaluation.n_resamples) if entry else ""
