"""Whether the features stay out of each other's way more than directions of a re-initialised matrix do."""

import numpy as np
from jaxtyping import Bool, Float

from polyseme.diagnosis.geometry import Directions, overlaps, p_value, random_arrangements
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.lines import of_directions


def crowding(directions: Directions, two_sided: Bool[np.ndarray, " feature"]) -> Float[np.ndarray, "*batch two"]:
    """Mean squared cosine to the other features a feature has: of those on its own side, and of all.

    Overlap of opposite sign costs nothing where a ReLU follows, so the first alone falls for antipodal pairs.
    """
    c = overlaps(directions, two_sided)
    return np.stack([(np.maximum(c, 0) ** 2).sum((-1, -2)), (c**2).sum((-1, -2))], axis=-1) / c.shape[-1]


def arrangement(seen: Observations) -> Line:
    """Crowding, summed over the network and its siblings, against three re-initialisations of each one's directions.

    A matrix with Gaussian entries, with the same spectrum, and with the same entries elsewhere; the p-value is the
    largest of the three, doubled for the two forms of crowding. Under each re-initialisation the test is exact, so a
    network that was never trained passes it no more often than `alpha`.
    """
    signs, sets, rng = seen.features.two_sided, seen.networks, seen.rng("arrangement")
    n, d = seen.features.directions.shape
    draws = seen.config.affordable(n * max(n, d), tests=2)
    value = np.sum([crowding(D, signs) for D in sets], axis=0)
    nulls: dict[str, Float[np.ndarray, "draw two"]] = {}
    for D in sets:
        for kind, drawn in random_arrangements(D, draws, rng).items():
            nulls[kind] = nulls.get(kind, 0) + crowding(drawn, signs)
    best, p = 0, 1.0
    for form in (0, 1):
        worst = max(p_value(float(value[form]), null[:, form], larger=False) for null in nulls.values())
        if 2 * worst < p:
            best, p = form, 2 * worst
    effect, interval = of_directions(seen, lambda D: crowding(D, signs)[..., best])
    return Line(
        name="arrangement",
        effect=effect,
        interval=interval,
        null=min(float(null[:, best].mean()) for null in nulls.values()) / len(sets),
        n=len(sets),
        n_unit="networks",
        threshold=seen.config.alpha,
        p_corrected=min(1.0, p),
        passed=p <= seen.config.alpha,
        note="null: the most orderly of three re-initialisations; the threshold is the p-value's",
    )
