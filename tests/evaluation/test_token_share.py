"""Token share: the textbook analysis of variance, and known answers."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.evaluation.token_share import token_share


def made(activations, *, n_documents, token=None):
    n = len(activations)
    document = np.arange(n) * n_documents // n
    ids = (np.zeros(n) if token is None else token, document, np.arange(n) // 8, np.arange(n) % 8)
    return Firings(csr_array(np.asarray(activations, np.float32)), *(np.asarray(x, np.int32) for x in ids))


def test_firing_documents_counts_documents_not_tokens():
    z = np.zeros((8, 2))
    z[[0, 1, 6], 0] = 1
    assert made(z, n_documents=4).document_counts.tolist() == [2, 0]


def test_token_share_of_a_lookup_of_noise_and_of_half_and_half():
    rng = np.random.default_rng(6)
    n, vocabulary = 20000, 500
    token = rng.integers(0, vocabulary, n)
    said = (rng.random(vocabulary) < 0.3)[token] * 1.0
    noise = rng.permutation(said)
    share = token_share(made(np.stack([said, noise, said + noise, 0 * said], 1), n_documents=100, token=token))
    assert share.value[0] == pytest.approx(1)
    assert share.raw[1] == pytest.approx((vocabulary - 1) / (n - 1), rel=0.3)
    assert abs(share.value[1]) < 0.01
    assert share.value[2] == pytest.approx(0.5, abs=0.02)
    assert (share.low[1:3] < share.value[1:3]).all()
    assert share.low[1] < 0 < share.high[1]
    assert share.low[2] < 0.5 < share.high[2]
    assert np.isnan([share.value[3], share.raw[3], share.low[3]]).all()


def test_token_share_is_the_textbook_analysis_of_variance():
    token = np.array([0, 0, 1, 1, 1, 2])
    f = np.array([1.0, 3, 4, 0, 2, 5])
    share = token_share(made(f[:, None], n_documents=3, token=token))
    total = ((f - f.mean()) ** 2).sum()
    between = sum((token == v).sum() * (f[token == v].mean() - f.mean()) ** 2 for v in range(3))
    assert share.raw[0] == pytest.approx(between / total)
    assert share.value[0] == pytest.approx(1 - (1 - between / total) * 5 / 3)
