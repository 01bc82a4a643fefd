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
    """P(next | fires) − P(next | the same current tokens), one token after the other."""
    fires, eligible = firings.matrix.toarray()[:, latent] > 0, has_target(firings, WINDOWS)
    pairs = np.zeros((VOCABULARY, VOCABULARY))
    own, at = np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    for row in np.flatnonzero(eligible):
        token, following = WINDOWS.tokens[firings.window[row], firings.position[row] + np.arange(2)]
        pairs[token, following] += 1
        if fires[row]:
            own[following] += 1
            at[token] += 1
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


def test_a_latent_that_fires_at_all_of_its_tokens_says_nothing_beyond_them_and_one_that_never_fires_is_unknown():
    window, position = (~WINDOWS.special).nonzero()
    token = WINDOWS.tokens[window, position]
    fires = [token == 3, np.isin(token, [1, 5]), np.zeros(len(token)), token % 2 == position % 2]
    activations = np.stack(fires, axis=1)
    meanings = Meanings.learn(firings_of(WINDOWS, activations), WINDOWS, VOCABULARY)
    found = meanings.of(np.arange(4))
    np.testing.assert_allclose(found[:2, 1], 0, atol=1e-7)
    assert (np.abs(found[:2, 0]).max(axis=1) > 0.01).all()
    assert np.isnan(found[2]).all()
    assert np.abs(found[3]).max() > 0.01


def test_tokens_that_the_network_does_not_predict_are_refused():
    with pytest.raises(InputError, match="predicts 4 tokens"):
        Meanings.learn(random_firings(WINDOWS, 2, density=0.2), WINDOWS, 4)
