"""How many features the site holds, against the dimensions that they take up."""

import numpy as np
from jaxtyping import Float

from polyseme.diagnosis.geometry import overlaps, rank
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.lines import at_least, of_directions
from polyseme.diagnosis.variables import AT_REST

CO_FIRING = 0.5
"""Correlation of two features' firing from which they count as firing together."""


def features_per_dimension(seen: Observations) -> Line:
    """Features per dimension, n / rank D: above 1 where no linear map can read all of them apart.

    A variable of the data is a feature of the site where it writes to it (`DiagnosisConfig.represented`); a dimension
    is used where the directions' singular value stands above `rank_floor`. Linear algebra puts the null at 1.
    """
    D = seen.features.directions
    note = f"{len(D)} features in {rank(D, seen.config.rank_floor)} of {D.shape[1]} dimensions"
    return _per_dimension(seen, "features_per_dimension", len(D), "features", note)


def groups_per_dimension(seen: Observations) -> Line:
    """The same, where features that fire together and lie along one direction count as one."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    written = seen.features
    together = np.abs(firing_correlations(written.values)) >= CO_FIRING
    joined = together & (overlaps(written.directions, written.two_sided) >= CO_FIRING)
    n = int(connected_components(csr_array(joined), directed=False, return_labels=False))
    note = f"{n} groups of features that do not share direction and firing"
    return _per_dimension(seen, "groups_per_dimension", n, "groups", note)


def spare_dimensions(seen: Observations) -> Line:
    """Dimensions of the site that no feature uses: with some to spare, no feature had to share.

    Lecomte et al. 2024, What causes polysemanticity?: collisions happen with more neurons than features.
    """
    width = seen.features.directions.shape[1]
    found = of_directions(seen, lambda D: float(width) - rank(D, seen.config.rank_floor))
    return at_least(seen, "spare_dimensions", found, 1.0, width, "neurons")


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


def _per_dimension(seen: Observations, name: str, n: int, n_unit: str, note: str) -> Line:
    effect, interval = of_directions(seen, lambda D: n / rank(D, seen.config.rank_floor))
    return Line(
        name=name,
        effect=effect,
        interval=interval,
        null=1.0,
        n=n,
        n_unit=n_unit,
        threshold=1.0,
        passed=interval.low > 1,
        note=note,
    )
