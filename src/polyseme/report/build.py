"""From a study's result to the data of its report."""

import math
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np

from polyseme.core.memory import peak_memory
from polyseme.core.records import STATUSES, MetricRecord, Status
from polyseme.core.stats import least_documents
from polyseme.core.text import visible
from polyseme.evaluation import DocumentSums, Rung, compute_equivalent, density_histogram, gap
from polyseme.evaluation.finishes import predicts_nothing
from polyseme.interpret.records import Histogram
from polyseme.report.headlines import headlines
from polyseme.report.massive import massive_at
from polyseme.report.schema import (
    Chart,
    Comparison,
    Continuation,
    ControlSummary,
    ControlValue,
    Curve,
    DictionaryReport,
    Faithfulness,
    LatentPoint,
    Provenance,
    SpliceRow,
    StudyReport,
    StudySummary,
)
from polyseme.store import Run
from polyseme.studies.config import NEW_TOKENS, PROMPT_TOKENS
from polyseme.studies.findings import Findings, Measured, shortfalls_of
from polyseme.studies.result import StudyResult
from polyseme.studies.stages.baselines import shipped_ladder
from polyseme.trials.shipped import shipped_calibration

MAX_POINTS = 2000
_LOSSES = {"kl": "expected", "ce": "observed"}
"""The loss that the causal test is made on."""


def report_of(result: StudyResult) -> StudyReport:
    """Everything the report shows, from everything the study found."""
    findings, run = result.findings, result.run
    config = findings.config
    calibration, uncalibrated = shipped_calibration(config.causal, config.verdicts, config.controls)
    report = StudyReport(
        title=findings.config.name,
        run=run.id,
        summary=_summary(findings, run),
        statistic=config.causal.statistic,
        dictionaries=tuple(_dictionary(findings, site) for site in findings.config.sites),
        faithfulness=_faithfulness(findings),
        comparisons=tuple(_comparisons(findings)),
        continuations=tuple(
            Continuation(
                document=visible(c.document),
                prompt=visible(c.prompt),
                clean=visible(c.clean),
                patched=visible(c.patched),
                true=visible(c.true),
                note=f"the two agree on {c.agreement:.0%} of the tokens",
            )
            for c in findings.continuations
        ),
        latents=result.shown(),
        calibration=calibration,
        calibration_missing=uncalibrated,
        provenance=tuple(
            Provenance(stage=r.stage, key=r.key, inputs=r.inputs, seconds=r.seconds, reused=r.reused)
            for r in result.stages
        ),
        limits=tuple(_limits(findings)),
    )
    return report.model_copy(update={"headlines": headlines(report)})


def all_records(findings: Findings) -> Iterator[MetricRecord]:
    """Every metric of the study, its baselines and its controls, and every gap."""
    for measured in (findings.real, *findings.controls.values()):
        for entries in (*measured.readings.sums.values(), measured.spliced.sums):
            yield from (_record(findings, entry) for entry in entries)
    for entries in findings.baselines.sums.values():
        yield from (_record(findings, entry) for entry in entries)
    for records in findings.stability.values():
        yield from records
    for comparison in _comparisons(findings):
        for value in comparison.controls:
            yield value.record.model_copy(
                update={
                    "value": value.gap,
                    "interval": value.gap_interval,
                    "scope": {**value.record.scope, "gap": f"trained − {value.control}"},
                    "details": {"trained": comparison.trained.value, "control": value.record.value},
                }
            )
    for judged in findings.verdicts.values():
        yield from judged.records


def _record(findings: Findings, entry: DocumentSums) -> MetricRecord:
    return entry.record(n_resamples=findings.config.evaluation.n_resamples)


def _mute(findings: Findings, control: str) -> str:
    reason = _predicts_nothing(findings, findings.controls[control])
    return f"{reason}; what patching does to its losses is neither good nor bad, and is not compared" if reason else ""


