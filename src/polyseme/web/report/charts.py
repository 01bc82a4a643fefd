"""The charts of a report, each from a part of its data."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from polyseme.core.records import STATUSES, Evidence, MetricRecord
from polyseme.interpret.numbers import interval, measured, short
from polyseme.interpret.report import (
    Chart,
    Comparison,
    DictionaryReport,
    Faithfulness,
    Histogram,
    SpliceRow,
    StudyReport,
)
from polyseme.interpret.telling import EFFECT
from polyseme.interpret.words import STATUS_NAMES, metric_name
from polyseme.web.report.svg import SHAPES, Frame, finite, legend, marker, padded, plain, tag

STATUS_SHAPES = dict(zip(STATUSES, ("dot", "diamond", "ring", "cross"), strict=True))
TRAINED, NULL = "trained", "null"


def control_class(index: int) -> str:
    """CSS class of the index-th control."""
    return f"{NULL} c{index % 5}"


def dots(comparison: Comparison) -> Markup:
    """One metric: the trained network above its controls on one axis, with intervals."""
    rows = [("trained", comparison.trained, TRAINED, "dot")]
    rows += [
        (c.control, c.record, control_class(i), SHAPES[i % len(SHAPES)]) for i, c in enumerate(comparison.controls)
    ]
    ends = [v for _, r, _, _ in rows for v in _ends(r)]
    label = f"{metric_name(comparison.trained.name)} at {comparison.site}: " + "; ".join(
        f"{name} {measured(record)}" for name, record, _, _ in rows
    )
    step = 20
    height = step * len(rows) + 44
    frame = Frame(label, padded(ends, 0.1), (0, 1), height=height, left=126, right=14, top=4, bottom=40)
    frame.x_axis(_unit(comparison.trained), 4)
    frame.vertical(comparison.trained.value, "reference")
    for i, (name, record, class_, shape) in enumerate(rows):
        y = frame.top + step * (i + 0.5)
        low, high = (record.interval.low, record.interval.high) if record.interval else (math.nan, math.nan)
        strong = " strong" if class_ == TRAINED else ""
        shown = tag("title", name), escape(_clip(name, 20))
        frame.add(tag("text", *shown, class_=f"row{strong}", x=frame.left - 8, y=y + 4, text_anchor="end"))
        if math.isnan(record.value):
            frame.add(tag("text", "not measured", class_="tick", x=frame.left + 6, y=y + 4))
        frame.whisker(record.value, low, high, y, class_, f"{name}: {measured(record)}", shape)
    return frame.svg()


def splice(faithfulness: Faithfulness) -> Markup:
    """Every cross-entropy of every site on one axis: clean, patched, mean- and zero-ablated."""
    rows = [*faithfulness.single, *([faithfulness.joint] if faithfulness.joint else [])]
    kinds = _splice_kinds()
    ends = [v for row in rows for name, _, _ in kinds for v in _ends(getattr(row, name))]
    label = "Cross-entropy in nats per token, " + "; ".join(_splice_label(row) for row in rows)
    frame = Frame(
        label,
        padded(ends, 0.05),
        (0, 1),
        width=1060,
        height=34 * len(rows) + 54,
        left=190,
        right=20,
        top=6,
        bottom=40,
    )
    frame.x_axis("cross-entropy, nats/token", 8)
    for i, row in enumerate(rows):
        y = frame.top + 34 * (i + 0.5)
        name = "all sites jointly" if row.joint else row.site
        strong = " strong" if row.joint else ""
        frame.add(tag("text", _clip(name, 28), class_=f"row{strong}", x=frame.left - 12, y=y + 4, text_anchor="end"))
        known = finite(getattr(row, kind).value for kind, _, _ in kinds)
        if known:
            a, b = frame.x(min(known)), frame.x(max(known))
            frame.add(tag("line", class_="rail", x1=a, x2=b, y1=y, y2=y))
        if math.isfinite(row.ce_clean.value) and math.isfinite(row.ce_patched.value):
            a, b = frame.x(row.ce_clean.value), frame.x(row.ce_patched.value)
            frame.add(tag("line", class_="lost", x1=a, x2=b, y1=y, y2=y))
        for kind, class_, shape in kinds:
            record: MetricRecord = getattr(row, kind)
            low, high = (record.interval.low, record.interval.high) if record.interval else (math.nan, math.nan)
            title = f"{metric_name(kind)}, {name}: {measured(record)}"
            frame.whisker(record.value, low, high, y, class_, title, shape)
    return frame.svg("wide")


def splice_legend() -> Markup:
    """Legend of `splice`."""
    texts = ("clean", "patched with reconstructions", "mean-ablated", "zero-ablated")
    return legend((class_, shape, text) for (_, class_, shape), text in zip(_splice_kinds(), texts, strict=True))


def _splice_kinds() -> tuple[tuple[str, str, str], ...]:
    return (
        ("ce_clean", "clean", "ring"),
        ("ce_patched", TRAINED, "dot"),
        ("ce_mean", "null c1", "diamond"),
        ("ce_zero", "null c0", "square"),
    )


def _splice_label(row: SpliceRow) -> str:
    values = ", ".join(f"{metric_name(kind)} {short(getattr(row, kind).value)}" for kind, _, _ in _splice_kinds())
    return f"{'joint' if row.joint else row.site}: {values}"


def ladder(faithfulness: Faithfulness) -> Markup | None:
    """The ladder of plain models, with the patched CE of every row drawn across it; None without a ladder."""
    points = sorted((n, ce) for _, n, ce in faithfulness.ladder if math.isfinite(n) and math.isfinite(ce))
    if len(points) < 2:
        return None
    rows = [*faithfulness.single, *([faithfulness.joint] if faithfulness.joint else [])]
    patched = [(r, r.ce_patched.value) for r in rows if math.isfinite(r.ce_patched.value)]
    sizes = [n for n, _ in points]
    y = padded([ce for _, ce in points] + [v for _, v in patched])
    label = "Held-out cross-entropy of the ladder: " + "; ".join(f"{short(n)} parameters {short(c)}" for n, c in points)
    frame = Frame(label, (min(sizes) / 1.6, max(sizes) * 1.6), y, width=420, height=260, log_x=True)
    frame.y_axis("cross-entropy, nats/token", 5).x_axis("parameters of the plain model", 4)
    for row, value in patched:
        frame.horizontal(value, "joint" if row.joint else "single")
    frame.line(points, "ladder")
    for n, ce in points:
        mark = marker(frame.x(n), frame.y(ce), "ring")
        frame.add(tag("g", tag("title", f"{short(n)} parameters: {short(ce)} nats/token"), mark, class_="clean"))
    return frame.svg()


def density(dictionary: DictionaryReport) -> Markup | None:
    """How often latents fire, trained as an area and the controls as lines, as shares of all latents."""
    known = [(name, h) for name, h in dictionary.density if sum(finite(h.counts)) > 0]
    if not known:
        return None
    shares = [(name, h, [c / sum(finite(h.counts)) for c in h.counts]) for name, h in known]
    edges = [e for _, h in known for e in h.edges]
    top = max(v for _, _, values in shares for v in values)
    used = [
        e
        for _, h, values in shares
        for (a, b), v in zip(zip(h.edges, h.edges[1:], strict=False), values, strict=True)
        if v
        for e in (a, b)
    ]
    label = f"Density of the latents at {dictionary.name}, trained beside {len(known) - 1} controls"
    x = (max(min(used) - 0.25, min(edges)), min(max(used) + 0.25, max(edges)))
    frame = Frame(label, x, (0, top * 1.08))
    frame.y_axis("share of latents").x_axis("density: share of vectors it fires on (log₁₀)", 6)
    for i, (name, h, values) in reversed(list(enumerate(shares))):
        steps = _steps(h, values, *x)
        if name == "trained":
            frame.band([a for a, _ in steps], [0.0] * len(steps), [b for _, b in steps], TRAINED)
            frame.line(steps, TRAINED)
        else:
            frame.line(steps, f"{control_class(i - 1)} dash")
    return frame.svg()


def density_legend(report: StudyReport) -> Markup:
    """Legend of `density`, of the first dictionary that has one."""
    names = next(([name for name, _ in d.density] for d in report.dictionaries if d.density), [])
    return legend(
        (TRAINED, "line", name) if name == "trained" else (f"{control_class(i - 1)} dash", "dash", name)
        for i, name in enumerate(names)
    )


def _steps(histogram: Histogram, values: Sequence[float], low: float, high: float) -> list[tuple[float, float]]:
    """The outline of the bins between two ends."""
    out: list[tuple[float, float]] = []
    for left, right, value in zip(histogram.edges, histogram.edges[1:], values, strict=False):
        if right > low and left < high:
            out += [(max(left, low), value), (min(right, high), value)]
    return out


def lines(chart: Chart) -> Markup | None:
    """A chart's curves with their bands; nulls dashed. None when nothing of it was measured."""
    if chart.log_y:
        ys = [v for c in chart.curves for v in (*c.y, *c.low, *c.high) if v > 0]
    else:
        ys = finite(v for c in chart.curves for v in (*c.y, *c.low, *c.high))
    xs = [v for c in chart.curves for v in c.x if math.isfinite(v) and (v > 0 or not chart.log_x)]
    if not xs or not ys:
        return None
    y = (min(ys) / 1.15, max(ys) * 1.15) if chart.log_y else padded(ys, zero=min(ys) >= 0 and min(ys) < max(ys) / 3)
    label = f"{chart.title}: {chart.y_label} against {chart.x_label}, " + ", ".join(c.name for c in chart.curves)
    frame = Frame(label, (min(xs), max(xs)), y, log_x=chart.log_x, log_y=chart.log_y, left=52)
    frame.y_axis(chart.y_label).x_axis(chart.x_label, 5)
    for i, curve in enumerate(chart.curves):
        if curve.low and curve.high:
            frame.band(curve.x, curve.low, curve.high, _curve_class(chart, i))
        frame.line(list(zip(curve.x, curve.y, strict=True)), _curve_class(chart, i) + (" dash" if curve.null else ""))
    return frame.svg()


