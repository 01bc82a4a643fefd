"""The charts of a report, each from a part of its data; None where nothing of it was measured."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

from polyseme.core.numbers import count, measured, short
from polyseme.core.records import Axis, AxisResult, Evidence, MetricRecord
from polyseme.interpret.records import Histogram
from polyseme.report.html.svg import NARROWEST, SHAPES, Frame, Scale, central, chart, finite, legend, padded, strip, tag
from polyseme.report.profiles import ANSWER_NAMES, AXIS_NAMES
from polyseme.report.schema import (
    Chart,
    Comparison,
    DictionaryReport,
    Faithfulness,
    NullReport,
    SpliceRow,
    StudyReport,
)
from polyseme.report.words import metric_name

TRAINED, NULL = "trained", "null"
_ROW = 22
"""Pixels of a row of a chart."""
_COUNTS = 38
"""Pixels for the counts at the left of a histogram."""
_ACROSS = 480
"""Pixels that a plot across the page has on a wide screen."""
_LOSS_MARKS = (
    ("clean", "ring", "clean"),
    (TRAINED, "dot", "patched with reconstructions"),
    ("null c1", "diamond", "mean-ablated"),
    ("null c0", "square", "zero-ablated"),
)
"""Class, mark and name of each of `_losses`."""


def _losses(row: SpliceRow) -> tuple[MetricRecord, ...]:
    return row.ce_clean, row.ce_patched, row.ce_mean, row.ce_zero


def control_class(index: int) -> str:
    """CSS class of the index-th control: as many as the shipped ones, with embeddings kept and without."""
    return f"{NULL} c{index % 12}"


def dots(comparison: Comparison) -> Markup | None:
    """One metric: the trained network above its controls on one axis, with intervals."""
    rows = [("trained", comparison.trained, TRAINED, "dot")]
    rows += [
        (c.control, c.record, control_class(i), SHAPES[i % len(SHAPES)]) for i, c in enumerate(comparison.controls)
    ]
    if not any(finite([record.value]) for _, record, _, _ in rows):
        return None
    x = padded([v for _, r, _, _ in rows for v in _ends(r)], 0.1)
    strips: list[Markup] = []
    for name, record, class_, shape in rows:
        plot = _row(x).vertical(comparison.trained.value, "reference")
        if math.isnan(record.value):
            plot.add(tag("text", "not measured", class_="tick", x="2", y=_ROW / 2 + 4))
        plot.whisker(record.value, *_bounds(record), class_, f"{name}: {measured(record)}", shape)
        strips.append(strip(name, plot, "strong" if class_ == TRAINED else ""))
    label = f"{metric_name(comparison.trained.name)} at {comparison.site}: "
    label += "; ".join(f"{name} {measured(record)}" for name, record, _, _ in rows)
    return chart(label, *strips, _foot(x), x=_unit(comparison.trained), class_="strips")


def splice(rows: Sequence[SpliceRow]) -> Markup | None:
    """Every cross-entropy of every site on one axis: clean, patched, mean- and zero-ablated."""
    x = padded([v for row in rows for record in _losses(row) for v in _ends(record)], 0.05)
    strips: list[Markup] = []
    for row in rows:
        known = finite(record.value for record in _losses(row))
        if not known:
            continue
        name = "all sites jointly" if row.joint else row.site
        plot = _row(x, _ACROSS).segment(min(known), max(known), "rail")
        if len(finite([row.ce_clean.value, row.ce_patched.value])) == 2:
            plot.segment(row.ce_clean.value, row.ce_patched.value, "lost")
        for record, (class_, shape, _) in zip(_losses(row), _LOSS_MARKS, strict=True):
            title = f"{metric_name(record.name)}, {name}: {measured(record)}"
            plot.whisker(record.value, *_bounds(record), class_, title, shape)
        strips.append(strip(name, plot, "strong" if row.joint else ""))
    if not strips:
        return None
    label = "Cross-entropy in nats per token, " + "; ".join(map(_splice_label, rows))
    return chart(label, *strips, _foot(x, _ACROSS), x="cross-entropy, nats/token", class_="strips wide")


def _row(x: tuple[float, float], pixels: float = NARROWEST) -> Frame:
    return Frame(x, height=_ROW, left=8, right=22, top=0, bottom=0, pixels=pixels).x_grid(4)


def _foot(x: tuple[float, float], pixels: float = NARROWEST) -> Markup:
    return strip("", Frame(x, height=0, left=8, right=22, top=0, pixels=pixels).x_axis(4), "foot")


def splice_legend() -> Markup:
    """Legend of `splice`."""
    return legend(_LOSS_MARKS)


def _splice_label(row: SpliceRow) -> str:
    values = ", ".join(f"{metric_name(record.name)} {short(record.value)}" for record in _losses(row))
    return f"{'joint' if row.joint else row.site}: {values}"


def ladder(rows: Sequence[SpliceRow], faithfulness: Faithfulness) -> Markup | None:
    """The ladder of plain models, with the patched CE of every row drawn across it; None without a ladder."""
    points = sorted((n, ce) for _, n, ce in faithfulness.ladder if len(finite([n, ce])) == 2 and n > 0)
    if len(points) < 2:
        return None
    patched = [(r, r.ce_patched.value) for r in rows if finite([r.ce_patched.value])]
    sizes = [n for n, _ in points]
    y = padded([ce for _, ce in points] + [v for _, v in patched])
    frame = (
        Frame((min(sizes) / 1.6, max(sizes) * 1.6), y, height=210, log_x=True, pixels=360).y_axis(5).x_grid().x_axis()
    )
    for row, value in patched:
        frame.horizontal(value, "joint" if row.joint else "single")
    frame.line(points, "ladder")
    for n, ce in points:
        title = tag("title", f"{short(n)} parameters: {short(ce)} nats/token")
        frame.add(tag("g", title, frame.mark(n, frame.y(ce), "ring"), class_="clean"))
    label = "Held-out cross-entropy of the ladder: " + "; ".join(f"{short(n)} parameters {short(c)}" for n, c in points)
    return chart(label, frame.svg(), x="parameters of the plain model", y="cross-entropy, nats/token")


def density(dictionary: DictionaryReport) -> Markup | None:
    """How often latents fire, trained as an area and the controls as lines, as shares of all latents."""
    known = [(i, name, h) for i, (name, h) in enumerate(dictionary.density) if sum(finite(h.counts)) > 0]
    known = [(i, name, h) for i, name, h in known if len(finite(h.edges)) == len(h.edges)]
    if not known:
        return None
    shares = [(i, name, h, [c / sum(finite(h.counts)) for c in h.counts]) for i, name, h in known]
    top = max(v for *_, values in shares for v in finite(values))
    used = [e for _, _, h, values in shares for bin_, v in _bins(h, values) if v > 0 for e in bin_]
    edges = [e for _, _, h in known for e in h.edges]
    x = (max(min(used) - 0.25, min(edges)), min(max(used) + 0.25, max(edges)))
    frame = Frame(x, (0, top * 1.08)).y_axis().x_grid().x_axis()
    for i, name, h, values in reversed(shares):
        steps = [
            (e, v) for (a, b), v in _bins(h, values) if b > x[0] and a < x[1] for e in (max(a, x[0]), min(b, x[1]))
        ]
        if name == "trained":
            xs, ys = zip(*steps, strict=True)
            frame.band(xs, [0.0] * len(xs), ys, TRAINED)
        frame.line(steps, TRAINED if name == "trained" else f"{control_class(i - 1)} dash")
    label = f"Density of the latents at {dictionary.name}, trained beside {len(known) - 1} controls"
    x_title = "density: share of vectors it fires on (log₁₀)"
    return chart(label, frame.svg(), x=x_title, y="share of latents")


def density_legend(report: StudyReport) -> Markup:
    """Legend of `density`, of the first dictionary that has one."""
    names = next(([name for name, _ in d.density] for d in report.dictionaries if d.density), [])
    return legend(
        (TRAINED, "line", name) if name == "trained" else (f"{control_class(i - 1)} dash", "dash", name)
        for i, name in enumerate(names)
    )


def _bins(histogram: Histogram, values: Sequence[float]) -> Iterable[tuple[tuple[float, float], float]]:
    edges = zip(histogram.edges, histogram.edges[1:], strict=False)
    return zip(edges, values, strict=False)


def lines(data: Chart) -> Markup | None:
    """A chart's curves with their bands; nulls dashed. None when nothing of it was measured."""
    points = [
        (x, y)
        for c in data.curves
        for x, y in zip(c.x, c.y, strict=False)
        if len(finite([x, y])) == 2 and (x > 0 or not data.log_x) and (y > 0 or not data.log_y)
    ]
    if not points:
        return None
    xs = [x for x, _ in points]
    if data.log_y:
        ys = [y for _, y in points]
        y = min(ys) / 1.15, max(ys) * 1.15
    else:
        ys = central([v for _, v in points] + [v for c in data.curves for v in (*c.low, *c.high)])
        y = padded(ys, zero=min(ys) >= 0 and min(ys) < max(ys) / 3)
    frame = Frame((min(xs), max(xs)), y, log_x=data.log_x, log_y=data.log_y).y_axis().x_grid().x_axis()
    for i, curve in enumerate(data.curves):
        if curve.low and curve.high:
            frame.band(curve.x, curve.low, curve.high, _curve_class(data, i))
        frame.line(list(zip(curve.x, curve.y, strict=False)), _curve_class(data, i) + (" dash" if curve.null else ""))
    beyond = sum(not frame.y.holds(v) for _, v in points)
    label = f"{data.title}: {data.y_label} against {data.x_label}, " + ", ".join(c.name for c in data.curves)
    notes = [_beyond(beyond, "values lie", "value lies", "not drawn")] if beyond else []
    return chart(label, frame.svg(), *notes, x=data.x_label, y=data.y_label)