def _summary(findings: Findings, run: Run) -> StudySummary:
    config, subject = findings.config, findings.real.subject
    network, tokens, made_by = subject.network, subject.tokens, run.record.made_by
    corpus = config.corpus.model_dump(mode="json", exclude_defaults=True)
    shown = ", ".join(
        f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in corpus.items()
        if key != "kind"
    )
    training = config.training
    n_train = training.n_tokens or tokens.train.n_tokens
    settings = [
        ("architecture", config.dictionary.architecture),
        *((key, str(value)) for key, value in config.dictionary.model_dump().items() if key != "architecture"),
        ("batch", f"{training.batch_size} tokens"),
        ("judged seed", str(config.seeds[0])),
        ("harvest", config.harvest.cache),
    ]
    return StudySummary(
        network=visible(config.network.source),
        n_parameters=network.n_parameters,
        network_fingerprint=subject.base,
        corpus=visible(f"{config.corpus.kind}{f' ({shown})' if shown else ''}"),
        n_train_tokens=n_train,
        n_heldout_tokens=tokens.heldout.n_tokens,
        n_heldout_documents=len(np.unique(tokens.heldout.document[~tokens.heldout.special])),
        context=tokens.heldout.tokens.shape[1],
        seeds=config.seeds,
        controls=tuple(
            ControlSummary(
                name=c.name, targets=c.targets, preserves=c.preserves, destroys=c.destroys, note=_mute(findings, c.name)
            )
            for c in config.controls
        ),
        settings=tuple(settings),
        versions=(("python", made_by.python), *sorted(made_by.packages.items())),
        git_commit=made_by.git.commit if made_by.git else "",
        git_dirty=made_by.git.dirty if made_by.git else False,
        argv=visible(" ".join(made_by.argv)),
        started=datetime.fromtimestamp(run.record.started).astimezone().isoformat(timespec="seconds"),
        wall_seconds=run.seconds,
        peak_memory_bytes=peak_memory(),
        device=f"{network.device} ({platform.machine()})",
    )


