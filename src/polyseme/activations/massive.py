"""Massive activations: the few vectors so far from all others of their site that its squared sums are about them.

A handful of tokens, most often the first of a window, have vectors up to a thousand times as large as the others, and
nearly the same whatever the text (Sun et al. 2024, Massive Activations in Large Language Models). Four among twenty
thousand can carry most of a site's variance, so that an FVU says how well those four are reconstructed.

The distance of a vector is ‖x − c‖, c the coordinate-wise median of a sample of train vectors, and it is massive where
that exceeds `FACTOR` medians of it. About c, not about 0, for the same reason as FVU: a shift of the data changes
nothing. Medians, because a mean or a variance would be the massive vectors' own.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.core.config import Record
from polyseme.core.precision import wide
from polyseme.core.records import Number

P = TypeVar("P")
FACTOR = 10.0
"""Medians of the distance beyond which a vector is massive."""
MOST = 0.05
"""Where a larger share of the vectors lies beyond, they are no exceptions, and none is massive."""
TELLING_SHARE = 0.1
"""Share of the variance from which massive vectors are reported."""
CENTRE_ROWS = 2048
"""Vectors that the centre is taken from, the first of the sample."""
SAMPLE = 50_000
"""Train vectors whose distances are measured."""
_TILE = 2**20
"""Numbers in float64 at a time."""


def distances(x: Float[Tensor, "row d"], centre: Float[Tensor, " d"]) -> Float[Tensor, " row"]:
    """‖x − centre‖ of each row in float64, which no finite float32 overflows; NaN or infinite where the row is not
    finite."""
    centre = wide(centre.to(x.device))
    rows = max(1, _TILE // max(1, x.shape[1]))
    parts = [torch.linalg.vector_norm(wide(part) - centre, dim=1) for part in x.split(rows)]
    return torch.cat(parts) if parts else centre.new_zeros(0)


@dataclass(frozen=True)
class Ordinary:
    """Tells the ordinary vectors of a site from the massive ones and from those at positions that are left out.

    Attributes:
        centre: the centre of the site's vectors.
        limit: a vector farther from it is massive; infinite where none is.
        positions: number of positions at the start of a window that are not ordinary.
    """

    centre: Float[Tensor, " d"]
    limit: float
    positions: int = 0

    @property
    def keeps_all(self) -> bool:
        """True where every vector is ordinary."""
        return math.isinf(self.limit) and self.positions == 0

    @property
    def identity(self) -> str:
        """Differs where another set of vectors is ordinary."""
        digest = hashlib.sha256(np.ascontiguousarray(self.centre.float().cpu().numpy()).data)
        digest.update(f"{self.limit!r} {self.positions}".encode())
        return "all" if self.keeps_all else digest.hexdigest()

    def mask(self, x: Float[Tensor, "row d"], position: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """Which rows are ordinary; a row that is not finite counts as ordinary, so that the next check reports it."""
        kept = (position >= self.positions).to(x.device)
        if not math.isinf(self.limit):
            far = distances(x, self.centre)
            kept &= ~((far > self.limit) & torch.isfinite(far)).to(x.device)
        return kept


def ordinary_rows(
    places: Iterable[P],
    vectors: Mapping[P, Float[Tensor, "row _"]],
    position: Int[Tensor, " row"],
    ordinary: Mapping[P, Ordinary],
) -> Bool[Tensor, " row"] | None:
    """Which rows are ordinary at every one of some places; None where no place has a rule for it.

    Args:
        places: those of one dictionary, for example.
        vectors: at each place.
        position: each row's position in its window.
        ordinary: the rule for ordinary vectors at some places; at the others all are ordinary.
    """
    kept = None
    for place in places:
        if place in ordinary:
            there = ordinary[place].mask(vectors[place].float(), position)
            kept = there if kept is None else kept & there
    return kept


class Massive(Record):
    """The massive vectors in a sample of a site's train vectors."""

    factor: Number
    """Medians of the distance beyond which a vector counts as massive."""
    n: int
    """Vectors measured."""
    n_massive: int
    """Those beyond the limit."""
    share: Number
    """Their share of Σ‖x − c‖²."""
    median: Number
    """Median of the distances that are not 0."""
    largest: Number
    positions: tuple[tuple[int, int], ...] = ()
    """Positions in the window at which most of them stand, and how many stand there."""
    apart: bool = False
    """True where they are a group of their own, and not the end of a long tail."""

    @property
    def telling(self) -> bool:
        """True where they are a group apart that carries a large share of the variance."""
        return self.apart and self.share >= TELLING_SHARE

    @property
    def sentence(self) -> str:
        """How many of how many, where, and what they carry; for a site that has some."""
        at = ", ".join(f"{position} ({count})" for position, count in self.positions)
        more = ", …" if sum(count for _, count in self.positions) < self.n_massive else ""
        most = "" if len(self.positions) == 1 and not more else "most often "
        tail = (
            "" if self.apart or self.share < TELLING_SHARE else ", as the end of a long tail and not as a group apart"
        )
        return (
            f"{self.n_massive:,} of {self.n:,} train vectors are massive: more than {self.factor:g} times the median "
            f"distance from the site's centre (median {self.median:.3g}, largest {self.largest:.3g}), "
            f"{most}at position {at}{more}; they carry {self.share:.1%} of the variance{tail}"
        )


