"""Interventions against a full forward pass with a hook that does nothing else: both routes, now and later."""

import numpy as np
import pytest
import torch

from polyseme.causal.interventions import Interventions, Lifts, intervene
from polyseme.causal.sampling import n_followed
from polyseme.core.site import Site
from polyseme.networks import load_network
from tests.causal.fakes import random_windows
from tests.tiny import CONTEXT, VOCABULARY, tiny_gpt2, tiny_llama, tiny_mamba, tiny_neox

WIDTH = 16
MODELS = {
    "gpt2": (tiny_gpt2, "transformer.h.0", True),
    "neox": (tiny_neox, "gpt_neox.layers.0", True),
    "llama": (tiny_llama, "model.layers.0", True),
    "mamba": (tiny_mamba, "backbone.layers.0", False),
}


def by_hand(module, path, tokens, position, vector, later, q, weights):
    """ΔCE, KL, their sums over later positions, and the expected effect: two passes of the whole window in float64."""

    def hook(_module, _args, output):
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[0, position] -= vector
        return (x, *output[1:]) if isinstance(output, tuple) else x

    inputs = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.no_grad():
        clean = module(inputs).logits[0].double().log_softmax(-1)
        handle = module.get_submodule(path).register_forward_hook(hook)
        edited = module(inputs).logits[0].double().log_softmax(-1)
        handle.remove()
    read = slice(position, position + later + 1)
    target = torch.from_numpy(tokens[position + 1 : position + later + 2].astype(np.int64))[:, None]
    p, change = clean[read].exp(), (clean - edited)[read]
    ce, kl = change.gather(1, target)[:, 0], (p * change).sum(-1)
    centred = change[0] - (weights.double() * change[0]).sum()
    expected = (q.double() * centred).sum(-1) / (weights.double() * centred**2).sum().sqrt()
    return [float(x) for x in (ce[0], kl[0], ce[1:].sum(), kl[1:].sum(), *expected)]


@pytest.mark.parametrize("family", MODELS)
def test_every_route_agrees_with_a_forward_pass_by_hand(family):
    make, path, masks = MODELS[family]
    module = make()
    network = load_network(module)
    assert network.supports_4d_mask == masks
    windows = random_windows(3, CONTEXT, vocabulary=VOCABULARY, n_documents=2)
    generator = torch.Generator().manual_seed(1)
    end = CONTEXT - 2  # the last position that predicts a token of its window
    todo = [
        Interventions(
            0,
            np.array([3, 17, 3, 1, end, end - 2]),
            torch.randn(6, WIDTH, generator=generator),
            np.array([4, 0, 0, 9, 0, 2]),
            np.array([0, 2, 1, 0, 1, 2]),
        ),
        Interventions(
            2, np.array([9, 2]), torch.randn(2, WIDTH, generator=generator), np.array([3, 1]), np.array([1, 1])
        ),
    ]
    q = torch.randn(3, 2, VOCABULARY, generator=generator)
    q = (q - q.mean(-1, keepdim=True)) / q.abs().sum(-1, keepdim=True)  # a difference of two distributions
    weights = torch.rand(VOCABULARY, generator=generator).softmax(-1)
    expected = [
        np.array(
            [
                by_hand(module, path, windows.tokens[one.window], p, v, later, q[row], weights)
                for p, v, later, row in zip(one.position, one.vectors, one.later, one.stands_for, strict=True)
            ]
        )
        for one in todo
    ]
    assert np.abs(expected[0][:, 0]).min() > 1e-3
    assert np.abs(expected[0][[0, 3, 5], 2]).min() > 1e-4  # what changes one token is felt at later ones
    for route in ["ghosts", "rows"] if masks else ["rows"]:
        outcomes = intervene(
            network, windows, [Site(path=path)], todo, route=route, tokens_per_pass=70, lifts=Lifts(q, weights)
        )
        for outcome, truth in zip(outcomes, expected, strict=True):
            for column, name in enumerate(("ce", "kl", "ce_later", "kl_later")):
                np.testing.assert_allclose(getattr(outcome, name), truth[:, column], atol=1e-5, err_msg=name)
            np.testing.assert_allclose(outcome.expected, truth[:, 4:], atol=1e-5)


def test_without_lifts_there_is_no_expected_effect_and_nothing_changes_nothing():
    network = load_network(tiny_gpt2())
    windows = random_windows(2, CONTEXT, vocabulary=VOCABULARY, n_documents=2)
    one = Interventions(0, np.array([5, 9]), torch.zeros(2, WIDTH), np.array([3, 0]))
    for route in ("ghosts", "rows"):
        (found,) = intervene(network, windows, [Site(path="transformer.h.0")], [one], route=route, tokens_per_pass=100)
        assert np.isnan(found.expected).all()
        for name in ("ce", "kl", "ce_later", "kl_later"):
            np.testing.assert_allclose(getattr(found, name), 0, atol=1e-6)


def test_later_positions_end_with_the_document_and_the_window():
    windows = random_windows(4, 12, vocabulary=9, n_documents=3)
    windows.document[1, 7:] = 2
    windows.special[2, 6] = True
    found = n_followed(windows, most=4)
    for window in range(4):
        for t in range(12):
            n = 0
            while n < 4 and t + n + 2 < 12:
                target = t + n + 2
                if windows.special[window, target] or windows.document[window, target] != windows.document[window, t]:
                    break
                n += 1
            assert found[window, t] == n
    assert (n_followed(windows, most=0) == 0).all()
    assert n_followed(windows, most=100).max() == 10
