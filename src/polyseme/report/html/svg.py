"""Server-rendered SVG: scales, axes and marks, themed by CSS classes, every text escaped.

Every element is made by `tag`, which escapes, so that no text of a corpus can become markup. A plot fills the width of
its box: places along x are percentages of it, while heights, marks and text keep their size in pixels. Nothing is ever
shrunk, so that a chart is as readable on a telephone as on a desk.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

from polyseme.core.numbers import plain

Point = tuple[float, float]

NARROWEST = 180
"""Pixels of width that every plot has even on a screen of 320: the labels along x are chosen to fit into them."""
_DIGIT = 7.4
"""Pixels that one character of a tick's label takes at most."""
_LINE = 15
"""Pixels that a line of ticks' labels takes."""
_CANVAS = 1000
"""Width of the view box in which curves are drawn; it is stretched to the plot's."""
_BEYOND = 1e300
"""A number this large is drawn nowhere: differences of such numbers overflow."""


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
    """Those that can be drawn."""
    return [v for v in values if abs(v) < _BEYOND]


class Scale:
    """Data to places, linear or logarithmic; what lies beyond an end is put on it.

    Args:
        low, high: ends of the data; widened when equal.
        start, stop: places of the ends.
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
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + max(0.0, min(1.0, share)) * (self.stop - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, n: int = 5) -> list[float]:
        """Round values inside the scale, about `n` of them."""
        return _log_ticks(self.low, self.high, n) if self.log else nice_ticks(self.low, self.high, n)

    def labels(self, n: int, pixels: float) -> list[tuple[float, str]]:
        """About `n` ticks with their labels: fewer where those would touch along that many pixels."""
        for wanted in range(n, 0, -1):
            ticks = self.ticks(wanted)
            texts = tick_labels(ticks, log=self.log)
            places = [abs(self(t) - self.start) / abs(self.stop - self.start) * pixels for t in ticks]
            halves = [(_DIGIT * len(text) + 8) / 2 for text in texts]
            if all(b - a >= v + w for (a, b), (v, w) in zip(pairwise(places), pairwise(halves), strict=True)):
                return list(zip(ticks, texts, strict=True))
        return [(t, plain(t)) for t in self.ticks(1)[:1]]


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
            return [round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1)]
    return []


def _log_ticks(low: float, high: float, n: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        return [10.0**e for e in range(first, last + 1, max(1, round((last - first) / n)))]
    steps = (1, 2, 5) if n >= 4 else (1, 3) if n >= 2 else (1,)
    return [
        m * 10.0**e for e in range(first - 1, last + 1) for m in steps if low * 0.999 <= m * 10.0**e <= high * 1.001
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


def central(values: Iterable[float]) -> list[float]:
    """The values without the few that lie so far out that they would squeeze the others into a line.

    Out of at least 20, those further from the middle 95% than it is wide, where they are not more than one in twenty.
    """
    known = sorted(finite(values))
    n = len(known)
    if n < 20:
        return known
    low, high = known[n // 40], known[n - 1 - n // 40]
    kept = [v for v in known if low - (high - low) <= v <= high + (high - low)]
    return kept if high > low and len(kept) >= 0.95 * n else known


class Frame:
    """A plot with its axes; marks are added in data coordinates.

    Its box is as wide as what it stands in; `left` and `right` pixels of that are margins.

    Args:
        x, y: (low, high) of the data.
        height: of the plot in pixels, without its margins.
        left, right, top, bottom: margins in pixels.
        log_x, log_y: logarithmic axes.
        pixels: width that the plot has on a wide screen, for more ticks along x there.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float] = (0, 1),
        *,
        height: float = 160,
        left: float = 50,
        right: float = 22,
        top: float = 9,
        bottom: float = 26,
        log_x: bool = False,
        log_y: bool = False,
        pixels: float = NARROWEST,
    ):
        self.height, self.margins, self.pixels = height, (top, right, bottom, left), pixels
        self.x = Scale(*x, 0, 100, log=log_x)
        self.y = Scale(*y, height, 0, log=log_y)
        self.marks: list[Markup] = []

    def add(self, *marks: Markup) -> "Frame":
        """Draw further marks on top."""
        self.marks += marks
        return self

    def at(self, value: float) -> str:
        """Place of a value along x, as a share of the width."""
        return f"{self.x(value):.2f}".rstrip("0").rstrip(".") + "%"

    def x_grid(self, n: int = 5) -> "Frame":
        """Lines at the ticks along x."""
        for value, _, class_ in self._x_ticks(n):
            self.vertical(value, f"grid {class_}".strip())
        return self

    def x_axis(self, n: int = 5) -> "Frame":
        """The numbers below."""
        for value, text, class_ in self._x_ticks(n):
            class_ = f"tick {class_}".strip()
            self.add(tag("text", text, class_=class_, x=self.at(value), y=self.height + 19, text_anchor="middle"))
        return self.add(tag("line", class_="axis", x1="0", x2="100%", y1=self.height, y2=self.height))

    def _x_ticks(self, n: int) -> list[tuple[float, str, str]]:
        """Ticks of a narrow screen, and those of a wide one where it has room for others; CSS shows one of the two."""
        coarse, fine = self.x.labels(n, NARROWEST), self.x.labels(2 * n, self.pixels)
        if self.pixels <= NARROWEST or coarse == fine:
            return [(*tick, "") for tick in coarse]
        return [(*tick, "coarse") for tick in coarse] + [(*tick, "fine") for tick in fine]

    def y_axis(self, n: int = 4, labels: Iterable[tuple[float, str]] | None = None) -> "Frame":
        """Grid and numbers at the left; a label that would touch an earlier one is left out."""
        ticks = self.y.ticks(n)
        taken: list[float] = []
        for value, text in labels or zip(ticks, tick_labels(ticks, log=self.y.log), strict=True):
            at = self.y(value)
            if self.y.holds(value) and all(abs(at - other) >= _LINE for other in taken):
                taken.append(at)
                self.horizontal(value, "grid")
                self.add(tag("text", text, class_="tick", x=-7, y=at + 4, text_anchor="end"))
        return self

    def vertical(self, x: float, class_: str = "zero") -> "Frame":
        """A line across the plot at x, where it lies inside."""
        if not self.x.holds(x):
            return self
        return self.add(tag("line", class_=class_, x1=self.at(x), x2=self.at(x), y1=0, y2=self.height))

    def horizontal(self, y: float, class_: str = "zero") -> "Frame":
        """A line across the plot at y, where it lies inside."""
        if not self.y.holds(y):
            return self
        return self.add(tag("line", class_=class_, x1="0", x2="100%", y1=self.y(y), y2=self.y(y)))

    def segment(self, a: float, b: float, class_: str) -> "Frame":
        """A horizontal line from a to b through the middle."""
        return self.add(
            tag("line", class_=class_, x1=self.at(a), x2=self.at(b), y1=self.height / 2, y2=self.height / 2)
        )

    def line(self, points: Sequence[Point], class_: str) -> "Frame":
        """A line through the points, broken where one is not measured or lies beyond the axes."""
        d, pen = [], "M"
        for x, y in points:
            if self.x.holds(x) and self.y.holds(y):
                d.append(f"{pen}{self._far(x)} {self.y(y):.1f}")
                pen = "L"
            else:
                pen = "M"
        return self._curve(f"line {class_}", "".join(d))

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], class_: str) -> "Frame":
        """The area between two lines."""
        rows = [r for r in zip(x, low, high, strict=True) if len(finite(r)) == 3]
        there = "L".join(f"{self._far(a)} {self.y(h):.1f}" for a, _, h in rows)
        back = "L".join(f"{self._far(a)} {self.y(b):.1f}" for a, b, _ in reversed(rows))
        return self._curve(f"band {class_}", f"M{there}L{back}Z" if rows else "")

    def bars(self, edges: Sequence[float], heights: Sequence[float], class_: str) -> "Frame":
        """A bar from the bottom for every pair of edges with a height above 0."""
        parts = [
            f"M{self._far(a)} {self.height:.0f}V{self.y(h):.1f}H{self._far(b)}V{self.height:.0f}Z"
            for a, b, h in zip(edges, edges[1:], heights, strict=False)
            if h > 0
        ]
        return self._curve(class_, "".join(parts))

    def _far(self, x: float) -> str:
        return _plain(self.x(x) * _CANVAS / 100)

    def _curve(self, class_: str, d: str) -> "Frame":
        if not d:
            return self
        box = f"0 -3 {_CANVAS} {self.height + 6:.0f}"
        path = tag("path", class_=class_, d=d)
        curve = tag("svg", path, class_="curve", viewBox=box, y=-3, height=self.height + 6, preserveAspectRatio="none")
        return self.add(curve)

    def mark(self, x: float, y: float, shape: str, *, small: bool = False) -> Markup:
        """A mark at a value of x and pixel row y; one beyond the axis points out of it from the edge."""
        if not self.x.holds(x):
            shape = "right" if x > self.x.high else "left"
        return tag("use", href=f"#{shape}{'-small' if small else ''}", x=self.at(x), y=y)

    def whisker(self, x: float, low: float, high: float, class_: str, title: str, shape: str, *more: Markup) -> "Frame":
        """An interval through the middle with its value marked, over `more` marks; nothing where not measured."""
        if not finite([x]):
            return self
        line = tag("line", class_="whisker", x1=self.at(low), x2=self.at(high), y1=self.height / 2, y2=self.height / 2)
        parts = [line] if len(finite([low, high])) == 2 else []
        mark = self.mark(x, self.height / 2, shape)
        return self.add(tag("g", tag("title", title), *parts, *more, mark, class_=class_))

    def svg(self, class_: str = "") -> Markup:
        """The plot."""
        top, right, bottom, left = self.margins
        style = (
            f"height:{top + self.height + bottom:.0f}px;padding:{top:.0f}px {right:.0f}px {bottom:.0f}px {left:.0f}px"
        )
        return tag("svg", *self.marks, class_=f"plot {class_}".strip(), style=style)


