"""What the report says of each dictionary: its metrics, its verdicts in numbers, and its charts."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from polyseme.core.binding import unnamed
from polyseme.core.records import STATUSES, MetricRecord, Status
from polyseme.evaluation import density_histogram
from polyseme.interpret.records import Histogram
from polyseme.report.comparisons import record_of, telling
from polyseme.report.massive import massive_at
from polyseme.report.schema import AxisReport, Chart, Curve, DictionaryReport, NullReport
from polyseme.studies.findings import Findings
from polyseme.training.jobs import HistoryPoint
from polyseme.verdicts.axes import AxisOutcome, against_hardest
from polyseme.verdicts.evidence import AxisEvidence, SiteEvidence
from polyseme.verdicts.judge import SiteVerdicts
from polyseme.verdicts.requirements import AxisPower, power

BINS = 36
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def dictionary_report(findings: Findings, site: str) -> DictionaryReport:
    seed = findings.config.seeds[0]
    real = findings.real
    dictionary = real.trained.dictionaries[site, seed]
    judged = findings.verdicts[site]
    words, missing = judged.status, judged.missing
    counts: dict[Status, int] = {status: int((words == status).sum()) for status in STATUSES}
    stable = findings.stability.get(site, [])
    return DictionaryReport(
        name=site,
        site=unnamed(real.subject.bindings[site]),
        architecture=findings.config.dictionary.architecture,
        d_in=dictionary.d_in,
        n_latents=dictionary.n_latents,
        seed=seed,
        n_train_tokens=real.trained.history[site, seed][-1].tokens,
        metrics=(
            *(record_of(findings, entry) for entry in telling(real.readings.sums[site, seed])),
            *(record_of(findings, entry) for entry in telling(findings.baselines[site])),
            *stable,
        ),
        verdict_counts=counts,
        verdicts_kept={status: float(judged.frequency[words == status].mean()) for status, n in counts.items() if n},
        verdicts_missing=dict(Counter(missing[missing != ""].tolist()).most_common()),
        axes=tuple(axis_reports(findings.evidence[site], judged)),
        density=tuple(_densities(findings, site)),
        stability=_stability(stable),
        learning=tuple(findings.learning[site].records({"site": site})) if site in findings.learning else (),
        training=tuple(_training(findings, site)),
        massive=massive_at(findings, site),
    )


def axis_reports(evidence: SiteEvidence, judged: SiteVerdicts) -> Iterator[AxisReport]:
    """What each axis says of the latents of one dictionary."""
    for could in power(judged):
        yield _axis_report(could, evidence.axes[could.axis], judged.outcomes[could.axis])


def _axis_report(could: AxisPower, evidence: AxisEvidence, outcome: AxisOutcome) -> AxisReport:
    made = outcome.made
    hardest = against_hardest(evidence.contrasts, outcome)
    kept = np.where(outcome.yes, outcome.frequency, 1 - outcome.frequency)
    return AxisReport(
        axis=could.axis,
        yes=could.n_yes,
        no=could.n_answered - could.n_yes,
        unknown=could.n_latents - could.n_answered,
        missing=dict(Counter(str(why) for why in outcome.missing[~made]).most_common()),
        least=evidence.least,
        value=_median(hardest.value[made]),
        null_value=_median(hardest.null[made]),
        detectable=could.detectable,
        kept=float(kept[made].mean()) if made.any() else math.nan,
        nulls=tuple(_null_reports(evidence, outcome)),
        left_out=could.left_out,
        differences=_histograms(hardest.difference, outcome),
    )


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _null_reports(evidence: AxisEvidence, outcome: AxisOutcome) -> Iterator[NullReport]:
    for name, contrast in evidence.contrasts.items():
        known = contrast.difference[np.isfinite(contrast.difference)]
        yield NullReport(
            null=name,
            n_hardest=int((outcome.made & (outcome.hardest == name)).sum()),
            difference=tuple(map(float, np.quantile(known, QUANTILES))) if len(known) else (math.nan,) * len(QUANTILES),
        )


def _histograms(difference: np.ndarray, outcome: AxisOutcome) -> tuple[tuple[str, Histogram], ...]:
    """The differences by answer; what lies beyond the middle 99% is counted in the outermost bins."""
    known = np.isfinite(difference)
    if not known.any():
        return ()
    low, high = np.quantile(difference[known], (0.005, 0.995))
    edges = np.histogram_bin_edges(difference[known], BINS, range=(low, high))
    counts = {
        answer: np.histogram(np.clip(difference[known & (outcome.answer == answer)], low, high), edges)[0]
        for answer in ("yes", "no", "unknown")
    }
    return tuple(
        (answer, Histogram(edges=tuple(map(float, edges)), counts=tuple(map(float, n)), label="value − hardest null"))
        for answer, n in counts.items()
    )


def _densities(findings: Findings, site: str) -> Iterator[tuple[str, Histogram]]:
    everything = {"trained": findings.real, **findings.controls}
    for name, measured in everything.items():
        firings = measured.readings.firings[site, findings.config.seeds[0]]
        found = density_histogram(firings.counts, firings.n_tokens)
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
    fields: tuple[tuple[str, Callable[[HistoryPoint], float]], ...] = (
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
