"""A study's report as one HTML file: no script, nothing fetched, corpus text escaped and made visible."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from polyseme.core import numbers
from polyseme.core.records import AXES, STATUSES, Axis, AxisResult, Evidence, Interval, MetricRecord, Status
from polyseme.core.text import visible
from polyseme.core.version import __version__
from polyseme.interpret.records import EFFECTS, LatentReport
from polyseme.report import learning, profiles, words
from polyseme.report.glossary import GLOSSARY, LIMITS
from polyseme.report.headlines import headlines, reasons
from polyseme.report.html import charts, svg
from polyseme.report.schema import Comparison, ControlValue, DictionaryReport, SpliceRow, StudyReport
from polyseme.store import save_text


@dataclass(frozen=True)
class Metrics:
    """One metric with its value in each dictionary, for a table of dictionaries side by side."""

    name: str
    unit: str
    values: tuple[MetricRecord | None, ...]


def render(report: StudyReport) -> str:
    """The whole page."""
    # Patching the only site is patching every site: what is joint would be the same panels once more.
    several = len(report.dictionaries) > 1
    shown = [c for c in report.comparisons if several or c.site != "joint"]
    rows = _splice_rows(report, joint=several)
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            headlines=headlines(report),
            statuses=STATUSES,
            counts=report.verdict_counts,
            total=report.n_latents,
            axes=AXES,
            metrics=_metrics(report),
            comparisons=_by_metric(c for c in shown if _any_measured(c)),
            unmeasured=_unmeasured(shown),
            rows=rows,
            splice_missing="" if rows else _why_no_splice(report),
            latents={status: [x for x in report.latents if x.verdict.status == status] for status in STATUSES},
            opened=_opened(report),
            bounded=any(words.bounds_of(record) for row in rows for record in _records(row)),
            shown_effects={name for latent in report.latents for name in _effects_of(latent)},
            sites=[d.name for d in report.dictionaries],
            version=__version__,
        )
    )


def write_report(report: StudyReport, path: Path) -> Path:
    """Write the page to `path`, whole or not at all.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    save_text(path, render(report))
    return path


def _effects_of(latent: LatentReport) -> list[str]:
    """The effects measured at the focus of any context shown."""
    return [name for name in EFFECTS if any(c.effect_at(name, c.focus) for c in latent.contexts)]


def _firing_contexts(latent: LatentReport) -> int:
    """How many of the contexts shown are of tokens where the latent fires."""
    return sum(context.activations[context.focus] > 0 for context in latent.contexts)


def _opened(report: StudyReport) -> int:
    """The tab shown first: the first verdict with a latent to show."""
    shown = {latent.verdict.status for latent in report.latents}
    return next((i for i, status in enumerate(STATUSES) if status in shown), 0)


def _said_of(axis: AxisResult) -> str:
    """What an answer rests on, beside its comparisons."""
    least = max((e.least for e in axis.evidence), default=0.0)
    often = _often(axis.frequency, axis.frequency_interval)
    return "; ".join(
        [
            *([axis.missing] if axis.missing else []),
            *([f"each difference must exceed {numbers.plain(least)}"] if least else []),
            *([] if math.isnan(axis.p_corrected) else [f"p corrected {numbers.short(axis.p_corrected, 2)}"]),
            *([f"yes expected in {often}"] if often else []),
            *([f"{numbers.count(axis.n)} {axis.n_unit}"] if axis.n and axis.evidence else []),
        ]
    )


def _often(frequency: float, bounds: Interval | None) -> str:
    """A share of repetitions with its interval; nothing where it is not known."""
    if math.isnan(frequency):
        return ""
    share, ends = numbers.percent(frequency), [numbers.percent(v) for v in (bounds.low, bounds.high)] if bounds else []
    between = f" [{', '.join(ends)}]" if {share} != {share, *ends} else ""
    return f"{share}{between} of repetitions"