def lines_legend(chart: Chart) -> Markup:
    """Legend of `lines`; nothing for a single curve."""
    if len(chart.curves) < 2:
        return Markup("")
    return legend(
        (_curve_class(chart, i) + (" dash" if c.null else ""), "dash" if c.null else "line", c.name)
        for i, c in enumerate(chart.curves)
    )


def _curve_class(chart: Chart, index: int) -> str:
    curve = chart.curves[index]
    if curve.null:
        return control_class(sum(c.null for c in chart.curves[:index]))
    return f"s{sum(not c.null for c in chart.curves[:index]) % 4}"


def scatter(dictionary: DictionaryReport) -> Markup | None:
    """Causal effect against model-specificity, one mark a latent; the effect on a symmetric-root axis."""
    points = [p for p in dictionary.points if math.isfinite(p.effect) and math.isfinite(p.margin)]
    if not points:
        return None

    def root(v: float) -> float:
        return math.copysign(math.sqrt(abs(v)), v)

    thresholds = [(name, t) for name, t in dictionary.thresholds if math.isfinite(t)]
    x = padded([*(p.margin for p in points), *(t for _, t in thresholds)], zero=True)
    y = padded([root(p.effect) for p in points], zero=True)
    label = f"Causal effect against model-specificity of {len(points)} latents at {dictionary.name}"
    frame = Frame(label, x, y, height=280, left=52)
    limit = max(abs(p.effect) for p in points)
    for value in _root_ticks(limit):
        if frame.y.low <= root(value) <= frame.y.high:
            at = frame.y(root(value))
            frame.add(tag("line", class_="grid", x1=frame.left, x2=frame.right, y1=at, y2=at))
            frame.add(tag("text", plain(value), class_="tick", x=frame.left - 6, y=at + 3.5, text_anchor="end"))
    middle = (frame.top + frame.bottom) / 2
    title = f"effect − null, {dictionary.effect_unit} (√ scale)"
    turn = f"rotate(-90 11 {middle:.0f})"
    frame.add(tag("text", title, class_="title", x=11, y=middle, text_anchor="middle", transform=turn))
    frame.x_axis("model-specificity margin", 6).vertical(0).horizontal(0)
    for i, (_, threshold) in enumerate(thresholds):
        frame.vertical(threshold, f"line {control_class(i)} dash")
    for status in reversed(STATUSES):
        marks = [
            marker(frame.x(p.margin), frame.y(root(p.effect)), STATUS_SHAPES[status], 2.1)
            for p in points
            if p.status == status
        ]
        if marks:
            frame.add(tag("g", *marks, class_=f"v-{status}"))
    return frame.svg()


