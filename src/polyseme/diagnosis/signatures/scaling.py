"""Whether the network reads the site's vectors by their direction alone."""

import numpy as np
import torch

from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations, parts
from polyseme.diagnosis.signatures.lines import at_least, mean_of_rows, not_measured

FLIPS = 0.05
"""Share of rows from which scaling counts as changing what is read."""


def scaling(seen: Observations) -> Line:
    """Share of rows whose largest output changes when the site's vector is halved or doubled.

    Outputs are compared in units of their root mean square, as they need not have a common one.
    The null is exactly 0: from the site on, a network of ReLUs without biases is positively homogeneous, and so is a
    linear one. Black et al. 2022, Interpreting neural networks through the polytope lens.
    """
    if seen.outputs is None or seen.outputs.shape[1] < 2:
        return not_measured("scaling", FLIPS, "needs an output of two or more numbers a row")
    size = np.sqrt((seen.outputs**2).mean(0))
    size = np.where(size > 0, size, 1)
    rng = seen.rng("scaling")
    rows = torch.from_numpy(np.sort(rng.permutation(len(seen.inputs))[:512]))
    inputs, before = seen.inputs[rows], seen.outputs[rows.numpy()] / size
    flips = np.zeros(len(rows))
    for factor in (0.5, 2.0):
        edits = {str(seen.site): lambda h, by=factor: h * by}
        runs = [seen.network.run(part, edits=edits).logits for part in parts(seen.network, inputs)]
        after = torch.cat([x if x.dim() == 2 else x[:, -1] for x in runs]).cpu().double().numpy() / size
        flips += (after.argmax(1) != before.argmax(1)) & (after.max(1) > after.min(1))
    # A row whose outputs are all alike has no largest one.
    decided = (before.max(1) > before.min(1)) & np.isfinite(flips)
    if decided.sum() < 50:
        return not_measured("scaling", FLIPS, "too few rows have a largest output")
    share = flips[decided] / 2
    found, note = mean_of_rows(seen, share, rng), "passed: scaling changes what is read"
    return at_least(seen, "scaling", found, FLIPS, len(share), note=note)