def _dashed(value: float, sign: bool = False) -> str:
    """A number, – where it was not measured."""
    return "–" if math.isnan(value) else numbers.signed(value) if sign else numbers.short(value)


def _rows_of(axis: AxisResult) -> list[Evidence]:
    """The comparisons of an axis, that with the hardest null first."""
    return sorted(axis.evidence, key=lambda item: item.null != axis.hardest)


def _metrics(report: StudyReport) -> list[Metrics]:
    """One row a metric (and scope beyond the site), one column a dictionary."""
    rows: dict[str, dict[int, MetricRecord]] = {}
    for i, dictionary in enumerate(report.dictionaries):
        for record in dictionary.metrics:
            rows.setdefault(record.name, {})[i] = record
    return [
        Metrics(name, next(iter(row.values())).unit, tuple(row.get(i) for i in range(len(report.dictionaries))))
        for name, row in rows.items()
    ]


def _by_metric(comparisons: Iterable[Comparison]) -> list[tuple[str, list[Comparison]]]:
    """Comparisons grouped by metric and ablation, in the order given."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(_comparison_title(comparison.trained), []).append(comparison)
    return list(groups.items())


def _any_measured(comparison: Comparison) -> bool:
    return any(math.isfinite(r.value) for r in (comparison.trained, *(c.record for c in comparison.controls)))


def _unmeasured(comparisons: Iterable[Comparison]) -> list[tuple[str, str]]:
    """(reason, names of the metrics) of what no network of the study could be measured on; the reason may be empty."""
    groups = _by_metric(comparisons)
    missing: dict[str, list[str]] = {}
    for title, rows in groups:
        if not any(map(_any_measured, rows)):
            missing.setdefault(_reason(row.trained for row in rows), []).append(title)
    return [(reason, ", ".join(titles)) for reason, titles in missing.items()]


def _splice_rows(report: StudyReport, *, joint: bool) -> list[SpliceRow]:
    """What patching cost, where it was measured at all."""
    if report.faithfulness is None:
        return []
    found = report.faithfulness
    rows = [*found.single, *([found.joint] if found.joint and (joint or not found.single) else [])]
    return [row for row in rows if any(math.isfinite(r.value) for r in _records(row))]


def _records(row: SpliceRow) -> Iterator[MetricRecord]:
    return (value for name in SpliceRow.model_fields if isinstance(value := getattr(row, name), MetricRecord))


def _why_no_splice(report: StudyReport) -> str:
    if report.faithfulness is None:
        return "Splicing was not run in this study."
    rows = [*report.faithfulness.single, *filter(None, [report.faithfulness.joint])]
    reason = _reason(record for row in rows for record in _records(row))
    return f"What reconstructions cost was not measured{f': {reason}' if reason else ''}."


def _reason(records: Iterable[MetricRecord]) -> str:
    """Why they were not measured, as the first of them that says so does."""
    notes = (str(record.details.get("note", "")) for record in records)
    return next((note.removeprefix("not measured: ") for note in notes if note), "")


def _panels(
    dictionaries: Iterable[DictionaryReport], draw: Callable[[DictionaryReport], Markup | None]
) -> tuple[list[tuple[DictionaryReport, Markup]], list[str]]:
    """The dictionaries that have a chart with it, and the names of those that have none."""
    drawn = [(dictionary, draw(dictionary)) for dictionary in dictionaries]
    return [(d, chart) for d, chart in drawn if chart is not None], [d.name for d, chart in drawn if chart is None]


def _stability_note(dictionary: DictionaryReport) -> str:
    return "" if dictionary.stability is None else dictionary.stability.note


def _differences(axis: Axis) -> Callable[[DictionaryReport], Markup | None]:
    return lambda dictionary: charts.differences(dictionary, axis)


def _stability(dictionary: DictionaryReport) -> Markup | None:
    return None if dictionary.stability is None else charts.lines(dictionary.stability)


def _learning(dictionary: DictionaryReport) -> Markup | None:
    data = learning.chart(dictionary)
    return None if data is None else charts.lines(data)


def _learning_legend(dictionaries: Iterable[DictionaryReport]) -> Markup:
    data = next(filter(None, map(learning.chart, dictionaries)), None)
    return Markup("") if data is None else charts.lines_legend(data)


def _comparison_title(record: MetricRecord) -> str:
    ablation = record.scope.get("ablation")
    return words.metric_name(record.name) + (f" over {ablation}-ablation" if ablation else "")


def _lines(text: str) -> str:
    """Several lines of text with every hidden character visible, each line broken after its ↵."""
    return visible(text).replace("↵", "↵\n")


def _spaced(token: str) -> str:
    """A single token, with its spaces shown."""
    return visible(token).replace(" ", "␣")


def _equivalent(sentence: str) -> str:
    """What stands after "predicts" in a compute-equivalent's sentence, where the site is named beside it."""
    return sentence.rpartition(" predicts ")[2]


