"""Model-specificity and token share: known answers, no bias from choosing the best of many, invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.core.errors import InputError
from polyseme.evaluation.specificity import SpecificityConfig, specificity
from polyseme.evaluation.token_share import token_share

QUICK = SpecificityConfig(n_resamples=200)


def made(activations, *, n_documents, token=None):
    n = len(activations)
    document = np.arange(n) * n_documents // n
    ids = (np.zeros(n) if token is None else token, document, np.arange(n) // 8, np.arange(n) % 8)
    return Firings(csr_array(np.asarray(activations, np.float32)), *(np.asarray(x, np.int32) for x in ids))


def sparse(rng, n, m, density=0.2):
    return (rng.random((n, m)) < density) * rng.exponential(1.0, (n, m))


def test_a_shared_latent_is_recurrent_and_one_the_control_has_too_is_not_specific():
    rng = np.random.default_rng(0)
    shared, own = sparse(rng, 4000, 3), sparse(rng, 4000, 3)
    judged = made(np.hstack([shared, own, np.zeros((4000, 1))]), n_documents=40)
    other = made(np.hstack([sparse(rng, 4000, 2), own * 2, shared * 3]), n_documents=40)
    control = made(np.hstack([shared * 5, sparse(rng, 4000, 9)]), n_documents=40)
    found = specificity(judged, other, {"null": control}, config=QUICK)
    np.testing.assert_allclose(found.recurrence.value[:6], 1, atol=1e-6)
    np.testing.assert_allclose(found.margins["null"].value[:3], 0, atol=1e-6)
    assert (found.margins["null"].value[3:6] > 0.9).all()
    assert (found.margins["null"].low[3:6] > 0.9).all()
    assert np.isnan(found.margins["null"].value[6])
    assert np.isnan(found.margins["null"].low[6])
    assert found.n_documents.tolist() == [40] * 6 + [0]


def test_the_best_of_many_unrelated_latents_is_no_match():
    rng = np.random.default_rng(1)
    judged, other = (made(sparse(rng, 2000, 300, 0.05), n_documents=50) for _ in range(2))
    dense = np.corrcoef(judged.matrix.toarray().T, other.matrix.toarray().T)[:300, 300:]
    assert dense.max(axis=1).mean() > 0.05  # what the plain maximum would report
    null = made(sparse(rng, 2000, 300, 0.05), n_documents=50)
    found = specificity(judged, other, {"null": null}, config=SpecificityConfig(n_resamples=500))
    assert abs(found.recurrence.value.mean()) < 0.005
    assert abs(found.noise.mean()) < 0.005
    assert (found.margins["null"].low > 0).mean() < 0.06


def test_the_match_is_chosen_on_one_half_and_measured_on_the_other():
    # With a single candidate nothing is chosen: the estimate is the mean of the two halves' correlations.
    rng = np.random.default_rng(2)
    x = sparse(rng, 400, 1)
    y = x + sparse(rng, 400, 1)
    judged, other = made(x, n_documents=2), made(y, n_documents=2)
    found = specificity(judged, other, {"self": judged}, config=QUICK)
    halves = [np.corrcoef(x[s, 0], y[s, 0])[0, 1] for s in (slice(0, 200), slice(200, 400))]
    np.testing.assert_allclose(found.recurrence.value, np.mean(halves), atol=1e-6)
    np.testing.assert_allclose(found.controls["self"].value, 1, atol=1e-6)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(3)
    n = 6000
    x = sparse(rng, n, 200)
    # One candidate each would be matched to another latent by none of the 199: correlation √½ by construction.
    y = x + np.roll(sparse(rng, n, 200), 1, axis=1)
    found = specificity(
        made(x, n_documents=60), made(y, n_documents=60), {"null": made(y, n_documents=60)}, config=QUICK
    )
    truth = np.sqrt(0.5)
    covered = (found.recurrence.low < truth) & (truth < found.recurrence.high)
    assert 0.88 < covered.mean() <= 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_neither_scale_nor_the_order_of_latents_matters(seed, scale):
    rng = np.random.default_rng(seed)
    x, y, z = (sparse(rng, 300, 6) for _ in range(3))
    order, columns = rng.permutation(6), rng.permutation(6)
    few = SpecificityConfig(n_resamples=20)
    first = specificity(made(x, n_documents=6), made(y, n_documents=6), {"c": made(z, n_documents=6)}, config=few)
    second = specificity(
        made(x[:, order] * scale, n_documents=6),
        made(y[:, columns] / scale, n_documents=6),
        {"c": made(z * scale, n_documents=6)},
        config=few,
    )
    for one, two in ((first.recurrence, second.recurrence), (first.margins["c"], second.margins["c"])):
        for name, values in one.arrays().items():
            np.testing.assert_allclose(values[order], two.arrays()[name], atol=1e-5, err_msg=name)


def test_the_smallest_margin_is_the_one_against_the_best_control_and_memory_is_bounded():
    rng = np.random.default_rng(4)
    x, y = sparse(rng, 1000, 5), sparse(rng, 1000, 5)
    controls = {"easy": made(y, n_documents=10), "hard": made(x, n_documents=10)}
    judged = made(x, n_documents=10)
    found = specificity(judged, judged, controls, config=QUICK)
    np.testing.assert_array_equal(found.smallest.value, found.margins["hard"].value)
    tight = specificity(judged, judged, controls, config=SpecificityConfig(n_resamples=200, chunk_bytes=1))
    np.testing.assert_allclose(tight.smallest.low, found.smallest.low, atol=1e-9)


def test_other_tokens_or_a_single_document_are_refused():
    rng = np.random.default_rng(5)
    x = made(sparse(rng, 64, 3), n_documents=4)
    with pytest.raises(InputError, match="same tokens"):
        specificity(x, made(sparse(rng, 72, 3), n_documents=4), {})
    alone = made(sparse(rng, 64, 3), n_documents=1)
    with pytest.raises(InputError, match="two held-out documents"):
        specificity(alone, alone, {})


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
