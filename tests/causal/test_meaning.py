"""What latents stand for, against counting token by token."""

import numpy as np
import pytest

from polyseme.causal import Meanings
from polyseme.causal.sampling import has_target
from polyseme.core.errors import InputError
from tests.causal.fakes import firings_of, random_firings, random_windows

VOCABULARY = 9
WINDOWS = random_windows(40, 16, vocabulary=VOCABULARY, n_documents=8)


def counted(firings, latent):
    """What follows a latent's firings by activation, less what follows any and the same tokens, token after token."""
    activation, eligible = firings.matrix.toarray()[:, latent], has_target(firings, WINDOWS)
    pairs = np.zeros((VOCABULARY, VOCABULARY))
    own, at = np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    for row in np.flatnonzero(eligible):
        token, following = WINDOWS.tokens[firings.window[row], firings.position[row] + np.arange(2)]
        pairs[token, following] += 1
        own[following] += activation[row]
        at[token] += activation[row]
    everywhere = pairs.sum(axis=0) / pairs.sum()
    shares = pairs / np.maximum(pairs.sum(axis=1, keepdims=True), 1)
    return own / own.sum() - np.stack([everywhere, at / at.sum() @ shares])


def test_meanings_are_what_counting_gives_whatever_latents_are_asked_for():
    firings = random_firings(WINDOWS, 12, density=0.2)
    meanings = Meanings.learn(firings, WINDOWS, VOCABULARY)
    every = meanings.of(np.arange(12))
    assert (meanings.n_latents, meanings.vocabulary) == (12, VOCABULARY)
    for latent in range(12):
        np.testing.assert_allclose(every[latent], counted(firings, latent), atol=1e-6)
    np.testing.assert_allclose(every.sum(axis=2), 0, atol=1e-6)
    np.testing.assert_array_equal(meanings.of([7, 2]), every[[7, 2]])


def test_in_units_of_the_lift_the_product_with_any_change_is_their_correlation():
    meanings = Meanings.learn(random_firings(WINDOWS, 5, density=0.2), WINDOWS, VOCABULARY)
    q, p = meanings.of(np.arange(5)), meanings.overall.astype(np.float64)
    units, change = meanings.in_units_of_lift(np.arange(5)), np.random.default_rng(0).standard_normal(VOCABULARY)
    centred = change - p @ change
    for latent in range(5):
        for reference in range(2):
            lift = np.divide(q[latent, reference], p, out=np.zeros_like(p), where=p > 0)
            r = (p * lift * centred).sum() / np.sqrt((p * lift**2).sum() * (p * centred**2).sum())
            assert np.isclose(units[latent, reference] @ centred / np.sqrt(p @ centred**2), r, atol=1e-5)


def test_weak_firings_elsewhere_hardly_change_what_a_latent_stands_for():
    window, position = (~WINDOWS.special).nonzero()
    token = WINDOWS.tokens[window, position]
    strong = (token == 3).astype(float)
    activations = np.stack([strong, strong + 0.01 * (token == 5), 100 * strong], axis=1)
    found = Meanings.learn(firings_of(WINDOWS, activations), WINDOWS, VOCABULARY).of(np.arange(3))
    assert 0 < np.abs(found[1] - found[0]).max() < 0.03
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)


def test_a_latent_that_fires_at_all_of_its_tokens_says_nothing_beyond_them_and_one_that_never_fires_is_unknown():
    window, position = (~WINDOWS.special).nonzero()
    token = WINDOWS.tokens[window, position]
    fires = [token == 3, np.isin(token, [1, 5]), np.zeros(len(token)), token % 2 == position % 2]
    activations = np.stack(fires, axis=1)
    meanings = Meanings.learn(firings_of(WINDOWS, activations), WINDOWS, VOCABULARY)
    found = meanings.of(np.arange(4))
    np.testing.assert_allclose(found[:2, 1], 0, atol=1e-7)
    np.testing.assert_allclose(meanings.in_units_of_lift([0, 1])[:, 1], 0, atol=1e-3)
    assert (np.abs(found[:2, 0]).max(axis=1) > 0.01).all()
    assert np.isnan(found[2]).all()
    assert np.abs(found[3]).max() > 0.01


def test_tokens_that_the_network_does_not_predict_are_refused():
    with pytest.raises(InputError, match="predicts 4 tokens"):
        Meanings.learn(random_firings(WINDOWS, 2, density=0.2), WINDOWS, 4)
