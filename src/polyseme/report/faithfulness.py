"""What patching costs, site by site and all jointly, with why a number or its interval is missing."""

import math
from collections.abc import Iterator, Sequence

from polyseme.core.records import MetricRecord
from polyseme.core.stats import least_documents
from polyseme.evaluation import Rung, compute_equivalent
from polyseme.report.comparisons import record_of
from polyseme.report.schema import Faithfulness, SpliceRow
from polyseme.studies.findings import Findings


def faithfulness(findings: Findings) -> Faithfulness:
    config = findings.config
    entries = findings.real.spliced.sums
    parameters = findings.real.subject.network.n_parameters
    ladder = ladder_of(findings)

    def found(name: str, site: str, ablation: str | None = None) -> MetricRecord:
        for entry in entries:
            same = entry.name == name and entry.scope.get("site") == site
            if same and entry.scope.get("ablation") == ablation:
                return record_of(findings, entry)
        raise AssertionError(f"splice gave no {name} at {site}")

    def row(site: str) -> SpliceRow:
        clean, patched = found("ce_clean", site), found("ce_patched", site)
        equivalent = ""
        if ladder:
            record = compute_equivalent(ladder, patched, clean=clean, n_parameters=parameters)
            equivalent = str(record.details["sentence"])
        return SpliceRow(
            site=site,
            joint=site == "joint",
            ce_clean=clean,
            ce_patched=patched,
            ce_zero=found("ce_zero", site),
            ce_mean=found("ce_mean", site),
            recovered_zero=found("ce_recovered", site, "zero"),
            recovered_mean=found("ce_recovered", site, "mean"),
            kl=found("kl", site),
            delta_ce=found("ce_increase", site),
            compute_equivalent=equivalent,
        )

    several = len(config.bindings) > 1
    single, joint = tuple(row(site) for site in config.bindings), row("joint") if several else None
    return Faithfulness(
        single=single,
        joint=joint,
        notes=(*_unbounded(single), *_unrecovered([*single, *([joint] if joint else [])])),
        interaction=found("ce_interaction", "joint") if several else None,
        ladder=tuple((f"{rung.n_parameters / 1e6:.2f} M", float(rung.n_parameters), rung.ce) for rung in ladder),
        n_parameters=parameters,
    )


def _unbounded(rows: Sequence[SpliceRow]) -> Iterator[str]:
    """That losses have no intervals where there are too few documents for any."""
    n = max((int(row.ce_clean.details.get("n_documents", 0)) for row in rows), default=0)
    if 0 < n < least_documents():
        yield (
            f"These losses are of {n} held-out document{'s' if n > 1 else ''}, too few for intervals "
            f"({least_documents()} are needed): how far they depend on the choice of documents is not known."
        )


def _unrecovered(rows: Sequence[SpliceRow]) -> Iterator[str]:
    """Why a share of the loss was not recovered at some sites; one sentence for those that share the reason."""
    where: dict[str, list[str]] = {}
    for row in rows:
        for record in (row.recovered_mean, row.recovered_zero):
            note = str(record.details.get("note", ""))
            if math.isnan(record.value) and note:
                place = "all sites jointly" if row.joint else row.site
                where.setdefault(note, []).append(f"{place} over {record.scope.get('ablation')} ablation")
    for note, places in where.items():
        at = "" if len(places) == 2 * len(rows) else f" at {', '.join(places)}"
        yield f"CE recovered{at} was {note}."


def ladder_of(findings: Findings) -> tuple[Rung, ...]:
    """The measured ladder the studied network is a rung of; empty for any other network."""
    null = findings.config.null
    return findings.real.subject.network.ladder if null is None or null.targets == "dictionary" else ()
