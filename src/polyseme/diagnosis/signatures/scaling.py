"""Whether the network reads the site's vectors by their direction alone."""

import numpy as np
import torch

from polyseme.core.records import Evidence
from polyseme.core.seeds import derive_seed
from polyseme.diagnosis.geometry import resample_mean
from polyseme.diagnosis.observations import Observations, parts

FLIPS = 0.05
"""Share of rows from which scaling is said to change what is read."""


def scaling(seen: Observations) -> Evidence:
    """Share of rows whose largest output changes when the site's vector is halved or doubled.

    Outputs are compared in units of their root mean square, as they need not have a common one.
    The null is 0, exactly: from the site on, a network of ReLUs without biases is positively homogeneous, and so is a
    linear one. Black et al. 2022, Interpreting neural networks through the polytope lens.
    """
    missing = Evidence(
        name="scaling", effect=float("nan"), n=0, n_unit="rows", threshold=FLIPS, passed=False, note="not measured"
    )
    if seen.outputs is None or seen.outputs.shape[1] < 2:
        return missing.model_copy(update={"note": "not measured: needs an output of two or more numbers a row"})
    size = np.sqrt((seen.outputs**2).mean(0))
    size = np.where(size > 0, size, 1)
    rng = np.random.default_rng(derive_seed(seen.config.seed, "scaling"))
    rows = torch.from_numpy(np.sort(rng.permutation(len(seen.inputs))[:512]))
    inputs, before = seen.inputs[rows], seen.outputs[rows.numpy()] / size
    flips = np.zeros(len(rows))
    for factor in (0.5, 2.0):
        edits = {str(seen.site): lambda h, by=factor: h * by}
        runs = [seen.network.run(part, edits=edits).logits for part in parts(seen.network, inputs)]
        after = torch.cat([x if x.dim() == 2 else x[:, -1] for x in runs]).cpu().double().numpy() / size
        flips += (after.argmax(1) != before.argmax(1)) & (after.max(1) > after.min(1))
    # A row whose outputs are all alike has no largest one.
    told = (before.max(1) > before.min(1)) & np.isfinite(flips)
    if told.sum() < 50:
        return missing.model_copy(update={"note": "not measured: too few rows have a largest output"})
    share = flips[told] / 2
    interval = resample_mean(lambda r: float(share[r].mean()), len(share), seen.config.n_resamples, rng)
    return Evidence(
        name="scaling",
        effect=float(share.mean()),
        interval=interval,
        null=0.0,
        n=len(share),
        n_unit="rows",
        threshold=FLIPS,
        passed=interval.low >= FLIPS,
        note="passed: scaling changes what is read",
    )
