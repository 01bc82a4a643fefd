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
from polyseme.report.schema import Chart, Curve, DictionaryReport, LatentPoint
from polyseme.studies.findings import Findings
from polyseme.training.jobs import HistoryPoint

MAX_POINTS = 2000
_LOSSES = {"kl": "expected", "ce": "observed"}
"""The loss that the causal test is made on."""


def dictionary_report(findings: Findings, site: str) -> DictionaryReport:
    seed = findings.config.seeds[0]
    real = findings.real
    dictionary = real.trained.dictionaries[site, seed]
    judged = findings.verdicts[site]
    counts: dict[Status, int] = {status: sum(v.status == status for v in judged.verdicts) for status in STATUSES}
    stable, points = findings.stability.get(site, []), _points(findings, site)
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
