"""Server-rendered SVG: scales, axes and marks, themed by CSS classes, every text escaped.

Every element is made by `tag`, which escapes, so that no text of a corpus can become markup.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

from polyseme.interpret.numbers import short

Point = tuple[float, float]


def tag(name: str, *content: Markup | str, **attributes: str | float | None) -> Markup:
    """An element; attribute values and text are escaped, `_` in a name stands for `-`, `class_` for `class`."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is not None:
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"')
    # Names come from this package, values and content are escaped here: nothing else goes in.
    return Markup(f"{''.join(parts)}>{''.join(map(escape, content))}</{name}>")  # noqa: S704  all escaped


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def finite(values: Iterable[float]) -> list[float]:
    """Those that are numbers."""
    return [v for v in values if math.isfinite(v)]


class Scale:
    """Data to pixels, linear or logarithmic.

    Args:
        low, high: ends of the data; widened when equal.
        start, stop: pixels of the ends.
        log: logarithmic; the ends are then positive.
    """

    def __init__(self, low: float, high: float, start: float, stop: float, *, log: bool = False):
        if log:
            low, high = max(low, 1e-300), max(high, 1e-300)
        if high <= low:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        self.low, self.high, self.start, self.stop, self.log = low, high, start, stop, log

    def __call__(self, value: float) -> float:
        if self.log:
            value = max(value, 1e-300)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + max(-0.2, min(1.2, share)) * (self.stop - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """Round values inside the scale, about `n` of them."""
        return _log_ticks(self.low, self.high, n) if self.log else nice_ticks(self.low, self.high, n)


def nice_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]: about `n` of them, two at the least."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return []
    for wanted in range(max(n, 1), max(n, 1) + 8):
        raw = span / wanted
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last > first:
            return [round(i * step, 12) for i in range(first, last + 1)]
    return []


def _log_ticks(low: float, high: float, n: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        every = max(1, round((last - first) / n))
        return [10.0**e for e in range(first, last + 1, every)]
    return [
        m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5) if low * 0.999 <= m * 10.0**e <= high * 1.001
    ]


def padded(values: Iterable[float], share: float = 0.06, *, zero: bool = False) -> tuple[float, float]:
    """Ends of an axis that holds every finite value with some room; (0, 1) without any."""
    known = finite(values)
    if zero:
        known.append(0.0)
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = (high - low) * share or abs(high) * share or 0.5
    return (low if zero and low == 0 else low - room), (high if zero and high == 0 else high + room)


class Frame:
    """A plot's area with its axes; marks are added in data coordinates.

    Args:
        label: what the chart shows, for those who do not see it.
        x, y: (low, high) of the data.
        width, height: of the view box, in CSS pixels at natural size.
        left, right, top, bottom: margins.
        log_x, log_y: logarithmic axes.
    """

    def __init__(
        self,
        label: str,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        width: float = 330,
        height: float = 210,
        left: float = 46,
        right: float = 12,
        top: float = 10,
        bottom: float = 38,
        log_x: bool = False,
        log_y: bool = False,
    ):
        self.label, self.width, self.height = label, width, height
        self.left, self.right, self.top, self.bottom = left, width - right, top, height - bottom
        self.x = Scale(*x, self.left, self.right, log=log_x)
        self.y = Scale(*y, self.bottom, self.top, log=log_y)
        self.marks: list[Markup] = []

    def add(self, *marks: Markup) -> "Frame":
        """Draw further marks on top."""
        self.marks += marks
        return self

    def x_axis(self, title: str, n: int = 5, *, grid: bool = True) -> "Frame":
        """Ticks, numbers and title below."""
        ticks = self.x.ticks(n)
        for value, text in zip(ticks, tick_labels(ticks, log=self.x.log), strict=True):
            at = self.x(value)
            if grid:
                self.add(tag("line", class_="grid", x1=at, x2=at, y1=self.top, y2=self.bottom))
            self.add(tag("text", text, class_="tick", x=at, y=self.bottom + 14, text_anchor="middle"))
        self.add(tag("line", class_="axis", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom))
        middle = (self.left + self.right) / 2
        return self.add(tag("text", title, class_="title", x=middle, y=self.bottom + 31, text_anchor="middle"))

    def y_axis(self, title: str, n: int = 4) -> "Frame":
        """Grid, numbers and title at the left."""
        ticks = self.y.ticks(n)
        for value, text in zip(ticks, tick_labels(ticks, log=self.y.log), strict=True):
            at = self.y(value)
            self.add(tag("line", class_="grid", x1=self.left, x2=self.right, y1=at, y2=at))
            self.add(tag("text", text, class_="tick", x=self.left - 6, y=at + 3.5, text_anchor="end"))
        middle = (self.top + self.bottom) / 2
        return self.add(
            tag(
                "text",
                title,
                class_="title",
                x=11,
                y=middle,
                text_anchor="middle",
                transform=f"rotate(-90 11 {middle:.0f})",
            )
        )

    def vertical(self, x: float, class_: str = "zero") -> "Frame":
        """A line across the plot at x, where it lies inside."""
        if not math.isfinite(x) or not self.x.low <= x <= self.x.high:
            return self
        return self.add(tag("line", class_=class_, x1=self.x(x), x2=self.x(x), y1=self.top, y2=self.bottom))

    def horizontal(self, y: float, class_: str = "zero") -> "Frame":
        """A line across the plot at y, where it lies inside."""
        if not math.isfinite(y) or not self.y.low <= y <= self.y.high:
            return self
        return self.add(tag("line", class_=class_, x1=self.left, x2=self.right, y1=self.y(y), y2=self.y(y)))

    def line(self, points: Sequence[Point], class_: str) -> "Frame":
        """A line through the points, broken where one is not measured."""
        d, pen = [], "M"
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                d.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
                pen = "L"
            else:
                pen = "M"
        return self.add(tag("path", class_=f"line {class_}", d="".join(d))) if d else self

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], class_: str) -> "Frame":
        """The area between two lines."""
        rows = [r for r in zip(x, low, high, strict=True) if all(map(math.isfinite, r))]
        if not rows:
            return self
        there = "L".join(f"{self.x(a):.1f} {self.y(h):.1f}" for a, _, h in rows)
        back = "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b, _ in reversed(rows))
        return self.add(tag("path", class_=f"band {class_}", d=f"M{there}L{back}Z"))

    def whisker(self, x: float, low: float, high: float, y: float, class_: str, title: str, shape: str) -> "Frame":
        """A horizontal interval at pixel row y with its value marked; nothing where not measured."""
        if not math.isfinite(x):
            return self
        parts = [tag("title", title)]
        if math.isfinite(low) and math.isfinite(high):
            parts.append(tag("line", class_="whisker", x1=self.x(low), x2=self.x(high), y1=y, y2=y))
        return self.add(tag("g", *parts, marker(self.x(x), y, shape), class_=class_))

    def svg(self, class_: str = "") -> Markup:
        """The chart."""
        return tag(
            "svg",
            *self.marks,
            class_=f"chart {class_}".strip(),
            viewBox=f"0 0 {self.width:.0f} {self.height:.0f}",
            role="img",
            aria_label=self.label,
        )


