"""How many features the site holds, against the dimensions that they take up."""

import numpy as np
from jaxtyping import Bool, Float

from polyseme.core.records import Evidence
from polyseme.diagnosis.geometry import overlaps, percentiles, rank
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.variables import AT_REST, Written

CO_FIRING = 0.5
"""Correlation of two features' firing from which they are said to fire together."""


def features_per_dimension(seen: Observations) -> Evidence:
    """Features per dimension, n / rank D: above 1 where no linear map can read all of them apart.

    A variable of the data is a feature of the site where it writes to it (`DiagnosisConfig.represented`); a dimension
    is used where the directions' singular value stands above `rank_floor`. Linear algebra puts the null at 1.
    """
    written = of(seen)
    n, used = len(written.names), rank(written.directions, seen.config.rank_floor)
    interval = percentiles([n / rank(D, seen.config.rank_floor) for D in written.resampled])
    return Evidence(
        name="features_per_dimension",
        effect=n / used,
        interval=interval,
        null=1.0,
        n=n,
        n_unit="features",
        threshold=1.0,
        passed=interval.low > 1,
        note=f"{n} features in {used} of {written.directions.shape[1]} dimensions",
    )


def groups_per_dimension(seen: Observations) -> Evidence:
    """The same, where features that fire together and lie along one direction count as one."""
    written = of(seen)
    together = np.abs(firing_correlations(written.values)) >= CO_FIRING
    joined = together & (overlaps(written.directions, written.two_sided) >= CO_FIRING)
    n, used = _components(joined), rank(written.directions, seen.config.rank_floor)
    interval = percentiles([n / rank(D, seen.config.rank_floor) for D in written.resampled])
    return Evidence(
        name="groups_per_dimension",
        effect=n / used,
        interval=interval,
        null=1.0,
        n=n,
        n_unit="groups",
        threshold=1.0,
        passed=interval.low > 1,
        note=f"{n} groups of features that do not share direction and firing",
    )


def spare_dimensions(seen: Observations) -> Evidence:
    """Dimensions of the site that no feature uses: with some to spare, no feature had to share.

    Lecomte et al. 2024, What causes polysemanticity?: collisions happen with more neurons than features.
    """
    written = of(seen)
    width = written.directions.shape[1]
    spare = width - rank(written.directions, seen.config.rank_floor)
    interval = percentiles([float(width - rank(D, seen.config.rank_floor)) for D in written.resampled])
    return Evidence(
        name="spare_dimensions",
        effect=float(spare),
        interval=interval,
        null=0.0,
        n=width,
        n_unit="neurons",
        threshold=1.0,
        passed=interval.low >= 1,
    )


def of(seen: Observations) -> Written:
    """What the variables write; the signatures of this table are computed only where there are any."""
    assert seen.written is not None
    return seen.written


def firing_correlations(values: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "feature feature"]:
    """Correlation of firing (value not at rest) of every pair, of values for features always on; diagonal 0."""
    fires = np.abs(values) > AT_REST
    dense = fires.mean(0) > 0.99
    x = np.where(dense, values, fires)
    x = x - x.mean(0)
    norms = np.maximum(np.linalg.norm(x, axis=0), 1e-12)
    found = (x.T @ x) / norms[:, None] / norms
    np.fill_diagonal(found, 0)
    return found


def _components(joined: Bool[np.ndarray, "feature feature"]) -> int:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(csr_array(joined), directed=False, return_labels=False))
