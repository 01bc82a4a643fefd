"""Whether an overcomplete sparse dictionary explains vectors better than a complete one at equal sparsity."""

from itertools import chain

import numpy as np
from jaxtyping import Float

from polyseme.diagnosis.components import independent_sources, leading_axes, sparse_dictionary, unexplained
from polyseme.diagnosis.geometry import percentiles
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.reading import halves

GAIN = 0.02
"""Share of the variance by which the gain must exceed its nulls."""
_SURROGATES = 4
_FITS = 3
"""Halvings of the vectors, with dictionaries learned on each: what one gains moves by as much as its rows' error."""
_ROWS = 3072
_MOST = 16
_SIZES = (2, 4)


def overcomplete_gain(seen: Observations) -> Line:
    """Held-out variance that two or four atoms a dimension explain beyond one atom a dimension.

    Both use as many entries a row. More atoms explain more of anything, so the gain is compared with two nulls: vectors
    with as many *independent* components of the same distributions as there are dimensions (each source shuffled over
    the rows), which is what aligned and rotated features are; and the same site of re-initialised networks, whose
    random maps crowd the inputs' features as well. Without the latter the evidence does not pass. The interval draws
    one of a few halvings, and then rows, so that it holds the luck of the dictionaries too.
    """
    rng = seen.rng("overcomplete_gain")

    def resampled(gain: Float[np.ndarray, " held_out"]) -> float:
        return float(gain[rng.integers(0, len(gain), len(gain))].mean())

    reduced = _reduced(seen.components.vectors[:_ROWS])
    gains = [_gain(reduced, rng) for _ in range(_FITS)]
    found = independent_sources(reduced, np.arange(len(reduced)), rng, n_starts=1)
    surrogates = (rng.permuted(found.values, axis=0) @ found.directions for _ in range(_SURROGATES))
    controls = (_reduced(other[: len(reduced)]) for other in seen.controls)
    worst = max(float(_gain(null, rng).mean()) for null in chain(surrogates, controls))
    effect = float(np.mean([gain.mean() for gain in gains]))
    interval = percentiles(
        [resampled(gains[rng.integers(_FITS)]) for _ in range(seen.config.n_resamples)],
        "bootstrap over halvings and rows",
    )
    enough = len(seen.controls) >= 2
    return Line(
        name="overcomplete_gain",
        effect=effect,
        interval=interval,
        null=worst,
        n=len(gains[0]),
        n_unit="vectors",
        threshold=worst + GAIN,
        passed=enough and interval.low >= worst + GAIN,
        note=f"null: largest of {_SURROGATES} independent surrogates and {len(seen.controls)} re-initialised networks"
        + ("" if enough else "; needs two or more of these"),
    )


def _reduced(vectors: Float[np.ndarray, "row d"]) -> Float[np.ndarray, "row k"]:
    """Coordinates along the leading principal axes."""
    centred = vectors - vectors.mean(0)
    return centred @ leading_axes(centred, _MOST)[1]


def _gain(vectors: Float[np.ndarray, "row k"], rng: np.random.Generator) -> Float[np.ndarray, " held_out"]:
    """By how much overcompleteness lowers the error of each held-out row, in units of the mean squared length."""
    fit, held_out = halves(len(vectors), rng)
    d = vectors.shape[1]
    k = max(1, d // 4)
    total = float((vectors[held_out] ** 2).sum(1).mean())
    complete = unexplained(vectors[held_out], sparse_dictionary(vectors[fit], d, k, rng), k)
    more = [unexplained(vectors[held_out], sparse_dictionary(vectors[fit], size * d, k, rng), k) for size in _SIZES]
    best = min(more, key=lambda errors: float(errors.mean()))
    return (complete - best) / total