def tick_labels(ticks: Sequence[float], *, log: bool = False) -> list[str]:
    """Texts of ticks, all with the decimals their spacing needs."""
    if log or not ticks:
        return [plain(t) for t in ticks]
    step = min((b - a for a, b in pairwise(ticks)), default=abs(ticks[0]) or 1.0)
    if max(abs(t) for t in ticks) >= 10_000 or step < 1e-4:
        return [plain(t) for t in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{t:.{decimals}f}".replace("-", "−") for t in ticks]


def plain(value: float) -> str:
    """A round number of an axis, without zeros behind it."""
    text = short(value, 2)
    head, unit = (text[:-1], text[-1]) if text[-1] in "kMB" else (text, "")
    return f"{head.rstrip('0').rstrip('.')}{unit}" if "." in head and "e" not in head else text


def marker(x: float, y: float, shape: str, r: float = 4.2) -> Markup:
    """A mark that is told apart by its form as well as by its colour."""
    if shape == "square":
        side = r * 1.7
        return tag("rect", class_="mark", x=x - side / 2, y=y - side / 2, width=side, height=side)
    if shape == "diamond":
        h = round(r * 1.2, 1)
        return tag("path", class_="mark", d=f"M{x:.1f} {y - h:.1f}l{h} {h}l-{h} {h}l-{h}-{h}Z")
    if shape == "triangle":
        h = round(r * 1.1, 1)
        return tag("path", class_="mark", d=f"M{x:.1f} {y - h:.1f}l{h} {2 * h}h-{2 * h}Z")
    if shape == "cross":
        h = round(r * 0.8, 1)
        return tag(
            "path", class_="mark stroke", d=f"M{x - h:.1f} {y - h:.1f}l{2 * h} {2 * h}m0-{2 * h}l-{2 * h} {2 * h}"
        )
    return tag("circle", class_="mark" if shape == "dot" else f"mark {shape}", cx=x, cy=y, r=r)


SHAPES = ("square", "diamond", "triangle", "cross", "ring")
"""Marks of the controls, in order; the trained network is a dot."""


def legend(items: Iterable[tuple[str, str, str]]) -> Markup:
    """An HTML legend: (class, kind of swatch `line`/`dash`/`dot`/shape/`fill`, text) for each item."""
    entries: list[Markup] = []
    for class_, kind, text in items:
        if kind == "fill":
            mark = tag("rect", class_="mark", x=0, y=1, width=14, height=10)
        elif kind in ("line", "dash"):
            mark = tag("path", class_="line", d="M0 6h16")
        else:
            mark = marker(8, 6, kind)
        swatch = tag("svg", tag("g", mark, class_=class_), class_="swatch", viewBox="0 0 16 12", aria_hidden="true")
        entries.append(tag("li", swatch, tag("bdi", text)))
    return tag("ul", *entries, class_="legend")
