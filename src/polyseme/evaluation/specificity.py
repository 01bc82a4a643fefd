"""Is a latent the trained network's own? Its best match across seeds against its best match in a control network.

A maximum over thousands of noisy correlations is biased upwards, so it is never reported: the best match is chosen on
one half of the documents and its correlation is measured on the other, both ways, and the two are averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.core.config import Config, Resamples
from polyseme.core.errors import InputError
from polyseme.core.progress import Progress, Silent
from polyseme.core.seeds import derive_seed
from polyseme.core.stats import least_documents, resampling_weights


class SpecificityConfig(Config):
    """How recurrence and model-specificity are measured."""

    n_resamples: Resamples = 1000
    """Number of bootstrap resamples of documents behind each interval."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the two-sided intervals."""
    chunk_bytes: int = Field(default=100 * 2**20, ge=1, le=2**40)
    """Largest size, in bytes, of the correlations held in memory at once."""


@dataclass(frozen=True)
class Margin:
    """A quantity of every latent with its interval; NaN where it was not measured.

    Attributes:
        value: the estimate on all documents.
        low, high: its bootstrap interval over documents (percentiles, widened for few documents).
        p: one-sided bootstrap p-value that it is above 0: (1 + resamples at or below 0) / (1 + resamples).
    """

    value: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, " latent"]
    high: Float[np.ndarray, " latent"]
    p: Float[np.ndarray, " latent"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under its name, for saving; `Margin(**arrays)` gives the object back."""
        return {"value": self.value, "low": self.low, "high": self.high, "p": self.p}


@dataclass(frozen=True)
class Specificity:
    """Recurrence across seeds and model-specificity of every latent of one dictionary.

    Attributes:
        recurrence: correlation with the best match in another seed's dictionary.
        controls: correlation with the best match in each control network's dictionary.
        margins: recurrence minus that, for each control: the model-specificity.
        noise: recurrence when the other seed's activations are moved to other tokens: the floor of the estimate.
        n_documents: documents in which the latent fired.
    """

    recurrence: Margin
    controls: dict[str, Margin]
    margins: dict[str, Margin]
    noise: Float[np.ndarray, " latent"]
    n_documents: Int[np.ndarray, " latent"]

    @property
    def smallest(self) -> Margin:
        """The margin against the control that matches each latent best: the one a verdict rests on."""
        stacked = {k: np.stack([m.arrays()[k] for m in self.margins.values()]) for k in ("value", "low", "high", "p")}
        # A margin that was not measured must not be passed over: NaN sorts first here.
        at = np.where(np.isnan(stacked["value"]), -np.inf, stacked["value"]).argmin(axis=0)
        return Margin(**{k: np.take_along_axis(v, at[None], axis=0)[0] for k, v in stacked.items()})


def specificity(
    firings: Firings,
    other_seed: Firings,
    controls: Mapping[str, Firings],
    *,
    config: SpecificityConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Specificity:
    """Model-specificity: max_j corr(f_i, f_j of another seed) − max_j corr(f_i, f_j of a control), cross-fitted.

    Documents are split in two halves of about equal length. The match j that maximises the correlation on one half
    gives its correlation on the other, and both ways are averaged. Intervals resample the documents of each half,
    the same draw for every term, so that a margin's interval knows that its terms share tokens; the chosen matches
    stay fixed. A match that is silent on the half where it is measured counts as correlation 0, a latent that is
    silent on either half as not measured.

    Args:
        firings: the dictionary judged.
        other_seed: a dictionary trained in the same way from another seed on the same network.
        controls: name to a dictionary trained in the same way on each control network.
        config: resamples and memory.
        seed: seed of the split and the resampling.
        progress: receives how many latents are done, half of the work being the choice of matches.

    Raises:
        InputError: the firings do not lie on the same tokens, or there are fewer than two documents.
    """
    config = config or SpecificityConfig()
    for name, given in {"the other seed": other_seed, **controls}.items():
        if not (np.array_equal(given.window, firings.window) and np.array_equal(given.position, firings.position)):
            raise InputError(
                "activations can only be correlated over the same tokens",
                where=f"the firings of {name}",
                fix="collect all firings over the same windows",
            )
    halves = _halves(firings, seed)
    weights = [
        resampling_weights(half.n_documents, seed=derive_seed(seed, "half", i), n_resamples=config.n_resamples)
        for i, half in enumerate(halves)
    ]
    judged = [_Side(firings, half) for half in halves]

    progress = progress or Silent()
    others: dict[str, _Match] = {}
    for name, given in {"": other_seed, **controls}.items():
        others[name] = _Match(judged, given, halves, config.chunk_bytes)
        progress.update(0.5 * firings.n_latents * len(others) / (1 + len(controls)))
    fired = firings.document_counts
    parts: list[dict[str, Margin]] = []
    step = max(1, config.chunk_bytes // (64 * config.n_resamples))
    for at in range(0, firings.n_latents, step):
        some = np.arange(at, min(at + step, firings.n_latents))
        drawn = {name: match.correlations(judged, some, weights) for name, match in others.items()}
        margins = {f"margin {name}": drawn[""].minus(drawn[name]) for name in controls}
        parts.append({name: _margin(found, fired[some], config.level) for name, found in (drawn | margins).items()})
        progress.update(0.5 * firings.n_latents + 0.5 * (int(some[-1]) + 1))

    def joined(name: str) -> Margin:
        return Margin(
            *(np.concatenate(each) for each in zip(*(part[name].arrays().values() for part in parts), strict=True))
        )

    floor = _Match(judged, _moved(other_seed, halves), halves, config.chunk_bytes)
    return Specificity(
        recurrence=joined(""),
        controls={name: joined(name) for name in controls},
        margins={name: joined(f"margin {name}") for name in controls},
        noise=floor.correlations(judged, np.arange(firings.n_latents), None).value,
        n_documents=fired,
    )


@dataclass(frozen=True)
class _Half:
    """Some of the documents: the rows of their tokens, and each row's document counted from 0."""

    rows: Int[np.ndarray, " row"]
    document: Int[np.ndarray, " row"]
    n_documents: int


def _halves(firings: Firings, seed: int) -> tuple[_Half, _Half]:
    documents, inverse, length = np.unique(firings.document, return_inverse=True, return_counts=True)
    if len(documents) < 2:
        raise InputError(
            "model-specificity needs at least two held-out documents", fix="use a larger held-out part of the corpus"
        )
    rng = np.random.default_rng(derive_seed(seed, "split"))
    # Longest first, in pairs, a coin for each pair: the halves are random and of about the same length.
    order = np.lexsort((rng.random(len(documents)), -length))
    first = np.zeros(len(documents), dtype=bool)
    for at in range(0, len(documents), 2):
        pair = order[at : at + 2]
        first[pair[rng.integers(len(pair))]] = True
    if first.all():
        first[order[0]] = False

    def half(chosen: Bool[np.ndarray, " document"]) -> _Half:
        rows = np.flatnonzero(chosen[inverse])
        return _Half(rows, (np.cumsum(chosen) - 1)[inverse[rows]], int(chosen.sum()))

    return half(first), half(~first)


class _Side:
    """One dictionary's activations over one half, with the sums that correlations need."""

    def __init__(self, firings: Firings, half: _Half):
        self.half = half
        self.matrix: Any = firings.matrix[half.rows]
        self.columns: Any = self.matrix.tocsc()
        self.by_document: Any = csr_array(
            (np.ones(len(half.rows)), (half.document, np.arange(len(half.rows)))),
            shape=(half.n_documents, len(half.rows)),
        )
        self.length: Float[np.ndarray, " document"] = np.bincount(half.document, minlength=half.n_documents) * 1.0
        wide: Any = self.matrix.astype(np.float64)
        self.sums: Float[np.ndarray, "document latent"] = (self.by_document @ wide).toarray()
        self.squares: Float[np.ndarray, "document latent"] = (self.by_document @ wide.multiply(wide)).toarray()

    @property
    def n_latents(self) -> int:
        return self.sums.shape[1]


@dataclass(frozen=True)
class _Replicates:
    value: Float[np.ndarray, " latent"]
    drawn: Float[np.ndarray, "resample latent"]

    def minus(self, other: "_Replicates") -> "_Replicates":
        return _Replicates(self.value - other.value, self.drawn - other.drawn)


class _Match:
    """Another dictionary, and for each judged latent the match chosen on either half."""

    def __init__(self, judged: list[_Side], other: Firings, halves: tuple[_Half, _Half], limit: int):
        self.sides = [_Side(other, half) for half in halves]
        self.chosen = [_best(x, y, limit) for x, y in zip(judged, self.sides, strict=True)]

    def correlations(
        self,
        judged: list[_Side],
        latents: Int[np.ndarray, " latent"],
        weights: list[Float[np.ndarray, "resample _"]] | None,
    ) -> _Replicates:
        """Correlation with the match chosen on the opposite half, averaged over both ways, and its replicates."""
        values: list[np.ndarray] = []
        drawn: list[np.ndarray] = []
        for choose, measure in ((0, 1), (1, 0)):
            chosen = self.chosen[choose][latents]
            x, y = judged[measure], self.sides[measure]
            products = x.columns[:, latents].astype(np.float64).multiply(y.columns[:, chosen]).tocsr()
            terms = [
                x.sums[:, latents],
                x.squares[:, latents],
                y.sums[:, chosen],
                y.squares[:, chosen],
                (x.by_document @ products).toarray(),
            ]
            # Where the latent is silent its match was chosen among ties.
            known = np.where(judged[choose].squares[:, latents].any(axis=0), 1.0, np.nan)
            values.append(known * _correlation(x.length.sum(), *(term.sum(axis=0) for term in terms)))
            if weights is not None:
                w = weights[measure]
                drawn.append(known * _correlation((w @ x.length)[:, None], *(w @ term for term in terms)))
        return _Replicates(np.mean(values, axis=0), np.mean(drawn, axis=0) if drawn else np.empty((0, len(latents))))


def _best(x: _Side, y: _Side, limit: int) -> Int[np.ndarray, " latent"]:
    """For each latent of x the latent of y that correlates with it most."""
    n = x.length.sum()
    sums_x, sums_y = x.sums.sum(axis=0), y.sums.sum(axis=0)
    spread_y = np.sqrt(np.maximum(n * y.squares.sum(axis=0) - sums_y**2, 0))
    scale = np.divide(1.0, spread_y, out=np.zeros_like(spread_y), where=spread_y > 0)
    best = np.zeros(x.n_latents, dtype=np.int64)
    step = max(1, limit // (24 * max(1, y.n_latents)))
    for at in range(0, x.n_latents, step):
        some = slice(at, at + step)
        # The latent's own spread is the same for every candidate and does not change which is best.
        product = (x.columns[:, some].T.tocsr() @ y.matrix).toarray().astype(np.float64)
        covariance = n * product - np.outer(sums_x[some], sums_y)
        best[some] = np.where(spread_y > 0, covariance * scale, -np.inf).argmax(axis=1)
    return best


def _correlation(
    n: Float[np.ndarray, "*n"] | float,
    x: Float[np.ndarray, "*batch latent"],
    xx: Float[np.ndarray, "*batch latent"],
    y: Float[np.ndarray, "*batch latent"],
    yy: Float[np.ndarray, "*batch latent"],
    xy: Float[np.ndarray, "*batch latent"],
) -> Float[np.ndarray, "*batch latent"]:
    """Pearson correlation from sums; NaN where x is constant, 0 where only y is."""
    spread_x, spread_y = n * xx - x**2, n * yy - y**2
    still_x, still_y = spread_x <= 1e-12 * n * xx, spread_y <= 1e-12 * n * yy
    r = (n * xy - x * y) / np.sqrt(np.where(still_x | still_y, 1.0, spread_x * spread_y))
    return np.where(still_x, np.nan, np.where(still_y, 0.0, np.clip(r, -1, 1)))


def _margin(found: _Replicates, n_documents: Int[np.ndarray, " latent"], level: float) -> Margin:
    from scipy.special import ndtr, stdtrit

    n_resamples = len(found.drawn)
    measured = np.isfinite(found.drawn).sum(axis=0)
    # A resample in which the latent never fires has no correlation; while they are few the rest stand for them.
    enough = np.isfinite(found.value) & (measured >= 0.9 * n_resamples) & (n_documents >= least_documents(level))
    ordered = np.sort(found.drawn, axis=0)  # NaN last
    # Percentiles of few documents are too narrow; wider ones are right for a mean of as many (Hesterberg 2015, What
    # teachers should know about the bootstrap, section 5.4: the expanded percentile interval).
    n = np.maximum(n_documents, 2)
    tail = ndtr(stdtrit(n - 1.0, (1 - level) / 2) * np.sqrt(n / (n - 1)))

    def quantile(q: Float[np.ndarray, " latent"]) -> Float[np.ndarray, " latent"]:
        at = q * np.maximum(measured - 1, 0)
        below = np.floor(at).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(measured - 1, 0))
        values = [np.take_along_axis(ordered, row[None], axis=0)[0] for row in (below, above)]
        return np.where(enough, values[0] + (at - below) * (values[1] - values[0]), np.nan)

    p = np.where(enough, (1 + (found.drawn <= 0).sum(axis=0)) / (1 + measured), np.nan)
    return Margin(found.value, quantile(tail), quantile(1 - tail), p)


def _moved(firings: Firings, halves: tuple[_Half, _Half]) -> Firings:
    """The same activations on other tokens: half of their half's tokens further on, and so in another document.

    What each latent does, how often and in what runs, stays; where it does so has nothing more to do with the text.
    """
    rows = np.arange(firings.n_tokens)
    for half in halves:
        rows[half.rows] = np.roll(half.rows, len(half.rows) // 2)
    return Firings(firings.matrix[rows], firings.token, firings.document, firings.window, firings.position)
