"""Whether one orthogonal transform would give every feature a neuron of its own."""

import numpy as np
from jaxtyping import Float

from polyseme.core.records import Evidence, Interval
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.geometry import Directions, p_value, percentiles, purity, turned_purity, varimax
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.dimensions import of

_MOST = 8
"""Features turned among themselves; more are not."""


def rotation(seen: Observations) -> Evidence:
    """Purity of the neurons after the best rotation, against as many directions drawn at random.

    Two directions in four dimensions are nearly orthogonal by chance now and then: siblings, where there are any, are
    summed with the network as in `arrangement`.
    """
    written = of(seen)
    D = written.directions
    value, interval = float(turned_purity(D)), percentiles(turned_purity(written.resampled))
    rng = np.random.default_rng(derive_seed(seen.config.seed, "rotation"))
    n, d = D.shape
    sets = _directions(seen)
    draws = seen.config.draws(max(100, min(seen.config.n_null, (1 << 22) // (n * max(n, d)))))
    null = sum((turned_purity(rng.standard_normal((draws, n, d))) for _ in sets), np.zeros(draws)) / len(sets)
    p = p_value(float(np.mean([turned_purity(other) for other in sets])), null, larger=True)
    return _pure(seen, "rotation", value, interval, null, p, note="null: random directions")


def variable_rotation(seen: Observations) -> Evidence:
    """Purity of the neurons for the best rotation of the *variables*, against neurons drawn at random.

    Neurons that read x + y and x − y are pure in those, though what x and y write need not be orthogonal. Variables are
    put on one scale first, that of their deviation. The p-value is of the mean over the network and its siblings, as in
    `rotation`: four neurons are pure in two turned variables by chance now and then.
    """
    written = of(seen)
    n, d = written.directions.shape
    if not 2 <= n <= _MOST or d > 256:
        return Evidence(
            name="variable_rotation",
            effect=float("nan"),
            n=n,
            n_unit="features",
            threshold=seen.config.pure,
            passed=False,
            note=f"not measured: needs 2 to {_MOST} features and at most 256 neurons",
        )
    scale = written.values.std(0)[:, None]
    value = float(purity(varimax(written.directions * scale)))
    interval = percentiles(purity(varimax(written.resampled * scale)))
    rng = np.random.default_rng(derive_seed(seen.config.seed, "variable_rotation"))
    sets = _directions(seen)
    draws = seen.config.draws(max(100, min(seen.config.n_null, (1 << 18) // (n * d))))
    drawn = purity(varimax(rng.standard_normal((draws, n, d))))
    null = rng.choice(drawn, (seen.config.n_null, len(sets))).mean(1) if len(sets) > 1 else drawn
    p = p_value(float(np.mean([purity(varimax(D * scale)) for D in sets])), null, larger=True)
    return _pure(seen, "variable_rotation", value, interval, null, p, note="null: random neurons")


def _directions(seen: Observations) -> list[Directions]:
    """What the features write here, and in every sibling where each of them writes something."""
    return [of(seen).directions, *(other for other in seen.siblings if np.linalg.norm(other, axis=1).min() > 0)]


def _pure(
    seen: Observations,
    name: str,
    value: float,
    interval: Interval,
    null: Float[np.ndarray, " draw"],
    p: float,
    *,
    note: str,
) -> Evidence:
    return Evidence(
        name=name,
        effect=value,
        interval=interval,
        null=float(null.mean()),
        n=len(of(seen).directions),
        n_unit="features",
        threshold=seen.config.pure,
        p_corrected=p,
        passed=interval.low >= seen.config.pure and p <= seen.config.alpha,
        note=note,
    )
