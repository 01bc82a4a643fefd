"""From a study's result to the data of its report."""

import platform
from collections.abc import Iterator
from datetime import datetime

import numpy as np

from polyseme.core.memory import peak_memory
from polyseme.core.records import Backend, MetricRecord
from polyseme.core.text import visible
from polyseme.report.comparisons import comparisons, record_of, why_mute
from polyseme.report.dictionaries import dictionary_report
from polyseme.report.faithfulness import faithfulness, ladder_of
from polyseme.report.headlines import headlines
from polyseme.report.schema import (
    Continuation,
    ControlSummary,
    Judging,
    NullKind,
    Provenance,
    StudyReport,
    StudySummary,
)
from polyseme.store import Run
from polyseme.studies.config import NEW_TOKENS, PROMPT_TOKENS
from polyseme.studies.findings import Findings, shortfalls_of
from polyseme.studies.result import StudyResult
from polyseme.trials.shipped import shipped_calibration


def report_of(result: StudyResult) -> StudyReport:
    """Everything the report shows, from everything the study found."""
    findings, run = result.findings, result.run
    config = findings.config
    calibration, uncalibrated = shipped_calibration(config)
    report = StudyReport(
        title=findings.config.name,
        run=run.id,
        summary=_summary(findings, run),
        judging=_judging(findings),
        dictionaries=tuple(dictionary_report(findings, site) for site in findings.config.bindings),
        faithfulness=faithfulness(findings),
        comparisons=tuple(comparisons(findings)),
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
            yield from (record_of(findings, entry) for entry in entries)
    for found in findings.recorded:
        yield found if isinstance(found, MetricRecord) else record_of(findings, found)
    for comparison in comparisons(findings):
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


def _mute(findings: Findings, control: str) -> str:
    reason = why_mute(findings, findings.controls[control])
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
        *([] if config.null is None else [("null", f"{config.null.name} (instead of the real {config.null.targets})")]),
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
        device=f"{network.device} ({platform.machine()}{_computed_by(run.record.backend)})",
    )


def _computed_by(backend: Backend | None) -> str:
    """What carried out the dictionaries' operations; nothing where the run does not say."""
    if backend is None:
        return ""
    names = {
        "torch": "torch's operations",
        "loops": f"compiled loops {backend.loops}",
        "triton": "Triton kernels",
    }
    return f", {names[backend.name]}, {backend.threads} thread{'' if backend.threads == 1 else 's'}"


def _judging(findings: Findings) -> Judging:
    """What the profiles rest on, as it was measured."""
    config = findings.config
    recurrence = next(iter(findings.recurrence.values()), None)
    effects = next(iter(findings.effects.values()), None)
    directions = {} if effects is None else effects.expected.null
    return Judging(
        partners=config.seeds[1:] if recurrence else (),
        nulls=tuple(
            NullKind(name=kind, targets=nulls[0].targets, draws=len(nulls)) for kind, nulls in config.drawn.items()
        )
        if recurrence
        else (),
        tables=tuple(recurrence.tables) if recurrence else (),
        directions=tuple(directions),
        n_directions=max((len(values) for values in directions.values()), default=0),
        n_samples=config.causal.n_samples if effects else 0,
        horizon=config.causal.horizon,
        alpha=config.verdicts.alpha,
        recurrence=config.verdicts.recurrence,
        in_one=config.verdicts.in_one,
        margin=config.verdicts.margin,
        min_documents=config.verdicts.min_documents,
    )


def _limits(findings: Findings) -> Iterator[str]:
    config = findings.config
    judged = config.seeds[0]
    yield from shortfalls_of(findings.at, findings.real.subject.tokens)
    if config.controls:
        yield f"Scores are compared on one draw of each control and one seed ({judged}): their spread is not measured."
    if config.evaluation.n_continuations and findings.real.subject.network.predicts_tokens:
        context = findings.real.subject.tokens.heldout.tokens.shape[1]
        if context < PROMPT_TOKENS + NEW_TOKENS:
            yield (
                f"No text was continued: windows of {context} tokens are shorter than a prompt of {PROMPT_TOKENS} "
                f"tokens with {NEW_TOKENS} new ones."
            )
    if findings.real.subject.network.predicts_tokens and not ladder_of(findings):
        yield "There is no measured ladder for this network, so compute-equivalents were not measured."