def chart(label: str, *content: Markup, x: str = "", y: str = "", class_: str = "") -> Markup:
    """Plots that are one picture, for those who do not see it its label, between the titles of their axes."""
    above = [tag("p", "↑ ", tag("bdi", y), class_="axis-title")] if y else []
    below = [tag("p", tag("bdi", x), " →", class_="axis-title x")] if x else []
    return tag("div", *above, *content, *below, class_=f"chart {class_}".strip(), role="img", aria_label=label)


def strip(name: str, plot: Frame, class_: str = "") -> Markup:
    """A row of a chart: a name beside its plot, or above it where there is no room."""
    # A long name breaks after an underscore before it breaks within a word.
    words = [part for word in name.split("_") for part in (word, Markup("_<wbr>"))][:-1]
    return tag("div", tag("bdi", *words, class_="row-name"), plot.svg(), class_=f"strip {class_}".strip())


def tick_labels(ticks: Sequence[float], *, log: bool = False) -> list[str]:
    """Texts of ticks, all with the decimals their spacing needs."""
    if log or not ticks:
        return [plain(t) for t in ticks]
    step = min((b - a for a, b in pairwise(ticks)), default=abs(ticks[0]) or 1.0)
    if max(abs(t) for t in ticks) >= 10_000 or step < 1e-4:
        return [plain(t) for t in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{t:.{decimals}f}".replace("-", "−") for t in ticks]


SHAPES = ("square", "diamond", "triangle", "cross", "ring")
"""Marks of the controls, in order; the trained network is a dot."""


def _marker(shape: str, r: float) -> Markup:
    """A mark around the origin, recognisable by its form as well as by its colour."""
    h = round(r * 1.2, 1)
    match shape:
        case "square":
            return tag("rect", class_="mark", x=-r * 0.85, y=-r * 0.85, width=r * 1.7, height=r * 1.7)
        case "diamond":
            return tag("path", class_="mark", d=f"M0-{h}L{h} 0L0 {h}L-{h} 0Z")
        case "triangle":
            return tag("path", class_="mark", d=f"M0-{h}L{h} {h}H-{h}Z")
        case "right":
            return tag("path", class_="mark", d=f"M{r + 3} 0L2-{h}V{h}Z")
        case "left":
            return tag("path", class_="mark", d=f"M-{r + 3} 0L-2-{h}V{h}Z")
        case "cross":
            h = round(r * 0.8, 1)
            return tag("path", class_="mark stroke", d=f"M-{h}-{h}L{h} {h}M-{h} {h}L{h}-{h}")
        case _:
            return tag("circle", class_="mark" if shape == "dot" else f"mark {shape}", r=r)


def symbols() -> Markup:
    """The marks, defined once for a page; plots refer to them."""
    sizes = {"": 4.2, "-small": 2.4}
    shapes = ("dot", *SHAPES, "left", "right")
    defined = [tag("g", _marker(s, r), id=f"{s}{suffix}") for suffix, r in sizes.items() for s in shapes]
    return tag("svg", tag("defs", *defined), class_="hidden", aria_hidden="true", width=0, height=0)


def legend(items: Iterable[tuple[str, str, str]]) -> Markup:
    """An HTML legend: (class, kind of swatch `line`/`dash`/`fill` or a shape, text) for each item."""
    entries: list[Markup] = []
    for class_, kind, text in items:
        if kind == "fill":
            mark = tag("rect", class_="mark", x=0, y=1, width=14, height=10)
        elif kind in ("line", "dash"):
            mark = tag("path", class_="line", d="M0 6h16")
        else:
            mark = tag("use", href=f"#{kind}", x=8, y=6)
        swatch = tag("svg", tag("g", mark, class_=class_), class_="swatch", viewBox="0 0 16 12", aria_hidden="true")
        entries.append(tag("li", swatch, tag("bdi", text)))
    return tag("ul", *entries, class_="legend")
