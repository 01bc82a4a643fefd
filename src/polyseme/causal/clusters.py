"""Means, errors and intervals for many latents at once, each from a few tokens clustered in documents."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.stats import least_documents, resampling_weights

LATENTS_AT_ONCE = 512


@dataclass(frozen=True)
class Clusters:
    """Sums over the samples of each (latent, document), in latent order.

    Attributes:
        start: latent i's documents are the rows `start[i] : start[i + 1]`.
        count: samples in each row.
        sums: total of each measured quantity in each row.
    """

    start: Int[np.ndarray, " latent_plus_1"]
    count: Float[np.ndarray, " cluster"]
    sums: Float[np.ndarray, "cluster quantity"]

    @property
    def n_documents(self) -> Int[np.ndarray, " latent"]:
        """Documents sampled from, of each latent."""
        return np.diff(self.start)

    def means(self) -> Float[np.ndarray, "latent quantity"]:
        """Mean over each latent's samples; NaN for a latent without any."""
        n_latents = len(self.start) - 1
        latent = np.repeat(np.arange(n_latents), self.n_documents)
        total = np.zeros((n_latents, self.sums.shape[1]))
        np.add.at(total, latent, self.sums)
        count = np.bincount(latent, weights=self.count, minlength=n_latents)
        return total / np.where(count > 0, count, np.nan)[:, None]

    def groups(self, least: int = 2) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(latents, their clusters [latent, document]) of latents that have equally many documents, `least` or more."""
        n_documents = self.n_documents
        for n in np.unique(n_documents[n_documents >= least]):
            latents = np.flatnonzero(n_documents == n)
            for at in range(0, len(latents), LATENTS_AT_ONCE):
                some = latents[at : at + LATENTS_AT_ONCE]
                yield some, self.start[some][:, None] + np.arange(n)


def cluster_by_document(
    latent: Int[np.ndarray, " sample"],
    document: Int[np.ndarray, " sample"],
    quantities: Float[np.ndarray, "sample quantity"],
    n_latents: int,
) -> Clusters:
    """Sum samples over the documents of each latent, in float64."""
    key = latent.astype(np.int64) * (int(document.max(initial=0)) + 1) + document
    cells, inverse = np.unique(key, return_inverse=True)
    sums = np.zeros((len(cells), quantities.shape[1]))
    np.add.at(sums, inverse, quantities)
    count = np.bincount(inverse, minlength=len(cells)).astype(np.float64)
    owner = cells // (int(document.max(initial=0)) + 1)
    start = np.searchsorted(owner, np.arange(n_latents + 1))
    return Clusters(start, count, sums)


def bootstrap_means(
    clusters: Clusters, quantity: int, *, seed: int, n_resamples: int, level: float = 0.95
) -> Float[np.ndarray, "latent bound"]:
    """Percentile intervals of each latent's mean Σ sums / Σ counts under resampling of its documents.

    NaN for a latent with fewer than `least_documents`.
    """
    bounds = np.full((len(clusters.start) - 1, 2), np.nan)
    tail = (1 - level) / 2
    for latents, rows in clusters.groups(least_documents(level)):
        weights = resampling_weights(rows.shape[1], seed=seed, n_resamples=n_resamples)
        replicates = (weights @ clusters.sums[rows, quantity].T) / (weights @ clusters.count[rows].T)
        bounds[latents] = np.quantile(replicates, [tail, 1 - tail], axis=0).T
    return bounds


def error_of_means(clusters: Clusters, quantity: int) -> Float[np.ndarray, " latent"]:
    """Standard error of each latent's mean Σ sums / Σ counts over its documents, which are drawn at random.

    √(D / (D − 1) · Σ (sum − count · mean)²) / Σ count, over its D documents; NaN for fewer than two.
    """
    n = len(clusters.start) - 1
    latent = np.repeat(np.arange(n), clusters.n_documents)
    residual = clusters.sums[:, quantity] - clusters.count * clusters.means()[latent, quantity]
    total = np.bincount(latent, weights=residual**2, minlength=n)
    count = np.bincount(latent, weights=clusters.count, minlength=n)
    documents = clusters.n_documents.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(documents / (documents - 1) * total) / count
    return np.where(documents > 1, error, np.nan)
