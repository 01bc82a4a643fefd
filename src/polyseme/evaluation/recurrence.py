"""What other dictionaries make of every latent: those of other seeds, those on null networks, and tables of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.contrast import Contrast


@dataclass(frozen=True)
class Correlations:
    """Correlation on held-out text of every latent with what each of several dictionaries or tables makes of it.

    Attributes:
        value: Pearson correlation; NaN where the latent does not vary.
        without: the same with each group of documents left out, for the jackknife.
    """

    value: Float[np.ndarray, "dictionary latent"]
    without: Float[np.ndarray, "dictionary group latent"]


@dataclass(frozen=True)
class Recurrence:
    """What other dictionaries make of every latent of one dictionary.

    Matches and predictions are chosen on train text and measured on held-out text.

    Attributes:
        match: with the single best match in each partner, a dictionary of another seed on the same network and text.
        matched: which latent of the partner that is.
        predicted: with the best linear prediction from all latents of each partner.
        nulls: by kind of null, the best linear prediction from all latents of each draw's dictionary.
        null_match: by kind of null, the single best match in each draw's dictionary; shown, and nothing rests on it.
        tables: by name (`token`, `previous token`, `bigram`, `position`), the prediction of a table.
        floor: 95th percentile of `match` for random directions of the site's covariance that fire as often.
        n_documents: held-out documents that each latent fires in.
    """

    match: Correlations
    matched: Int[np.ndarray, "partner latent"]
    predicted: Correlations
    nulls: Mapping[str, Correlations]
    null_match: Mapping[str, Float[np.ndarray, "draw latent"]]
    tables: Mapping[str, Correlations]
    floor: Float[np.ndarray, " latent"]
    n_documents: Int[np.ndarray, " latent"]

    def recurrent(self, least: float) -> dict[str, Contrast]:
        """Axis `recurrent`: the mean match over partners against the larger of `least` and the floor."""
        raise NotImplementedError

    def network(self) -> dict[str, Contrast]:
        """Axis `network`: how much better other seeds predict it than the dictionaries of each kind of null network."""
        raise NotImplementedError

    def beyond_tokens(self) -> dict[str, Contrast]:
        """Axis `beyond_tokens`: how much better other seeds predict it than each table and each null text does."""
        raise NotImplementedError
