"""Evidence made by hand."""

import math

import numpy as np

from polyseme.core.contrast import Contrast
from polyseme.core.records import AXES
from polyseme.verdicts.evidence import AxisEvidence, SiteEvidence


def contrast(difference, *, error=0.1, freedom=math.inf, redrawn=0.1, null=0.2, reach=math.inf):
    """A contrast with these differences; anything else is one number for all latents, or one each."""
    difference = np.asarray(difference, float)
    whole = [np.broadcast_to(np.asarray(x, float), difference.shape).copy() for x in (null, error, freedom, redrawn)]
    return Contrast(whole[0] + difference, *whole, reach=reach)


def site(n_documents=None, *, missing=(), least=None, **axes):
    """A site of which some axes have these nulls (name to contrast); the others pass whatever is asked for."""
    n = len(next(iter(next(iter(axes.values())).values())).value)
    documents = np.full(n, 30) if n_documents is None else np.asarray(n_documents)
    given = dict(missing)
    sure = {"easy": contrast(np.full(n, 0.9), error=0.01, redrawn=0.01)}
    return SiteEvidence(
        documents,
        {
            axis: AxisEvidence(
                {} if axis in given else axes.get(axis, sure),
                (least or {}).get(axis, 0.0),
                documents,
                "documents",
                given.get(axis, ""),
            )
            for axis in AXES
        },
    )