def _beyond(n: int, many: str, one: str, how: str) -> Markup:
    return tag("p", f"{n} {many if n > 1 else one} beyond the axes, {how}.", class_="note")


def lines_legend(data: Chart) -> Markup:
    """Legend of `lines`; nothing for a single curve."""
    if len(data.curves) < 2:
        return Markup("")
    return legend(
        (_curve_class(data, i) + (" dash" if c.null else ""), "dash" if c.null else "line", c.name)
        for i, c in enumerate(data.curves)
    )


def _curve_class(data: Chart, index: int) -> str:
    if data.curves[index].null:
        return control_class(sum(c.null for c in data.curves[:index]))
    return f"s{sum(not c.null for c in data.curves[:index]) % 4}"


def differences(dictionary: DictionaryReport, axis: Axis) -> Markup | None:
    """Value − hardest null of every latent as a histogram, the answers stacked; below it value − null for each null.

    A null has its median, with the middle 50% and 90% of the latents. A line stands at the least difference."""
    data = next((part for part in dictionary.axes if part.axis == axis), None)
    if data is None or not data.differences:
        return None
    edges = data.differences[0][1].edges
    stacks = np.cumsum([histogram.counts for _, histogram in data.differences], axis=0).tolist()
    top = max(finite(stacks[-1]), default=0)
    if not top or len(finite(edges)) < len(edges):
        return None
    x = padded([edges[0], edges[-1], data.least, *(v for null in data.nulls for v in null.difference)], 0.02, zero=True)
    plot = Frame(x, (0, top * 1.05), height=96, left=_COUNTS, right=22, bottom=0).y_axis(2).x_grid(4)
    for (answer, histogram), heights in reversed(list(zip(data.differences, stacks, strict=True))):
        if any(histogram.counts):
            plot.bars(edges, heights, f"answer {answer}")
    plot.vertical(0).vertical(data.least, "threshold")
    strips = [strip("latents", plot)]
    strips += [strip(null.null, _spread(null, data.least, x, i)) for i, null in enumerate(data.nulls)]
    foot = Frame(x, height=0, left=_COUNTS, right=22, top=0).x_axis(4)
    label = f"{AXIS_NAMES[axis]} at {dictionary.name}: {data.yes} yes, {data.no} not shown, {data.unknown} no answer; "
    label += "; ".join(f"value − {null.null}, median {short(null.difference[2])}" for null in data.nulls)
    return chart(label, *strips, strip("", foot, "foot"), x="value − null", class_="strips")


