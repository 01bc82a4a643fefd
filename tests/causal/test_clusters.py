"""Means, their errors and their intervals over documents, for many latents at once."""

import numpy as np
import pytest

from polyseme.causal.clusters import bootstrap_means, cluster_by_document, error_of_means
from polyseme.core.stats import bootstrap_documents


def clusters(latent, document, values):
    latent, document = np.asarray(latent), np.asarray(document)
    return cluster_by_document(latent, document, np.asarray(values, float)[:, None], int(latent.max(initial=0)) + 1)


def test_means_and_errors_by_hand():
    # Latent 0: documents 3, 5, 7 with sums 1, 2, 3 of 1, 1 and 2 samples. Latent 1 is never sampled, latent 2 in one
    # document only.
    made = clusters([0, 0, 0, 0, 2, 2], [3, 5, 7, 7, 1, 1], [1, 2, 1, 2, 5, 5])
    np.testing.assert_allclose(made.means()[:, 0], [6 / 4, np.nan, 5])
    assert made.n_documents.tolist() == [3, 0, 1]
    residuals = np.array([1 - 1.5, 2 - 1.5, 3 - 2 * 1.5])
    error = np.sqrt(3 / 2 * (residuals**2).sum()) / 4
    np.testing.assert_allclose(error_of_means(made, 0), [error, np.nan, np.nan])


def test_the_error_of_a_mean_is_its_spread_over_draws_of_documents():
    rng = np.random.default_rng(0)
    n_latents, n_documents, each = 3000, 12, 3
    latent = np.repeat(np.arange(n_latents), n_documents * each)
    document = np.tile(np.repeat(np.arange(n_documents), each), n_latents)
    # Tokens of a document share a part, so that an error over tokens would be far too small.
    values = rng.standard_normal((n_latents, n_documents, 1)) + 0.3 * rng.standard_normal(
        (n_latents, n_documents, each)
    )
    made = clusters(latent, document, values.ravel())
    errors, spread = error_of_means(made, 0), made.means()[:, 0].std()
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.05)
    assert values.std() / np.sqrt(n_documents * each) < 0.7 * spread


def test_bootstrap_is_that_of_one_statistic_at_a_time():
    rng = np.random.default_rng(3)
    document = np.sort(rng.integers(0, 12, 60))
    values = rng.standard_normal(60)
    made = clusters(np.zeros(60, int), document, values)
    bounds = bootstrap_means(made, 0, seed=5, n_resamples=400)
    sums = np.array([[values[document == d].sum(), (document == d).sum()] for d in np.unique(document)])
    _, interval = bootstrap_documents(sums, lambda s: s[..., 0] / s[..., 1], seed=5, n_resamples=400)
    assert tuple(bounds[0]) == pytest.approx((interval.low, interval.high))
    assert np.isnan(bootstrap_means(clusters([0], [0], [1.0]), 0, seed=0, n_resamples=10)).all()
