"""Whether one orthogonal transform would give every feature a neuron of its own."""

import numpy as np

from polyseme.core.records import Evidence
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.config import DiagnosisConfig
from polyseme.diagnosis.geometry import p_value, percentiles, turned_purity
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.dimensions import of


def rotation(seen: Observations, config: DiagnosisConfig) -> Evidence:
    """Purity of the neurons after the best rotation, against as many directions drawn at random.

    Two directions in four dimensions are nearly orthogonal by chance now and then: siblings, where there are any, are
    summed with the network as in `arrangement`.
    """
    written = of(seen)
    D = written.directions
    value, interval = float(turned_purity(D)), percentiles(turned_purity(written.resampled))
    rng = np.random.default_rng(derive_seed(config.seed, "rotation"))
    n, d = D.shape
    sets = [D, *(other for other in seen.siblings if np.linalg.norm(other, axis=1).min() > 0)]
    draws = max(100, min(config.n_null, (1 << 22) // (n * max(n, d))))
    null = sum((turned_purity(rng.standard_normal((draws, n, d))) for _ in sets), np.zeros(draws)) / len(sets)
    p = p_value(float(np.mean([turned_purity(other) for other in sets])), null, larger=True)
    return Evidence(
        name="rotation",
        effect=value,
        interval=interval,
        null=float(null.mean()),
        n=n,
        n_unit="features",
        threshold=config.pure,
        p_corrected=p,
        passed=interval.low >= config.pure and p <= config.alpha,
        note="null: random directions",
    )