@dataclass(frozen=True)
class Spread:
    """Where a sample of a site's vectors lies: its centre, and how far from it each vector is.

    Attributes:
        centre: coordinate-wise median of the first `CENTRE_ROWS` vectors.
        distances: each vector's distance from the centre, float64.
        positions: each vector's position in its window.
    """

    centre: Float[Tensor, " d"]
    distances: Float[np.ndarray, " vector"]
    positions: Int[np.ndarray, " vector"]

    @property
    def median(self) -> float:
        """Median distance, of the vectors that are not at the centre; 0 where all are.

        Half of a site's vectors and more may lie at one point, all zeros behind a ReLU: they say nothing of how large
        the others are.
        """
        off = self.distances[np.isfinite(self.distances) & (self.distances > 0)]
        return float(np.median(off)) if len(off) else 0.0

    def limit(self, factor: float = FACTOR) -> float:
        """The distance beyond which a vector is massive; infinite where nothing sets a scale, and where more than
        `MOST` of the vectors lie beyond."""
        limit = factor * self.median
        beyond = np.isfinite(self.distances) & (self.distances > limit)
        return limit if limit > 0 and beyond.sum() <= MOST * len(self.distances) else math.inf

    def ordinary(self, factor: float | None = FACTOR, positions: int = 0) -> Ordinary:
        """The rule that separates ordinary vectors from the others.

        Args:
            factor: medians of the distance beyond which a vector is massive; None: none is.
            positions: number of positions at the start of a window that are not ordinary.
        """
        return Ordinary(self.centre, math.inf if factor is None else self.limit(factor), positions)

    def kept(self, ordinary: Ordinary) -> int:
        """How many vectors of the sample are ordinary."""
        far = (self.distances > ordinary.limit) & np.isfinite(self.distances)
        return int((~far & (self.positions >= ordinary.positions)).sum())

    def massive(self, factor: float = FACTOR, *, most_positions: int = 3) -> Massive:
        """The massive vectors of the sample.

        They are a group apart where some distance t at or beyond the limit, doubled from the limit on, has fewer
        vectors in the factor of two below it than beyond it, and those beyond carry at least `TELLING_SHARE` of Σ‖x −
        c‖². In a tail without a gap, each factor of two holds more vectors than all beyond it: a power law
        does so from exponent 1 on, a log-normal everywhere.
        """
        far, limit = np.sort(self.distances[np.isfinite(self.distances)]), self.limit(factor)
        squares = np.concatenate([[0.0], np.cumsum(far[::-1] ** 2)])  # of the farthest i
        total, n = float(squares[-1]), len(far)

        def beyond(t: float) -> int:
            return n - int(np.searchsorted(far, t, side="right"))

        t, apart = limit, False
        while not math.isinf(limit) and beyond(t) and not apart:
            enough = squares[beyond(t)] >= TELLING_SHARE * total
            apart, t = bool(enough and beyond(t / 2) - beyond(t) < beyond(t)), 2 * t
        where, counts = np.unique(self.positions[(self.distances > limit)], return_counts=True)
        order = np.lexsort((where, -counts))[:most_positions]
        return Massive(
            factor=factor,
            n=len(self.distances),
            n_massive=beyond(limit),
            share=float(squares[beyond(limit)]) / total if total > 0 else 0.0,
            median=self.median,
            largest=float(far[-1]) if n else math.nan,
            positions=tuple((int(where[i]), int(counts[i])) for i in order),
            apart=apart,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every part under its name, for saving; `of_tensors` gives the object back."""
        distances, positions = torch.from_numpy(self.distances), torch.from_numpy(self.positions)
        return {"centre": self.centre, "distances": distances, "positions": positions}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Spread":
        """What `tensors` gave."""
        return cls(tensors["centre"], tensors["distances"].numpy(), tensors["positions"].numpy())


@dataclass
class SpreadSums:
    """Gathers a site's `Spread` batch by batch; the way the vectors are cut into batches changes nothing."""

    _first: list[Tensor] = field(default_factory=list[Tensor])
    _n_first: int = 0
    _centre: Tensor | None = None
    _distances: list[np.ndarray] = field(default_factory=list[np.ndarray])
    _positions: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def see(self, x: Float[Tensor, "row d"], position: Int[Tensor, " row"] | Int[np.ndarray, " row"]) -> None:
        """Add a batch of vectors and their positions."""
        self._positions.append(np.asarray(position.cpu() if isinstance(position, Tensor) else position, np.int32))
        if self._centre is None:
            part = x[: CENTRE_ROWS - self._n_first]
            self._first.append(part.detach().float().clone())
            self._n_first += len(part)
            x = x[len(part) :]
            if self._n_first < CENTRE_ROWS:
                return
            self._settle()
        assert self._centre is not None
        if len(x):
            self._distances.append(distances(x, self._centre).cpu().numpy())

    def finish(self) -> Spread:
        """The spread of all vectors seen, of at least one."""
        if self._centre is None:
            self._settle()
        assert self._centre is not None
        return Spread(self._centre, np.concatenate(self._distances), np.concatenate(self._positions))

    def _settle(self) -> None:
        """Take the centre from the first vectors, and their distances."""
        first = torch.cat(self._first)
        finite = first[torch.isfinite(first).all(dim=1)]
        self._centre = (finite if len(finite) else first).median(dim=0).values.cpu()
        self._distances.append(distances(first, self._centre).cpu().numpy())
        self._first.clear()


def spreads_of(batches: Iterator[tuple[Mapping[str, Tensor], Tensor]]) -> dict[str, Spread]:
    """The spread of every site over batches of (site name to vectors, positions)."""
    sums: dict[str, SpreadSums] = {}
    for acts, position in batches:
        for site, x in acts.items():
            sums.setdefault(site, SpreadSums()).see(x, position)
    return {site: of_site.finish() for site, of_site in sums.items()}
