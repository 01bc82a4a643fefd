"""Whether the features that collide are others in networks of other seeds."""

import numpy as np
from jaxtyping import Bool, Float

from polyseme.core.stats import wilson_interval
from polyseme.diagnosis.geometry import cosines
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.lines import not_measured

SAME = 0.5
"""Share of collisions that recur in a sibling from which they count as systematic."""
COLLIDING = 0.5


def collisions(directions: Float[np.ndarray, "feature d"]) -> Bool[np.ndarray, "feature feature"]:
    """Pairs along one line, |cos| ≥ 0.5: true above the diagonal."""
    return np.triu(np.abs(cosines(directions)) >= COLLIDING)


def partners(seen: Observations) -> Line:
    """Share of the network's colliding pairs that collide in a sibling too; the null is the rate among all pairs.

    An accident of the initialisation picks other partners with another seed; a cause in the data picks the same.
    """
    mine = collisions(seen.features.directions)
    n_pairs = int(mine.sum())
    if not seen.siblings or not n_pairs:
        why = "needs siblings, networks of other seeds" if n_pairs else "no features collide"
        return not_measured("partners", SAME, why, len(seen.siblings), "siblings")
    theirs = [collisions(D) for D in seen.siblings]
    trials, hits = n_pairs * len(theirs), sum(int((mine & other).sum()) for other in theirs)
    n = len(mine)
    interval = wilson_interval(hits, trials)
    return Line(
        name="partners",
        effect=hits / trials,
        interval=interval,
        null=float(np.mean([other.sum() for other in theirs])) / (n * (n - 1) / 2),
        n=trials,
        n_unit="collisions",
        threshold=SAME,
        passed=interval.high < SAME,
        note="passed: partners vary by seed",
    )