def _dictionary(findings: Findings, site: str) -> DictionaryReport:
    seed = findings.config.seeds[0]
    real = findings.real
    dictionary = real.trained.dictionaries[site, seed]
    judged = findings.verdicts[site]
    counts: dict[Status, int] = {status: sum(v.status == status for v in judged.verdicts) for status in STATUSES}
    stable, points = findings.stability.get(site, []), _points(findings, site)
    return DictionaryReport(
        name=site,
        site=str(real.subject.sites[site]),
        architecture=findings.config.dictionary.architecture,
        d_in=dictionary.d_in,
        n_latents=dictionary.n_latents,
        seed=seed,
        n_train_tokens=real.trained.history[site, seed][-1].tokens,
        metrics=(
            *(_record(findings, entry) for entry in _telling(real.readings.sums[site, seed])),
            *(_record(findings, entry) for entry in _telling(findings.baselines.sums[site])),
            *stable,
        ),
        verdict_counts=counts,
        verdicts_missing=dict(Counter(v.missing for v in judged.verdicts if v.missing).most_common()),
        density=tuple(_densities(findings, site)),
        stability=_stability(stable),
        training=tuple(_training(findings, site)),
        tests=tuple(
            (name, int(test.passed[test.made].sum()), int(test.made.sum())) for name, test in judged.tests.items()
        ),
        margin_fdr=findings.config.verdicts.margin_fdr,
        thresholds=tuple(
            (name, value if math.isfinite(value) else math.nan) for name, value in judged.thresholds.items()
        ),
        points=points[:: max(1, -(-len(points) // MAX_POINTS))],
        n_points=len(points),
        effect_unit=f"nats of {_LOSSES[findings.config.causal.statistic]} loss a firing token",
        massive=massive_at(findings, site),
    )


def _telling(entries: Sequence[DocumentSums]) -> Iterator[DocumentSums]:
    """Without the figures of ordinary vectors where all are, which are figures that stand there already."""
    return (entry for entry in entries if entry.details.get("left_out") != 0)


def _densities(findings: Findings, site: str) -> Iterator[tuple[str, Histogram]]:
    everything = {"trained": findings.real, **findings.controls}
    for name, measured in everything.items():
        firings = measured.readings.firings[site, findings.config.seeds[0]]
        found = density_histogram(np.diff(firings.columns.indptr), firings.n_tokens)
        edges, heights = found["edges"], found["counts"]
        assert isinstance(edges, list)
        assert isinstance(heights, list)
        yield name, Histogram(edges=tuple(edges), counts=tuple(heights), label="log10 density")


def _stability(records: Sequence[MetricRecord]) -> Chart | None:
    if not records:
        return None
    details = records[0].details
    thresholds = tuple(details["thresholds"])
    return Chart(
        title="Seed stability",
        x_label="cosine threshold",
        y_label="share of matched latents above it",
        curves=(
            Curve(name="another seed", x=thresholds, y=tuple(details["curve"])),
            Curve(name="random directions", x=thresholds, y=tuple(details["null_curve"]), null=True),
        ),
        note="Latents are matched one to one. Dead latents are misses; as many of the random directions are dead.",
    )


def _training(findings: Findings, site: str) -> Iterator[Chart]:
    seed = findings.config.seeds[0]
    curves = {
        "trained": findings.real.trained.history[site, seed],
        **{name: control.trained.history[site, seed] for name, control in findings.controls.items()},
    }
    fields: tuple[tuple[str, Callable[[TrainingPoint], float]], ...] = (
        ("FVU (running, training batches)", lambda point: point.fvu),
        ("L0", lambda point: point.l0),
        ("share of dead latents", lambda point: point.dead),
    )
    for label, value in fields:
        yield Chart(
            title=label,
            x_label="tokens",
            y_label=label,
            curves=tuple(
                Curve(
                    name=name,
                    x=tuple(float(point.tokens) for point in history),
                    y=tuple(float(value(point)) for point in history),
                    null=name != "trained",
                )
                for name, history in curves.items()
            ),
        )


def _points(findings: Findings, site: str) -> tuple[LatentPoint, ...]:
    effects, specific = findings.effects.get(site), findings.specificity.get(site)
    if effects is None or specific is None:
        return ()
    tested = effects.of(findings.config.causal.statistic)
    effect = tested.value - tested.null
    margin = specific.smallest.value
    return tuple(
        LatentPoint(latent=i, effect=float(effect[i]), margin=float(margin[i]), status=verdict.status)
        for i, verdict in enumerate(findings.verdicts[site].verdicts)
        if np.isfinite(effect[i]) and np.isfinite(margin[i])
    )


def _faithfulness(findings: Findings) -> Faithfulness:
    config = findings.config
    entries = findings.real.spliced.sums
    parameters = findings.real.subject.network.n_parameters
    ladder = _ladder(findings)

    def found(name: str, site: str, ablation: str | None = None) -> MetricRecord:
        for entry in entries:
            same = entry.name == name and entry.scope.get("site") == site
            if same and entry.scope.get("ablation") == ablation:
                return _record(findings, entry)
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

    several = len(config.sites) > 1
    single, joint = tuple(row(site) for site in config.sites), row("joint") if several else None
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


def _ladder(findings: Findings) -> tuple[Rung, ...]:
    """The measured ladder the studied network is a rung of; empty for any other network."""
    return shipped_ladder(findings.config.network.source) if findings.config.null is None else ()


def _comparisons(findings: Findings) -> Iterator[Comparison]:
    """Each compared metric of each site, and of all jointly, beside the same metric on every control."""
    if not findings.controls:
        return
    seed = findings.config.seeds[0]

    def entries(measured: Measured) -> dict[tuple[str, str, str], DocumentSums]:
        out: dict[tuple[str, str, str], DocumentSums] = {}
        for site in findings.config.sites:
            out |= {(site, e.name, ""): e for e in measured.readings.sums[site, seed] if e.metric.compared}
        for e in measured.spliced.sums:
            if e.metric.compared:
                out[str(e.scope["site"]), e.name, str(e.scope.get("ablation", ""))] = e
        return out

    others = {name: entries(control) for name, control in findings.controls.items()}
    mute = {name: _predicts_nothing(findings, control) for name, control in findings.controls.items()}
    own = _predicts_nothing(findings, findings.real)
    for key, real in entries(findings.real).items():
        alike = (real, *(other[key] for other in others.values()))
        if not any(_telling(alike)):
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
                    record=_record(findings, other[key]),
                    gap=math.nan if note else difference.value,
                    gap_interval=None if note else difference.interval,
                    note=note,
                )
            )
        yield Comparison(site=key[0], trained=_record(findings, real), controls=tuple(values))


def _predicts_nothing(findings: Findings, measured: Measured) -> str:
    """Why the losses of a network say nothing; empty where it predicts better than a uniform guess, or no tokens."""
    entry = next((e for e in measured.spliced.sums if e.name == "ce_clean"), None)
    return predicts_nothing(entry, n_resamples=findings.config.evaluation.n_resamples) if entry else ""


def _limits(findings: Findings) -> Iterator[str]:
    config = findings.config
    judged = config.seeds[0]
    yield from shortfalls_of(config, findings.real.subject.network, findings.real.subject.tokens)
    if len(config.seeds) > 2:
        yield f"Recurrence is measured against seed {config.seeds[1]} alone, of {len(config.seeds)} seeds."
    if config.controls:
        yield f"Each control was trained from one seed ({judged}); its own spread over seeds is not measured."
    if findings.effects and config.causal.n_samples:
        yield (
            f"A causal effect is the mean over at most {config.causal.n_samples} firing tokens of a latent, and counts "
            "the prediction made at that token only: what a latent does for later tokens is not in it."
        )
    if config.evaluation.n_continuations and findings.real.subject.network.predicts_tokens:
        context = findings.real.subject.tokens.heldout.tokens.shape[1]
        if context < PROMPT_TOKENS + NEW_TOKENS:
            yield (
                f"No text was continued: windows of {context} tokens are shorter than a prompt of {PROMPT_TOKENS} "
                f"tokens with {NEW_TOKENS} new ones."
            )
    if findings.real.subject.network.predicts_tokens and not _ladder(findings):
        yield "There is no measured ladder for this network, so compute-equivalents were not measured."
