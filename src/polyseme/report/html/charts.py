"""The charts of a report, each from a part of its data; None where nothing of it was measured."""

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from polyseme.core.numbers import interval, measured, short
from polyseme.core.records import STATUSES, Evidence, MetricRecord
from polyseme.interpret.ranking import EFFECT
from polyseme.interpret.records import Histogram
from polyseme.report.html.svg import NARROWEST, SHAPES, Frame, central, chart, finite, legend, padded, plain, strip, tag
from polyseme.report.schema import (
    Chart,
    Comparison,
    DictionaryReport,
    Faithfulness,
    LatentPoint,
    SpliceRow,
    StudyReport,
)
from polyseme.report.words import STATUS_NAMES, metric_name

STATUS_SHAPES = dict(zip(STATUSES, ("dot", "diamond", "ring", "cross"), strict=True))
TRAINED, NULL = "trained", "null"
_ROW = 22
"""Pixels of a row of a chart."""
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


def scatter(dictionary: DictionaryReport) -> Markup | None:
    """Causal effect against model-specificity, one mark a latent; the effect on a symmetric-root axis."""
    points = [p for p in dictionary.points if len(finite([p.effect, p.margin])) == 2]
    if not points:
        return None
    thresholds = [threshold for _, threshold in dictionary.thresholds]
    x = padded([*central(p.margin for p in points), *thresholds], zero=True)
    y = padded(central(_root(p.effect) for p in points), zero=True)
    frame = Frame(x, y, height=230)
    limit = max(abs(end) for end in y) ** 2
    frame.y_axis(labels=[(_root(t), plain(t)) for t in _root_ticks(limit)])
    frame.x_grid().x_axis().vertical(0).horizontal(0)
    for i, threshold in enumerate(thresholds):
        frame.vertical(threshold, f"line {control_class(i)} dash")
    for status in reversed(STATUSES):
        marks = [_point(frame, p) for p in points if p.status == status]
        if marks:
            frame.add(tag("g", *marks, class_=f"v-{status}"))
    beyond = sum(not (frame.x.holds(p.margin) and frame.y.holds(_root(p.effect))) for p in points)
    label = f"Causal effect against model-specificity of {len(points)} latents at {dictionary.name}"
    notes = [_beyond(beyond, "latents lie", "latent lies", "drawn at the edge")] if beyond else []
    y_title = f"effect − null, {dictionary.effect_unit} (√ scale)"
    return chart(label, frame.svg(), *notes, x="model-specificity margin", y=y_title)


def _point(frame: Frame, p: LatentPoint) -> Markup:
    return frame.mark(p.margin, frame.y(_root(p.effect)), STATUS_SHAPES[p.status], small=True)


def _root(v: float) -> float:
    return math.copysign(math.sqrt(abs(v)), v)


def _root_ticks(limit: float) -> list[float]:
    """Round values of both signs, those that matter most first."""
    top = 10.0 ** math.floor(math.log10(limit))
    top *= next(m for m in (5, 2, 1) if m * top <= limit * 1.001)
    return [0.0, top, -top, top / 5, -top / 5]


def scatter_legend(report: StudyReport) -> Markup:
    """Legend of `scatter`: the verdicts' marks, and the controls' thresholds of the first dictionary that has any."""
    marks = [(f"v-{s}", STATUS_SHAPES[s], STATUS_NAMES[s]) for s in STATUSES]
    names = next(([name for name, _ in d.thresholds] for d in report.dictionaries if d.thresholds), [])
    lines = [(f"{control_class(i)} dash", "dash", f"threshold against {name}") for i, name in enumerate(names)]
    return legend([*marks, *lines])


def activation_histogram(histogram: Histogram | None) -> Markup | None:
    """A latent's non-zero activations; heights on a root scale, so that the rare strong ones show."""
    if histogram is None or not sum(finite(histogram.counts)) or len(finite(histogram.edges)) < len(histogram.edges):
        return None
    top = max(finite(histogram.counts))
    label = f"Histogram of {int(sum(finite(histogram.counts)))} non-zero activations up to {short(histogram.edges[-1])}"
    frame = Frame((histogram.edges[0], histogram.edges[-1]), height=60, left=10)
    frame.bars(histogram.edges, [math.sqrt(n / top) if n > 0 else 0 for n in histogram.counts], "hist")
    return chart(label, frame.x_axis(4).svg(), x="activation where it fires (√count)", class_="small")


def evidence(item: Evidence) -> Markup | None:
    """One test at a glance: the effect with its interval, its null (hollow) and its threshold (bar)."""
    low, high = (item.interval.low, item.interval.high) if item.interval else (math.nan, math.nan)
    if not finite([item.effect]):
        return None
    threshold = math.nan if tests_p(item) else item.threshold
    label = f"{metric_name(item.name)}: {short(item.effect)} {interval(item.interval)}, null {short(item.null)}"
    x = padded([item.effect, low, high, item.null, threshold], 0.08, zero=True)
    frame = Frame(x, height=18, left=8, right=8, top=0, bottom=0).segment(*x, "axis")
    frame.vertical(threshold, "threshold")
    if finite([item.null]):
        frame.add(tag("g", frame.mark(item.null, 9, "ring", small=True), class_="clean"))
    passed = "passed" if item.passed else "failed"
    return chart(label, frame.whisker(item.effect, low, high, passed, label, "dot").svg(), class_="glance")


def tests_p(item: Evidence) -> bool:
    """True when the threshold is for the corrected p-value, not for the effect."""
    return item.name == EFFECT or math.isfinite(item.p_corrected)


def _bounds(record: MetricRecord) -> tuple[float, float]:
    return (record.interval.low, record.interval.high) if record.interval else (math.nan, math.nan)


def _ends(record: MetricRecord) -> list[float]:
    return finite([record.value, *_bounds(record)])


def _unit(record: MetricRecord) -> str:
    return f"{metric_name(record.name)}{f', {record.unit}' if record.unit else ''}"
