"""Tests and intervals over documents, for many latents at once."""

import numpy as np
import pytest

from polyseme.causal.clusters import bootstrap_means, cluster_by_document, sign_flip_p, smallest_p
from polyseme.core.stats import bootstrap_documents


def clusters(latent, document, values):
    latent, document = np.asarray(latent), np.asarray(document)
    return cluster_by_document(latent, document, np.asarray(values, float)[:, None], int(latent.max(initial=0)) + 1)


def test_sign_flips_of_a_few_documents_are_all_tried():
    # Latent 0: documents 3, 5, 7 with sums 1, 2, 3; only the observed signs of all 8 reach 6. Latent 1 is never
    # sampled, latent 2 in one document only. Latent 3: sums 2 and −1; 1 of 4 reaches beyond 1, the observed is 1.
    made = clusters([0, 0, 0, 0, 2, 2, 3, 3], [3, 5, 7, 7, 1, 1, 0, 1], [1, 2, 1, 2, 5, 5, 2, -1])
    above, differs = sign_flip_p(made, 0, seed=0, n_flips=100)
    np.testing.assert_allclose(above, [1 / 8, np.nan, np.nan, 2 / 4])
    np.testing.assert_allclose(differs, [2 / 8, np.nan, np.nan, 1])
    np.testing.assert_allclose(made.means()[:, 0], [6 / 4, np.nan, 5, 0.5])
    assert made.n_documents.tolist() == [3, 0, 1, 2]


def test_random_flips_agree_with_all_of_them():
    rng = np.random.default_rng(0)
    latent, document = np.repeat(np.arange(40), 10), np.tile(np.arange(10), 40)
    made = clusters(latent, document, rng.standard_normal(400) + 0.3)
    exact, _ = sign_flip_p(made, 0, seed=0, n_flips=1024)
    drawn, _ = sign_flip_p(made, 0, seed=0, n_flips=1023)
    assert drawn.min() >= 1 / 1024
    np.testing.assert_allclose(drawn, exact, atol=0.06)
    assert np.corrcoef(drawn, exact)[0, 1] > 0.99


def test_exchangeable_heavy_tails_in_clusters_are_rejected_at_the_nominal_rate():
    rng = np.random.default_rng(1)
    n_latents, n_documents, each = 2000, 16, 3
    latent = np.repeat(np.arange(n_latents), n_documents * each)
    document = np.tile(np.repeat(np.arange(n_documents), each), n_latents)
    # Tokens of a document share a factor, so that a test over tokens would reject far too often.
    shared = rng.standard_cauchy((n_latents, n_documents, 1))
    values = (shared + 0.1 * rng.standard_cauchy((n_latents, n_documents, each))).ravel()
    above, differs = sign_flip_p(clusters(latent, document, values), 0, seed=2, n_flips=999)
    assert 0.035 < (above <= 0.05).mean() < 0.065
    assert 0.035 < (differs <= 0.05).mean() < 0.065


@pytest.mark.parametrize("n_flips", [1, 3, 31, 100, 20_000])
def test_the_smallest_p_is_that_of_the_largest_effect(n_flips):
    n = [1, 2, 3, 5, 6, 7, 16, 40]
    latent = np.repeat(np.arange(len(n)), n)
    document = np.concatenate([np.arange(m) for m in n])
    made = clusters(latent, document, np.ones(len(latent)))
    above, _ = sign_flip_p(made, 0, seed=0, n_flips=n_flips)
    least = smallest_p(made.n_documents, n_flips=n_flips)
    assert np.isnan(least[0])
    exact = 2.0 ** np.array(n) <= n_flips
    np.testing.assert_allclose(above[exact], least[exact])
    # Random flips may by chance repeat the observed signs, never fall below the bound.
    assert (above[1:] >= least[1:] - 1e-12).all()
    assert above[-1] == least[-1] == pytest.approx(1 / (n_flips + 1))


def test_flips_in_pieces_count_as_flips_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    made = clusters(np.repeat(np.arange(9), 7), np.tile(np.arange(7), 9), rng.standard_normal(63))
    whole = sign_flip_p(made, 0, seed=0, n_flips=128)
    monkeypatch.setattr("polyseme.causal.clusters.FLIPS_AT_ONCE", 50)
    np.testing.assert_array_equal(sign_flip_p(made, 0, seed=0, n_flips=128), whole)


def test_nothing_measured_is_no_effect():
    above, _ = sign_flip_p(clusters([0] * 8, range(8), [0.0] * 8), 0, seed=0, n_flips=999)
    assert above == 1


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
