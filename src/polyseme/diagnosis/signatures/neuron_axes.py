"""Whether the features lie along the neurons."""

import numpy as np

from polyseme.core.records import Evidence
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.geometry import concentration, percentiles, purity, rotations, worst_purity
from polyseme.diagnosis.observations import Observations
from polyseme.diagnosis.signatures.dimensions import of

SHARED = 0.75
"""Share of its response to one feature under which a neuron is said to be shared."""
ON_NEURONS = 0.8
"""Share of features' squared length on single neurons from which they are said to be written to neurons."""
_WIDEST = 64
"""A null of rotations of more dimensions is drawn in a subspace: the purity it gives is higher, the test stricter."""


def neuron_purity(seen: Observations) -> Evidence:
    """How far each neuron answers to one feature, against the same features under random rotations of the site."""
    written = of(seen)
    D = written.directions
    value, interval = float(purity(D)), percentiles(purity(written.resampled))
    rng = np.random.default_rng(derive_seed(seen.config.seed, "neuron_purity"))
    p, mean = 1.0, float("nan")
    width = D.shape[1]
    if width > 1:
        reduced = D if width <= _WIDEST else np.linalg.qr(D.T)[1].T
        if reduced.shape[1] > _WIDEST:
            reduced = reduced[:, :_WIDEST]
        null = purity(reduced @ rotations(seen.config.draws(seen.config.n_null // 4), reduced.shape[1], rng))
        mean = float(null.mean())
        p = (1 + int((null >= value).sum())) / (1 + len(null))
    # In one dimension there is nothing to rotate: a single feature there is along the neuron.
    significant = width == 1 or p <= seen.config.alpha
    return Evidence(
        name="neuron_purity",
        effect=value,
        interval=interval,
        null=mean,
        n=len(written.names),
        n_unit="features",
        threshold=seen.config.pure,
        p_corrected=p,
        passed=interval.low >= seen.config.pure and significant,
        note="null: random rotations of the site",
    )


def worst_neuron(seen: Observations) -> Evidence:
    """The same for the one neuron that is shared most, against the same features under random rotations."""
    written = of(seen)
    D = written.directions
    interval = percentiles(worst_purity(written.resampled))
    rng = np.random.default_rng(derive_seed(seen.config.seed, "worst_neuron"))
    width = D.shape[1]
    null = worst_purity(D @ rotations(50, width, rng)) if width <= _WIDEST else np.full(1, np.nan)
    return Evidence(
        name="worst_neuron",
        effect=float(worst_purity(D)),
        interval=interval,
        null=float(null.mean()),
        n=len(written.names),
        n_unit="features",
        threshold=SHARED,
        passed=interval.low >= SHARED,
        note="null: random rotations of the site",
    )


def neuron_concentration(seen: Observations) -> Evidence:
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
        threshold=ON_NEURONS,
        passed=interval.low >= ON_NEURONS,
    )