def _spread(null: NullReport, least: float, x: tuple[float, float], index: int) -> Frame:
    """A row: value − one null, by its quantiles."""
    low, lower, middle, upper, high = null.difference
    plot = Frame(x, height=_ROW, left=_COUNTS, right=22, top=0, bottom=0).x_grid(4)
    plot.vertical(0).vertical(least, "threshold")
    if not finite([middle]):
        return plot.add(tag("text", "not measured", class_="tick", x="2", y=_ROW / 2 + 4))
    title = (
        f"value − {null.null}: median {short(middle)}, the middle half of the latents {short(lower)} to "
        f"{short(upper)}, 90% {short(low)} to {short(high)}; the hardest null of {count(null.n_hardest)}"
    )
    inner = Frame(x, height=_ROW, left=_COUNTS, right=22, top=0, bottom=0).segment(lower, upper, "middle").marks
    return plot.whisker(middle, low, high, control_class(index), title, "dot", *inner)


def differences_legend() -> Markup:
    """Legend of `differences`."""
    answers = [(f"answer {answer}", "fill", name) for answer, name in ANSWER_NAMES.items()]
    return legend([*answers, ("least", "line", "least difference")])


def activation_histogram(histogram: Histogram | None) -> Markup | None:
    """A latent's non-zero activations; heights on a root scale, so that the rare strong ones show."""
    if histogram is None or not sum(finite(histogram.counts)) or len(finite(histogram.edges)) < len(histogram.edges):
        return None
    top = max(finite(histogram.counts))
    label = f"Histogram of {int(sum(finite(histogram.counts)))} non-zero activations up to {short(histogram.edges[-1])}"
    frame = Frame((histogram.edges[0], histogram.edges[-1]), height=60, left=10)
    frame.bars(histogram.edges, [math.sqrt(n / top) if n > 0 else 0 for n in histogram.counts], "hist")
    return chart(label, frame.x_axis(4).svg(), x="activation where it fires (√count)", class_="small")


def glances(axis: AxisResult) -> dict[str, str]:
    """By null, where value − null, its interval, 0 and the least difference lie on one scale: a style for the page's
    own marks, as the figures stand beside them. Nothing for a null that was not measured."""
    places = {e.null: _places(e) for e in axis.evidence if finite([e.value - e.null_value])}
    x = Scale(*padded([v for one in places.values() for v in one.values()], zero=True), 0, 100)
    return {
        null: ";".join(f"--{name}:{round(x(value))}%" for name, value in one.items()) for null, one in places.items()
    }


def _places(item: Evidence) -> dict[str, float]:
    difference = item.value - item.null_value
    low, high = (item.interval.low, item.interval.high) if item.interval else (math.nan, math.nan)
    ends = finite([difference, low, high])
    return {"a": min(ends), "b": max(ends), "v": difference, "z": 0.0, "l": item.least}


def _bounds(record: MetricRecord) -> tuple[float, float]:
    return (record.interval.low, record.interval.high) if record.interval else (math.nan, math.nan)


def _ends(record: MetricRecord) -> list[float]:
    return finite([record.value, *_bounds(record)])


def _unit(record: MetricRecord) -> str:
    return f"{metric_name(record.name)}{f', {record.unit}' if record.unit else ''}"
