"""Whether the features lie along the neurons."""

import numpy as np

from polyseme.core.records import Evidence
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.config import DiagnosisConfig
from polyseme.diagnosis.geometry import concentration, percentiles, purity, rotations
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.dimensions import of

_WIDEST = 64
"""A null of rotations of more dimensions is drawn in a subspace: the purity it gives is higher, the test stricter."""


def neuron_purity(seen: Observations, config: DiagnosisConfig) -> Evidence:
    """How far each neuron answers to one feature, against the same features under random rotations of the site."""
    written = of(seen)
    D = written.directions
    value, interval = float(purity(D)), percentiles(purity(written.resampled))
    rng = np.random.default_rng(derive_seed(config.seed, "neuron_purity"))
    p, mean = 1.0, float("nan")
    width = D.shape[1]
    if width > 1:
        reduced = D if width <= _WIDEST else np.linalg.qr(D.T)[1].T
        if reduced.shape[1] > _WIDEST:
            reduced = reduced[:, :_WIDEST]
        null = purity(reduced @ rotations(config.n_null // 4, reduced.shape[1], rng))
        mean = float(null.mean())
        p = (1 + int((null >= value).sum())) / (1 + len(null))
    # In one dimension there is nothing to rotate: a single feature there is along the neuron.
    significant = width == 1 or p <= config.alpha
    return Evidence(
        name="neuron_purity",
        effect=value,
        interval=interval,
        null=mean,
        n=len(written.names),
        n_unit="features",
        threshold=config.pure,
        p_corrected=p,
        passed=interval.low >= config.pure and significant,
        note="null: random rotations of the site",
    )


def neuron_concentration(seen: Observations, config: DiagnosisConfig) -> Evidence:
    """How far each feature is written to one neuron; features that collide on one score as high as aligned ones."""
    written = of(seen)
    value, interval = float(concentration(written.directions)), percentiles(concentration(written.resampled))
    return Evidence(
        name="neuron_concentration",
        effect=value,
        interval=interval,
        null=1 / written.directions.shape[1],
        n=len(written.names),
        n_unit="features",
        threshold=config.pure,
        passed=interval.low >= config.pure,
    )