def _reading(comparison: Comparison, value: ControlValue) -> tuple[str, str]:
    """CSS class and words: what the gap's interval says."""
    bounds, better = value.gap_interval, comparison.trained.better
    if value.note:
        return "same", "not compared"
    if math.isnan(value.gap) or bounds is None or math.isnan(bounds.low):
        return "same", "no interval"
    if not bounds.excludes(0):
        return "same", "no difference shown"
    if better == "neither":
        return "same", "they differ"
    if (value.gap > 0) == (better == "higher"):
        return "better", "trained is better"
    return "worse", "the control is better"


def _share_of(status: Status, counts: dict[Status, int]) -> float:
    total = sum(counts.values())
    return 100 * counts.get(status, 0) / total if total else 0.0


@cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, object] = {
        "seen": visible,
        "lines": _lines,
        "spaced": _spaced,
        "short": numbers.short,
        "dashed": _dashed,
        "signed": numbers.signed,
        "count": numbers.count,
        "percent": numbers.percent,
        "interval": numbers.interval,
        "duration": numbers.duration,
        "memory": numbers.memory,
        "value": words.value_of,
        "bounds": words.bounds_of,
        "metric_name": words.metric_name,
        "equivalent": _equivalent,
        "gap_of": words.gap_of,
        "gap_bounds": words.gap_bounds,
    }
    cast(dict[str, object], env.filters).update(filters)
    shared: dict[str, object] = {
        "charts": charts,
        "symbols": svg.symbols,
        "plain": numbers.plain,
        "panels": _panels,
        "stability": _stability,
        "learning": _learning,
        "learning_legend": _learning_legend,
        "learning_note": learning.sentence,
        "differences_of": _differences,
        "stability_note": _stability_note,
        "firing_contexts": _firing_contexts,
        "effects_of": _effects_of,
        "rows_of": _rows_of,
        "said_of": _said_of,
        "often": _often,
        "reasons": reasons,
        "share_of": _share_of,
        "reading_of": _reading,
        "primary": words.PRIMARY,
        "isnan": math.isnan,
        "status_names": profiles.STATUS_NAMES,
        "status_signs": profiles.STATUS_SIGNS,
        "status_meanings": profiles.STATUS_MEANINGS,
        "status_lines": profiles.STATUS_LINES,
        "answer_names": profiles.ANSWER_NAMES,
        "answer_signs": profiles.ANSWER_SIGNS,
        "axis_names": profiles.AXIS_NAMES,
        "axis_values": profiles.AXIS_VALUES,
        "size_names": profiles.SIZE_NAMES,
        "rules": profiles.RULE_LINES,
        "rule_axes": profiles.RULE_AXES,
        "glossary": GLOSSARY,
        "limits": LIMITS,
        "nothing": Markup('<span class="none">not measured</span>'),
    }
    cast(dict[str, object], env.globals).update(shared)
    return env