def _root_ticks(limit: float) -> list[float]:
    top = 10.0 ** math.floor(math.log10(limit)) if limit > 0 else 1.0
    top *= next(m for m in (5, 2, 1) if m * top <= limit * 1.001) if limit > 0 else 1
    return [-top, -top / 5, 0.0, top / 5, top]


def status_legend() -> Markup:
    """Legend of the verdicts' marks."""
    return legend((f"v-{s}", STATUS_SHAPES[s], STATUS_NAMES[s]) for s in STATUSES)


def activation_histogram(histogram: Histogram | None) -> Markup | None:
    """A latent's non-zero activations; heights on a root scale, so that the rare strong ones show."""
    if histogram is None or not sum(finite(histogram.counts)):
        return None
    top = max(finite(histogram.counts))
    label = f"Histogram of {int(sum(finite(histogram.counts)))} non-zero activations up to {short(histogram.edges[-1])}"
    frame = Frame(
        label, (histogram.edges[0], histogram.edges[-1]), (0, 1), width=260, height=104, left=8, right=10, bottom=34
    )
    bars: list[str] = []
    for a, b, n in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        if n > 0:
            height = frame.y(math.sqrt(n / top))
            bars.append(f"M{frame.x(a):.1f} {frame.bottom:.0f}V{height:.1f}H{frame.x(b) - 0.8:.1f}V{frame.bottom:.0f}Z")
    frame.add(tag("path", class_="hist", d="".join(bars)))
    return frame.x_axis("activation where it fires (√count)", 4, grid=False).svg("small")


