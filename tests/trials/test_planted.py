"""The variables of planted networks are what their kind says."""

from typing import get_args

import numpy as np
import pytest
import torch

from polyseme.networks import load_network
from polyseme.nulls import NULLS, make_null
from polyseme.trials.planted import BOS, FARTHEST, NEAREST, RECIPES, PlantedNetwork, Planting, Variable

PLANTING = Planting(
    feature=6, token=4, bigram=4, rare=4, unread=4, bystander=4, built_in=4, built_in_unread=3, d=48, vocabulary=64
)
KINDS = np.array(PLANTING.kinds)


@pytest.fixture(scope="module")
def network():
    return PlantedNetwork(PLANTING, seed=3)


@pytest.fixture(scope="module")
def text(network):
    windows = network.sample(n_documents=60, windows_each=4, context=48, topic=0.5, seed=5)
    return torch.from_numpy(windows.tokens.astype(np.int64))


def explained(z, key):
    """Share of each variable's variance between the values of a key that is given for every token."""
    _, group = np.unique(key, return_inverse=True)
    counts = np.bincount(group)
    means = np.stack([np.bincount(group, column) / counts for column in z.T], axis=1)
    return ((means[group] - z.mean(0)) ** 2).mean(0) / z.var(0)


def test_every_kind_has_a_recipe_and_a_number():
    assert set(get_args(Variable)) == set(RECIPES) == {name for name in RECIPES if name in Planting.model_fields}
    assert [kind for kind in RECIPES if kind in KINDS] == list(RECIPES)


def test_tokens_explain_token_variables_pairs_explain_bigrams_and_neither_explains_what_needs_distant_context(
    network, text
):
    z = network.variables(text)[:, 1:].reshape(-1, len(KINDS)).numpy().astype(np.float64)
    token, previous = text[:, 1:].reshape(-1).numpy(), text[:, :-1].reshape(-1).numpy()
    assert ((z > 0).mean(0) > 0.005).all()
    assert ((z > 0).mean(0) < 0.15).all()
    by_token, by_pair = explained(z, token), explained(z, token * PLANTING.vocabulary + previous)
    of_token, of_pair = np.isin(KINDS, ["token"]), np.isin(KINDS, ["bigram", "rare"])
    assert (by_token[of_token] > 0.999).all()
    assert (by_token[of_pair] < 0.7).all()
    assert (by_pair[of_token | of_pair] > 0.999).all()
    distant = ~of_token & ~of_pair
    assert distant.sum() == 21
    assert (by_pair[distant] < 0.8).all()  # a pair that was seen once explains itself


def test_distant_context_is_neither_the_token_nor_the_one_before(network, text):
    """Changing one token far back changes only what needs distant context; changing the last, no condition of it."""
    rng = np.random.default_rng(0)
    at = FARTHEST + 1
    rows = text[:, : at + 1].clone()
    distant = np.array([RECIPES[kind].earlier > 0 for kind in PLANTING.kinds])
    before = network.variables(rows)[:, at]
    changed = rows.clone()
    changed[:, at - FARTHEST : at - NEAREST + 1] = torch.from_numpy(
        rng.integers(1, PLANTING.vocabulary, (len(rows), FARTHEST - NEAREST + 1))
    )
    moved = (network.variables(changed)[:, at] != before).any(0).numpy()
    assert (moved == distant).all()
    changed = rows.clone()
    changed[:, at - 1] = torch.from_numpy(rng.integers(1, PLANTING.vocabulary, len(rows)))
    moved = (network.variables(changed)[:, at] != before).any(0).numpy()
    assert (moved == np.isin(KINDS, ["bigram", "rare"])).all()


def test_only_what_is_read_moves_the_prediction_and_bystanders_overlap_it(network, text):
    tokens = text[:40]
    z = network.variables(tokens)
    clean = network(tokens).log_softmax(-1)

    def moved(i):
        handle = network.site.register_forward_hook(lambda _m, _a, x: x - z[..., i, None] * network.directions[i])
        change = (network(tokens).log_softmax(-1) - clean).abs()
        handle.remove()
        return float(change[z[..., i] > 0].max())

    for i, kind in enumerate(PLANTING.kinds):
        if RECIPES[kind].read:
            assert moved(i) > 0.3
        elif RECIPES[kind].hidden:
            assert moved(i) < 1e-4
    cosine = (network.directions @ network.readers.T).abs().max(1).values.numpy()
    assert (cosine[KINDS == "bystander"] > 0.1).all()
    assert (cosine[KINDS == "unread"] < 1e-5).all()


@pytest.mark.parametrize("kind", [kind for kind, null in NULLS.items() if null.targets == "weights"])
def test_null_networks_compute_what_is_built_in_and_nothing_else(network, text, kind):
    loaded = load_network(network, causal=True, example_inputs=torch.zeros(1, 2, dtype=torch.int64))
    null = make_null(kind, seed=1).network(loaded).module
    assert isinstance(null, PlantedNetwork)
    one, other = (net.variables(text)[:, 1:].reshape(-1, len(KINDS)).numpy() for net in (network, null))
    built_in = np.isin(KINDS, ["built_in", "built_in_unread"])
    assert (one[:, built_in] == other[:, built_in]).all()
    assert torch.equal(null.directions[torch.from_numpy(built_in)], network.directions[torch.from_numpy(built_in)])
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(one[:, ~built_in].T, other[:, ~built_in].T, strict=True) if b.any()]
    assert r
    assert max(r) < 0.7


def test_text_is_sampled_from_what_is_predicted_when_undisturbed(network):
    windows = network.sample(n_documents=20, windows_each=4, context=32, topic=0.0, seed=0)
    tokens = torch.from_numpy(windows.tokens.astype(np.int64))
    logp = network.undisturbed(tokens)[:, :-1].log_softmax(-1)
    ce = -logp.gather(-1, tokens[:, 1:, None])[..., 0]
    entropy = -(logp.exp() * logp).sum(-1)
    gap = ce - entropy
    assert abs(gap.mean()) < 4 * gap.std() / gap.numel() ** 0.5
    assert windows.special[:, 0].all()
    assert not (windows.tokens[:, 1:] == BOS).any()


def test_what_is_not_read_disturbs_the_network_and_not_the_text(network, text):
    """Text says nothing of where bystanders are written: without them the network predicts it better."""
    tokens = text[:200]
    bystanders = [i for i, kind in enumerate(PLANTING.kinds) if kind == "bystander"]
    disturbed = network.variables(tokens)[..., bystanders] @ network.directions[bystanders]

    def loss(predicted):
        logp = predicted[:, :-1].log_softmax(-1)
        return -float(logp.gather(-1, tokens[:, 1:, None]).mean())

    handle = network.site.register_forward_hook(lambda _m, _a, x: x - disturbed)
    without = loss(network(tokens))
    handle.remove()
    assert loss(network.undisturbed(tokens)) < without < loss(network(tokens)) - 0.01


def test_a_network_is_a_pure_function_of_its_seed(text):
    one, same, other = (PlantedNetwork(PLANTING, seed=seed)(text[:4]) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
