"""Whether one orthogonal transform would give every feature a neuron of its own."""

import numpy as np

from polyseme.core.records import Evidence
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.config import DiagnosisConfig
from polyseme.diagnosis.geometry import p_value, percentiles, turned_purity
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.dimensions import of


def rotation(seen: Observations, config: DiagnosisConfig) -> Evidence:
    """Purity of the neurons after the best rotation, against as many directions drawn at random in as many dimensions."""
    written = of(seen)
    D = written.directions
    value, interval = float(turned_purity(D)), percentiles(turned_purity(written.resampled))
    rng = np.random.default_rng(derive_seed(config.seed, "rotation"))
    n, d = D.shape
    draws = max(40, min(config.n_null, (1 << 23) // (n * d)))
    null = turned_purity(rng.standard_normal((draws, n, d)))
    p = p_value(value, null, larger=True)
    return Evidence(
        name="rotation",
        effect=value,
        interval=interval,
        null=float(null.mean()),
        n=n,
        n_unit="features",
        threshold=max(config.pure, float(np.quantile(null, 1 - config.alpha))),
        p_corrected=p,
        passed=interval.low >= config.pure and p <= config.alpha,
        note="null: random directions",
    )