def evidence(item: Evidence) -> Markup | None:
    """One test at a glance: the effect with its interval, its null (hollow) and its threshold (bar)."""
    low, high = (item.interval.low, item.interval.high) if item.interval else (math.nan, math.nan)
    if not math.isfinite(item.effect):
        return None
    threshold = math.nan if tests_p(item) else item.threshold
    label = f"{metric_name(item.name)}: {short(item.effect)} {interval(item.interval)}, null {short(item.null)}"
    x = padded([item.effect, low, high, item.null, threshold], 0.08, zero=True)
    frame = Frame(label, x, (0, 1), width=150, height=18, left=6, right=6, top=0, bottom=0)
    frame.add(tag("line", class_="axis", x1=6, x2=144, y1=9, y2=9))
    if math.isfinite(threshold):
        frame.add(tag("line", class_="threshold", x1=frame.x(threshold), x2=frame.x(threshold), y1=2, y2=16))
    if math.isfinite(item.null):
        frame.add(tag("g", marker(frame.x(item.null), 9, "ring", 3.2), class_="clean"))
    passed = "passed" if item.passed else "failed"
    return frame.whisker(item.effect, low, high, 9, passed, label, "dot").svg("glance")


def tests_p(item: Evidence) -> bool:
    """True when the threshold is for the corrected p-value, not for the effect."""
    return item.name == EFFECT or math.isfinite(item.p_corrected)


def _ends(record: MetricRecord) -> list[float]:
    bounds = [record.interval.low, record.interval.high] if record.interval else []
    return finite([record.value, *bounds])


def _unit(record: MetricRecord) -> str:
    return f"{metric_name(record.name)}{f', {record.unit}' if record.unit else ''}"


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
