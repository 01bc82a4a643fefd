"""Causal effects: both routes against a forward pass written by hand, and networks whose effects are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from polyseme.causal import CausalConfig, causal_effects
from polyseme.causal.interventions import Interventions, intervene
from polyseme.causal.sampling import has_target, sample_firings
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks import Prefix, load_network
from tests.causal.fakes import Directions, firings_of, random_firings, random_windows
from tests.tiny import CONTEXT, VOCABULARY, tiny_bert, tiny_gpt2, tiny_llama, tiny_mamba, tiny_neox

WIDTH = 16
EXAMPLE = torch.zeros(1, 2, dtype=torch.int64)
AT_SITE = Binding.at(Site(path="site"))
MODELS = {
    "gpt2": (tiny_gpt2, "transformer.h.0", True),
    "neox": (tiny_neox, "gpt_neox.layers.0", True),
    "llama": (tiny_llama, "model.layers.0", True),
    "mamba": (tiny_mamba, "backbone.layers.0", False),
}


def by_hand(module, path, tokens, position, vector):
    """CE and KL change at one position: two forward passes, and a hook that does nothing else."""

    def hook(_module, _args, output):
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[0, position] -= vector
        return (x, *output[1:]) if isinstance(output, tuple) else x

    inputs = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.no_grad():
        clean = module(inputs).logits[0, position].double().log_softmax(-1)
        handle = module.get_submodule(path).register_forward_hook(hook)
        edited = module(inputs).logits[0, position].double().log_softmax(-1)
        handle.remove()
    target = int(tokens[position + 1])
    return float(clean[target] - edited[target]), float((clean.exp() * (clean - edited)).sum())


@pytest.mark.parametrize("family", MODELS)
def test_every_route_agrees_with_a_forward_pass_by_hand(family):
    make, path, masks = MODELS[family]
    module = make()
    network = load_network(module)
    assert network.supports_4d_mask == masks
    windows = random_windows(3, CONTEXT, vocabulary=VOCABULARY, n_documents=2)
    generator = torch.Generator().manual_seed(1)
    todo = [
        Interventions(0, np.array([3, 17, 3, 1, 30]), torch.randn(5, WIDTH, generator=generator)),
        Interventions(2, np.array([9, 2]), torch.randn(2, WIDTH, generator=generator)),
    ]
    expected = [
        np.array(
            [
                by_hand(module, path, windows.tokens[one.window], p, v)
                for p, v in zip(one.position, one.vectors, strict=True)
            ]
        )
        for one in todo
    ]
    assert np.abs(expected[0][:, 0]).min() > 1e-3
    for route in ["ghosts", "rows"] if masks else ["rows"]:
        outcomes = intervene(network, windows, [Site(path=path)], todo, route=route, tokens_per_pass=70)
        for outcome, truth in zip(outcomes, expected, strict=True):
            np.testing.assert_allclose(outcome.ce, truth[:, 0], atol=1e-5)
            np.testing.assert_allclose(outcome.kl, truth[:, 1], atol=1e-5)


def test_both_routes_and_any_pass_size_give_the_same_effects():
    network = load_network(tiny_gpt2())
    windows = random_windows(6, 20, vocabulary=VOCABULARY, n_documents=4)
    firings = random_firings(windows, 5, density=0.2)
    dictionary = Directions(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0)))
    binding = Binding.at(Site(path="transformer.h.0"))
    ghosts, small, rows = (
        causal_effects(
            network, windows, binding, dictionary, firings, seed=3, config=CausalConfig(n_samples=12, **given)
        )
        for given in ({"route": "ghosts"}, {"route": "ghosts", "tokens_per_pass": 1}, {"route": "rows"})
    )
    for latent in range(5):
        ce, kl = ghosts.at_tokens(latent)
        assert len(ce) == len(kl) == ghosts.n_tokens[latent]
        assert (firings.matrix.toarray()[list(ce), latent] > 0).all()
        assert math.isclose(np.mean([*ce.values()]), ghosts.effect[latent], abs_tol=1e-6)
        assert math.isclose(np.mean([*kl.values()]), ghosts.kl[latent], abs_tol=1e-6)
    for name, value in ghosts.arrays().items():
        np.testing.assert_allclose(value, small.arrays()[name], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(value, rows.arrays()[name], atol=1e-5, err_msg=name)
    assert (np.abs(ghosts.effect) > 1e-3).any()


def test_the_null_is_what_the_config_says():
    network = load_network(tiny_gpt2())
    windows = random_windows(6, 20, vocabulary=VOCABULARY, n_documents=4)
    firings = random_firings(windows, 2, density=0.2)
    dictionary = Directions(torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0)))
    site = Site(path="transformer.h.0")
    found = {
        kind: causal_effects(
            network, windows, Binding.at(site), dictionary, firings, config=CausalConfig(n_samples=12, null=kind)
        )
        for kind in ("isotropic", "covariance", "other_latent")
    }
    plain = found["isotropic"]
    for name in ("effect", "low", "high", "kl", "kl_low", "kl_high", "sample_ce", "sample_kl"):
        for effects in found.values():
            np.testing.assert_allclose(effects.arrays()[name], plain.arrays()[name], atol=1e-5, err_msg=name)
    nulls = np.stack([effects.null_kl for effects in found.values()])
    assert np.isfinite(nulls).all()
    assert (np.abs(nulls[:, None] - nulls[None])[np.triu_indices(3, 1)] > 1e-5).all()
    # Of two latents the other one is known.
    write = dictionary.write_directions()
    for latent in (0, 1):
        rows = plain.sample_row[plain.sample_latent == latent]
        size = firings.matrix.toarray()[rows, latent] * float(write[latent].norm() / write[1 - latent].norm())
        todo = [
            Interventions(
                int(firings.window[row]), firings.position[row : row + 1], float(by) * write[1 - latent : 2 - latent]
            )
            for row, by in zip(rows, size, strict=True)
        ]
        outcomes = intervene(network, windows, [site], todo, route="rows", tokens_per_pass=1000)
        expected = np.mean([outcome.kl[0] for outcome in outcomes])
        assert math.isclose(found["other_latent"].null_kl[latent], expected, abs_tol=1e-6)


@pytest.mark.parametrize("route", ["ghosts", "rows"])
def test_blocks_below_the_site_run_once_and_change_no_effect(route, monkeypatch):
    network = load_network(tiny_gpt2())
    windows = random_windows(6, 20, vocabulary=VOCABULARY, n_documents=4)
    firings = random_firings(windows, 5, density=0.2)
    dictionary = Directions(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0)))
    n_tokens: list[int] = []
    network.module.transformer.h[0].ln_1.register_forward_hook(lambda _m, _a, x: n_tokens.append(x[..., 0].numel()))
    config, site = CausalConfig(n_samples=12, route=route), network.site("blocks.1.mlp_out")
    assert network.width(site) == WIDTH  # measured by a pass of its own
    assert network.predicts_tokens

    def measured():
        n_tokens.clear()
        effects = causal_effects(network, windows, Binding.at(site), dictionary, firings, config=config)
        return effects.arrays(), sum(n_tokens)

    begun, n_begun = measured()
    monkeypatch.setattr(type(network), "prefix", lambda network, *_: Prefix(network.module, {}))
    whole, n_whole = measured()
    assert n_begun == 6 * 20 + 20  # every window once, and once to count the vocabulary
    assert n_whole > 2 * n_begun
    for name, value in whole.items():
        np.testing.assert_allclose(begun[name], value, atol=1e-5, err_msg=name)


class Linear(nn.Module):
    """Site `site` holds a vector for each token; the read-out is linear, so every effect has a closed form."""

    def __init__(self, vectors, readout):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(vectors)
        self.site = nn.Identity()
        self.readout = nn.Linear(*readout.shape[::-1], bias=False)
        self.readout.weight.data = readout

    def forward(self, inputs):
        # Not as a product, which on some processors rounds a row by how many others there are.
        return (self.site(self.embedding(inputs)).unsqueeze(-2) * self.readout.weight).sum(-1)


def toy(module):
    return load_network(module, causal=True, example_inputs=EXAMPLE)


def test_a_linear_network_has_its_analytic_effect_and_a_null_direction_has_none():
    d, vocabulary = 6, 11
    generator = torch.Generator().manual_seed(0)
    readout = torch.randn(vocabulary, d, generator=generator)
    readout[:, -1] = 0  # nothing downstream sees the last coordinate
    vectors = torch.randn(vocabulary, d, generator=generator)
    module = Linear(vectors, readout)
    windows = random_windows(30, 12, vocabulary=vocabulary, n_documents=10)
    window, position = (~windows.special).nonzero()
    activations = np.zeros((len(window), 2), dtype=np.float32)
    chosen = np.random.default_rng(0).random(len(window)) < 0.5
    activations[chosen] = [1.5, 2.0]
    firings = firings_of(windows, activations)
    directions = torch.stack([torch.randn(d, generator=generator), torch.eye(d)[-1]])
    every = CausalConfig(n_samples=10**6)
    effects = causal_effects(
        toy(module),
        windows,
        AT_SITE,
        Directions(directions),
        firings,
        config=every,
    )
    rows = np.flatnonzero(chosen & has_target(firings, windows))
    x = vectors[windows.tokens[window[rows], position[rows]]].double()
    target = torch.from_numpy(windows.tokens[window[rows], position[rows] + 1].astype(np.int64))
    clean = (x @ readout.double().T).log_softmax(-1)
    edited = ((x - 1.5 * directions[0].double()) @ readout.double().T).log_softmax(-1)
    expected = (clean - edited).gather(1, target[:, None]).mean()
    assert math.isclose(effects.effect[0], float(expected), abs_tol=1e-5)
    assert math.isclose(effects.kl[0], float((clean.exp() * (clean - edited)).sum(-1).mean()), abs_tol=1e-5)
    assert effects.low[0] < effects.effect[0] < effects.high[0]
    assert effects.effect[1] == 0
    assert effects.kl[1] < 1e-6
    assert effects.null_kl[1] > 0.05
    assert effects.n_tokens.tolist() == [len(rows)] * 2


def test_a_direction_read_out_beats_its_null_and_a_random_one_does_not():
    d, vocabulary, n = 32, 33, 12
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    # Token k writes direction k; directions below n/2 are read out towards the token k + 1 that follows.
    readout = torch.zeros(vocabulary, d)
    for k in range(n // 2):
        readout[k + 1] += directions[k] * 4
    module = Linear(torch.cat([directions, torch.zeros(1, d)]), readout)
    windows = random_windows(60, 16, vocabulary=n, n_documents=30)
    windows.tokens[:, 1::2] = windows.tokens[:, ::2] + 1
    window, position = (~windows.special).nonzero()
    token = windows.tokens[window, position]
    activations = (token[:, None] == np.arange(n)) & (position % 2 == 0)[:, None]
    effects = causal_effects(
        toy(module), windows, AT_SITE, Directions(directions[:n]), firings_of(windows, activations)
    )
    assert (effects.p[1 : n // 2] < 0.001).all()
    assert (effects.p[n // 2 :] > 0.05).all()
    assert np.isnan(effects.effect[0])  # token 0 never occurs: not measured
    assert effects.n_tokens[0] == 0


def test_sampling_is_even_over_firing_tokens_and_keeps_to_eligible_ones():
    windows = random_windows(40, 16, vocabulary=9, n_documents=8)
    firings = random_firings(windows, 30, density=0.3)
    samples = sample_firings(firings, windows, n_samples=25, seed=1)
    assert has_target(firings, windows)[samples.row].all()
    dense = firings.matrix.toarray()
    np.testing.assert_array_equal(dense[samples.row, samples.latent], samples.value)
    assert len({*zip(samples.latent.tolist(), samples.row.tolist(), strict=True)}) == len(samples)
    eligible = has_target(firings, windows)
    for latent in range(30):
        mine = samples.row[samples.latent == latent]
        assert len(mine) == 25
        all_rows = np.flatnonzero((dense[:, latent] > 0) & eligible)
        for document in range(8):
            share = 25 * np.mean(firings.document[all_rows] == document)
            assert abs(np.sum(firings.document[mine] == document) - share) < 1 + 1e-9


def test_bad_input_is_refused_before_any_work():
    windows = random_windows(4, 8, vocabulary=9, n_documents=2)
    firings = random_firings(windows, 3, density=0.5)
    embedding = load_network(nn.Embedding(9, 4), example_inputs=EXAMPLE)
    for network, why in ((load_network(tiny_bert()), "sees later tokens"), (embedding, "not logits")):
        with pytest.raises(InputError, match=why):
            causal_effects(network, windows, AT_SITE, Directions(torch.eye(4)[:3]), firings)
    plain = toy(Linear(torch.eye(9)[:, :4], torch.eye(9)[:, :4]))
    with pytest.raises(InputError, match="mask"):
        causal_effects(
            plain,
            windows,
            AT_SITE,
            Directions(torch.eye(4)[:3]),
            firings,
            config=CausalConfig(route="ghosts"),
        )
    with pytest.raises(InputError, match="width 5"):
        causal_effects(plain, windows, AT_SITE, Directions(torch.eye(5)[:3]), firings)
