"""Causal effects of dictionaries: networks whose effects are known, nulls that must not stand out, and invariances."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given as for_any
from hypothesis import strategies as st
from scipy.stats import binom
from torch import nn

from polyseme.activations.massive import Ordinary
from polyseme.causal import SIZES, CausalConfig, CausalEffects, array_names, causal_effects
from polyseme.causal import config as causal_config
from polyseme.causal.effect import _vectors
from polyseme.causal.interventions import Interventions, Lifts, intervene
from polyseme.causal.sampling import has_target, inclusion_chances, n_followed, sample_firings, spread_out
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks import Prefix, load_network
from polyseme.nulls import null_of_latents
from tests.causal.fakes import Directions, firings_of, meanings_of, random_firings, random_windows
from tests.tiny import VOCABULARY, tiny_bert, tiny_gpt2

WIDTH = 16
EXAMPLE = torch.zeros(1, 2, dtype=torch.int64)
AT_SITE = Binding.at(Site(path="site"))
AT_BLOCK = Binding.at(Site(path="transformer.h.0"))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def small():
    """A random network, a text, and five latents that fire at random: (network, windows, dictionary, firings, q)."""
    windows = random_windows(6, 20, vocabulary=VOCABULARY, n_documents=4)
    firings = random_firings(windows, 5, density=0.2)
    return (
        load_network(tiny_gpt2()),
        windows,
        Directions(normal(5, WIDTH)),
        firings,
        meanings_of(firings, windows, VOCABULARY),
    )


def measured(small, *, seed=3, **given):
    network, windows, dictionary, firings, meanings = small
    config = CausalConfig(**{"n_samples": 12, "n_directions": 2, "horizon": 3, "n_later": 5, **given})
    return causal_effects(network, windows, AT_BLOCK, dictionary, firings, meanings, config=config, seed=seed)


def assert_same(one, other, atol=1e-5):
    for name, value in one.arrays().items():
        np.testing.assert_allclose(value, other.arrays()[name], atol=atol, err_msg=name)


def test_routes_passes_and_chunks_of_latents_change_nothing(small, monkeypatch):
    whole = measured(small)
    assert np.isfinite(whole.expected.value).all()
    assert (np.abs(whole.sizes["kl_later"].value) > 1e-4).all()
    for given in ({"tokens_per_pass": 1}, {"max_ghosts": 3}, {"route": "rows"}, {"route": "rows", "max_ghosts": 5}):
        assert_same(whole, measured(small, **given))
    monkeypatch.setattr(causal_config, "CHUNK_BYTES", 1)
    assert CausalConfig().latents_at_once(VOCABULARY, WIDTH) == 1
    assert_same(whole, measured(small))


def test_what_was_found_is_saved_and_read_back(small):
    found = measured(small)
    assert sorted(found.arrays()) == sorted(array_names(CausalConfig().nulls))
    assert_same(CausalEffects.of(found.arrays(), CausalConfig().nulls), found, atol=0)


def test_means_over_samples_are_the_figures_of_latents(small):
    firings, found = small[3], measured(small)
    for latent in range(5):
        loss, kl = found.at_tokens(latent)
        assert len(loss) == len(kl) == found.n_tokens[latent]
        assert (firings.matrix.toarray()[list(loss), latent] > 0).all()
        assert math.isclose(np.mean([*loss.values()]), found.sizes["loss"].value[latent], abs_tol=1e-6)
        assert math.isclose(np.mean([*kl.values()]), found.sizes["kl"].value[latent], abs_tol=1e-6)
        mine = found.sample_latent == latent
        assert math.isclose(found.sample_expected[mine].mean(), found.expected.value[latent], abs_tol=1e-6)
    assert found.n_later.tolist() == [5] * 5


def test_every_figure_is_that_of_its_interventions_one_by_one(small):
    """Own and null values of one latent, from plain interventions with the directions that the nulls name."""
    network, windows, dictionary, firings, meanings = small
    found, latent = measured(small), 2
    samples = sample_firings(firings, windows, n_samples=12, seed=0)
    mine = found.sample_latent == latent
    rows = found.sample_row[mine]
    chosen = dataclasses.replace(
        samples, latent=found.sample_latent, row=found.sample_row, value=np.ones(len(found.sample_row))
    )
    with_later = spread_out(chosen, 5)[mine]
    followed = n_followed(windows, most=3)[firings.window[rows], firings.position[rows]]
    values = torch.from_numpy(firings.matrix.toarray()[rows, latent])
    own = dictionary.directions[latent]
    lifts = Lifts(torch.from_numpy(meanings.in_units_of_lift([latent])), torch.from_numpy(meanings.overall))

    def one_by_one(direction):
        each = [
            intervene(
                network,
                windows,
                list(AT_BLOCK.writes),
                [
                    Interventions(
                        int(firings.window[row]),
                        firings.position[[row]],
                        value * direction[None],
                        followed[[i]],
                        np.array([0]),
                    )
                ],
                route="rows",
                tokens_per_pass=1000,
                lifts=lifts,
            )[0]
            for i, (row, value) in enumerate(zip(rows, values, strict=True))
        ]
        every = {name: np.array([getattr(x, name)[0] for x in each]) for name in dataclasses.asdict(each[0])}
        later = {name: every[name][with_later].mean() for name in ("ce_later", "kl_later")}
        return {name: array.mean(axis=0) for name, array in every.items()} | later

    names = {"kl": "kl", "loss": "ce", "kl_later": "kl_later", "loss_later": "ce_later"}
    expected = one_by_one(own)
    assert math.isclose(found.expected.value[latent], expected["expected"][0], abs_tol=1e-5)
    assert math.isclose(found.given_token.value[latent], expected["expected"][1], abs_tol=1e-5)
    for name in SIZES:
        assert math.isclose(found.sizes[name].value[latent], expected[names[name]], abs_tol=1e-5)
    null = null_of_latents("isotropic", 3)
    each = [one_by_one(null.directions(np.array([latent]), written_by(dictionary), k)[0] * own.norm()) for k in (0, 1)]
    for k in (0, 1):
        assert math.isclose(found.expected.null["isotropic"][k, latent], each[k]["expected"][0], abs_tol=1e-5)
    for name in SIZES:
        used = each[:1] if name.endswith("later") else each
        mean = np.mean([x[names[name]] for x in used])
        assert math.isclose(found.sizes[name].null["isotropic"][latent], mean, abs_tol=1e-5)


def written_by(dictionary):
    from polyseme.nulls import Written

    n = dictionary.n_latents
    return Written(dictionary.directions, np.ones(n), np.ones(n), torch.zeros(0, WIDTH))


def test_latents_of_few_documents_are_not_measured_and_change_no_others(small):
    network, windows, dictionary, _, _ = small
    window, _ = (~windows.special).nonzero()
    firings = random_firings(windows, 5, density=0.2)
    dense = firings.matrix.toarray()
    dense[windows.document[window, 1] > 0, 4] = 0  # latent 4 in one document alone
    firings = firings_of(windows, dense)
    meanings = meanings_of(firings, windows, VOCABULARY)
    config = CausalConfig(n_samples=6, nulls=("isotropic",), horizon=0)
    every, some = (
        causal_effects(network, windows, AT_BLOCK, dictionary, firings, meanings, config=config, min_documents=least)
        for least in (1, 2)
    )
    assert firings.document_counts.tolist()[4] == 1
    assert some.n_tokens[4] == 0
    assert np.isnan(some.expected.value[4])
    np.testing.assert_allclose(some.expected.value[:4], every.expected.value[:4], atol=1e-5)
    np.testing.assert_allclose(
        some.expected.null["isotropic"][:, :4], every.expected.null["isotropic"][:, :4], atol=1e-5
    )
    assert np.isnan(some.used()["isotropic"].p()[4])
    assert np.isnan(every.sizes["kl_later"].value).all()


def test_the_scale_that_a_dictionary_gives_its_latents_changes_nothing(small):
    network, windows, dictionary, firings, meanings = small
    by = np.array([0.1, 3.0, 1.0, 20.0, 0.5], dtype=np.float32)
    scaled = firings_of(windows, firings.matrix.toarray() * by)
    directions = Directions(dictionary.directions / torch.from_numpy(by)[:, None])
    assert_same(measured((network, windows, directions, scaled, meanings)), measured(small))


@pytest.mark.parametrize("route", ["ghosts", "rows"])
def test_blocks_below_the_site_run_once_and_change_no_effect(route, monkeypatch):
    network = load_network(tiny_gpt2())
    windows = random_windows(6, 20, vocabulary=VOCABULARY, n_documents=4)
    firings = random_firings(windows, 5, density=0.2)
    dictionary, meanings = Directions(normal(5, WIDTH)), meanings_of(firings, windows, VOCABULARY)
    n_tokens: list[int] = []
    network.module.transformer.h[0].ln_1.register_forward_hook(lambda _m, _a, x: n_tokens.append(x[..., 0].numel()))
    config = CausalConfig(n_samples=6, n_directions=2, nulls=("isotropic",), horizon=2, n_later=2, route=route)
    site = network.site("blocks.1.mlp_out")
    assert network.width(site) == WIDTH  # measured by a pass of its own
    assert network.predicts_tokens

    def run():
        n_tokens.clear()
        effects = causal_effects(network, windows, Binding.at(site), dictionary, firings, meanings, config=config)
        return effects, sum(n_tokens)

    begun, n_begun = run()
    monkeypatch.setattr(type(network), "prefix", lambda network, *_: Prefix(network.module, {}))
    whole, n_whole = run()
    assert n_begun <= 2 * 6 * 20 + 20  # every window once or, with rows, twice, and once to count the vocabulary
    assert n_whole > 2 * n_begun
    assert_same(begun, whole)


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


class Previous(nn.Module):
    """Site `site` holds what the previous token writes; the read-out is linear, so every effect has a closed form."""

    def __init__(self, written, readout):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(written)
        self.site = nn.Identity()
        self.readout = nn.Parameter(readout)

    def forward(self, inputs):
        x = self.embedding(inputs)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return self.site(before) @ self.readout.T


def toy(module):
    return load_network(module, causal=True, example_inputs=EXAMPLE)


def speaking(n=24, d=32, n_windows=300, context=50):
    """A network whose token i writes direction i, to be read one token later, and a text that it predicts exactly."""
    directions = torch.linalg.qr(normal(d, d, seed=1)).Q[:n]
    readout = 0.7 * normal(n, d, seed=2)
    logits = (directions @ readout.T).double().softmax(-1).numpy()
    windows, rng = random_windows(n_windows, context, vocabulary=n, n_documents=40), np.random.default_rng(0)
    cumulative = logits.cumsum(axis=1)
    for t in range(1, context - 1):
        drawn = rng.random((n_windows, 1)) > cumulative[windows.tokens[:, t - 1]]
        windows.tokens[:, t + 1] = np.minimum(drawn.sum(axis=1), n - 1)
    window, position = (~windows.special).nonzero()
    before = windows.tokens[window, position - 1]
    return toy(Previous(directions, readout)), windows, directions, firings_of(windows, before[:, None] == np.arange(n))


def test_latents_that_say_what_they_stand_for_are_near_the_largest_effect_and_others_directions_are_not():
    network, windows, directions, firings = speaking()
    n = len(directions)
    meanings = meanings_of(firings, windows, n)
    config = CausalConfig(n_samples=12, n_directions=6, horizon=0)
    own = causal_effects(network, windows, AT_SITE, Directions(directions), firings, meanings, config=config)
    # Removing token i's direction from any context changes log p by readout · dᵢ and a constant.
    written = (directions @ network.module.readout.detach().T).double().numpy()
    lift = meanings.of(np.arange(n))[:, 0] / meanings.overall
    for i in range(n):
        covariance = np.cov(written[i], lift[i], aweights=meanings.overall, bias=True)
        r = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert math.isclose(own.expected.value[i], r, abs_tol=1e-5)
    assert own.expected.value.min() > 0.6
    assert all((contrast.p() < 0.02).all() for contrast in own.used().values())
    other = Directions(torch.linalg.qr(normal(directions.shape[1], directions.shape[1], seed=7)).Q[:n])
    replaced = causal_effects(network, windows, AT_SITE, other, firings, meanings, config=config)
    assert abs(np.mean(replaced.expected.value)) < 0.15
    assert all((contrast.p() < 0.01).sum() <= 1 for contrast in replaced.used().values())


def test_latents_of_a_random_network_do_not_stand_out_from_fixed_directions():
    """A random direction is one more draw of its null, whatever the firings: 5% of p-values are below 0.05."""
    network, n = load_network(tiny_gpt2()), 160
    windows = random_windows(40, 24, vocabulary=VOCABULARY, n_documents=30)
    firings = random_firings(windows, n, density=0.05)
    # Latents fire at preferred tokens, so that what they stand for is far from nothing.
    meanings = meanings_of(firings, windows, VOCABULARY)
    config = CausalConfig(n_samples=6, n_directions=3, horizon=0)
    found = causal_effects(network, windows, AT_BLOCK, Directions(normal(n, WIDTH)), firings, meanings, config=config)
    used = found.used()
    for null in ("isotropic", "other_latent", "alike_latent"):
        count = int((used[null].p() < 0.05).sum())
        assert binom.cdf(count, n, 0.05) > 1e-3
        assert binom.sf(count - 1, n, 0.05) > 1e-3
    hardest = np.max([contrast.p() for contrast in used.values()], axis=0)
    assert binom.sf(int((hardest < 0.05).sum()) - 1, n, 0.05) > 1e-3


def test_a_linear_network_has_its_analytic_effect_and_an_unread_direction_has_none():
    d, vocabulary = 6, 11
    readout, vectors = normal(vocabulary, d), normal(vocabulary, d, seed=1)
    readout[:, -1] = 0  # nothing downstream sees the last coordinate
    windows = random_windows(30, 12, vocabulary=vocabulary, n_documents=10)
    window, position = (~windows.special).nonzero()
    activations = np.zeros((len(window), 2), dtype=np.float32)
    chosen = np.random.default_rng(0).random(len(window)) < 0.5
    activations[chosen] = [1.5, 2.0]
    firings = firings_of(windows, activations)
    meanings = meanings_of(firings, windows, vocabulary)
    directions = torch.stack([normal(d, seed=2), torch.eye(d)[-1]])
    effects = causal_effects(
        toy(Linear(vectors, readout)),
        windows,
        AT_SITE,
        Directions(directions),
        firings,
        meanings,
        config=CausalConfig(n_samples=10**6, n_later=10**6),
    )
    rows = np.flatnonzero(chosen & has_target(firings, windows))
    x = vectors[windows.tokens[window[rows], position[rows]]].double()
    target = torch.from_numpy(windows.tokens[window[rows], position[rows] + 1].astype(np.int64))
    clean = (x @ readout.double().T).log_softmax(-1)
    change = clean - ((x - 1.5 * directions[0].double()) @ readout.double().T).log_softmax(-1)
    loss, kl = effects.sizes["loss"], effects.sizes["kl"]
    assert math.isclose(loss.value[0], float(change.gather(1, target[:, None]).mean()), abs_tol=1e-5)
    each = (clean.exp() * change).sum(-1)
    assert math.isclose(kl.value[0], float(each.mean()), abs_tol=1e-5)
    weights = torch.from_numpy(meanings.overall).double()
    lift = (torch.from_numpy(meanings.of([0]))[0, 0].double() / weights).nan_to_num()
    centred = change - (weights * change).sum(-1, keepdim=True)
    covariance = (weights * centred * lift).sum(-1)
    r = covariance / ((weights * centred**2).sum(-1) * (weights * lift**2).sum()).sqrt()
    assert math.isclose(effects.expected.value[0], float(r.mean()), abs_tol=1e-5)
    assert kl.low[0] < kl.value[0] < kl.high[0]
    assert loss.value[1] == 0
    assert kl.value[1] < 1e-6
    assert abs(effects.expected.value[1]) < 1e-6
    assert kl.null["isotropic"][1] > 0.05
    assert effects.n_tokens.tolist() == effects.n_later.tolist() == [len(rows)] * 2
    for name in ("kl_later", "loss_later"):  # a token is changed that no later one sees
        np.testing.assert_allclose(effects.sizes[name].value, 0, atol=1e-6)
    # Each latent has one other: no variance, and no answer.
    assert effects.expected.null["other_latent"].shape == (1, 2)
    assert np.isnan(effects.used()["other_latent"].p()).all()
    assert np.isfinite(effects.used()["isotropic"].p()).all()


def test_a_dictionary_with_one_latent_that_fires_is_measured_without_others(small):
    network, windows, _, firings, _ = small
    alone = firings_of(windows, firings.matrix.toarray() * [1, 0, 0, 0, 0])
    meanings = meanings_of(alone, windows, VOCABULARY)
    found = causal_effects(network, windows, AT_BLOCK, Directions(normal(5, WIDTH)), alone, meanings)
    assert np.isfinite(found.expected.value[0])
    assert np.isnan(found.expected.value[1:]).all()
    assert found.expected.null["alike_latent"].shape == (0, 5)
    assert np.isnan(found.used()["alike_latent"].p()).all()
    assert np.isnan(found.sizes["kl"].null["other_latent"]).all()
    assert np.isfinite(found.sizes["kl"].null["covariance"][0])


def test_sampling_is_by_activation_spread_over_documents_and_keeps_to_eligible_tokens():
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
        chances = inclusion_chances(dense[all_rows, latent], 25)
        for document in range(8):
            share = chances[firings.document[all_rows] == document].sum()
            assert abs(np.sum(firings.document[mine] == document) - share) < 1 + 1e-9


@for_any(
    st.lists(st.floats(2**-10, 1024, width=32), min_size=1, max_size=60),
    st.integers(0, 40),
    st.sampled_from([0.25, 1.0, 4.0]),
)
def test_chances_are_proportional_to_activation_as_far_as_a_firing_can_be_drawn_once(activations, n, unit):
    f = np.array(activations, dtype=np.float32)
    chances = inclusion_chances(f, n)
    assert math.isclose(chances.sum(), min(n, len(f)), rel_tol=1e-9)
    assert ((chances > 0) & (chances <= 1)).all() or n == 0
    certain, ratio = chances == 1, chances / f.astype(np.float64)
    if n and not certain.all():
        np.testing.assert_allclose(ratio[~certain], ratio.max(), rtol=1e-9)
    np.testing.assert_array_equal(inclusion_chances(f * unit, n), chances)


def test_without_samples_nothing_is_said_of_any_latent(small):
    found = measured(small, n_samples=0)
    assert found.n_tokens.tolist() == found.n_later.tolist() == found.n_documents.tolist() == [0] * 5
    assert len(found.sample_row) == 0
    for values in (found.expected.value, found.given_token.value, *(size.value for size in found.sizes.values())):
        assert np.isnan(values).all()
    for nulls in (found.expected.null, *(size.null for size in found.sizes.values())):
        assert all(np.isnan(null).all() for null in nulls.values())
    assert all(np.isnan(compared.p()).all() for compared in found.used().values())


def test_over_many_draws_every_firing_is_taken_as_often_as_its_chance():
    windows = random_windows(12, 16, vocabulary=9, n_documents=4)
    firings = random_firings(windows, 1, density=0.3)
    taken = np.zeros(firings.n_tokens)
    for seed in range(2_000):
        taken[sample_firings(firings, windows, n_samples=6, seed=seed).row] += 1
    rows = np.flatnonzero(has_target(firings, windows) & (firings.matrix.toarray()[:, 0] > 0))
    chances = inclusion_chances(firings.matrix.toarray()[rows, 0], 6)
    assert taken.sum() == taken[rows].sum() == 12_000
    error = np.sqrt(2_000 * chances * (1 - chances))
    assert (np.abs(taken[rows] - 2_000 * chances) < 4.5 * error + 1e-6).all()


def test_some_latents_alone_are_sampled_as_among_all():
    windows = random_windows(40, 16, vocabulary=9, n_documents=8)
    firings = random_firings(windows, 6, density=0.3)
    every = sample_firings(firings, windows, n_samples=10, seed=1)
    some = sample_firings(firings, windows, n_samples=10, seed=1, wanted=np.arange(6) % 2 == 0)
    kept = every.latent % 2 == 0
    for name in ("latent", "row", "value"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[kept])
    for n in (0, 3, 10, 50):
        chosen = spread_out(every, n)
        assert np.bincount(every.latent[chosen], minlength=6).tolist() == [min(n, 10)] * 6
    assert np.diff(np.flatnonzero(spread_out(every, 3)[:10])).min() >= 3


def test_null_directions_have_the_covariance_of_ordinary_vectors():
    d, vocabulary = 6, 40
    vectors = normal(vocabulary, d)
    vectors[7] = 1000 * torch.eye(d)[0]
    windows = random_windows(30, 12, vocabulary=vocabulary, n_documents=10)
    network, (place,) = toy(Linear(vectors, normal(vocabulary, d))), AT_SITE.writes
    every = _vectors(network, windows, [place], {})
    kept = _vectors(network, windows, [place], {place: Ordinary(torch.zeros(d), 50.0)})
    assert len(every) == windows.n_tokens
    assert len(kept) == windows.n_tokens - int((windows.tokens[~windows.special] == 7).sum()) < len(every)
    assert kept.norm(dim=1).max() < 50 < every.norm(dim=1).max()


def test_bad_input_is_refused_before_any_work():
    windows = random_windows(4, 8, vocabulary=9, n_documents=2)
    firings = random_firings(windows, 3, density=0.5)
    meanings = meanings_of(firings, windows, 9)
    embedding = load_network(nn.Embedding(9, 4), example_inputs=EXAMPLE)
    for network, why in ((load_network(tiny_bert()), "sees later tokens"), (embedding, "not logits")):
        with pytest.raises(InputError, match=why):
            causal_effects(network, windows, AT_SITE, Directions(torch.eye(4)[:3]), firings, meanings)
    plain = toy(Linear(torch.eye(9)[:, :4], torch.eye(9)[:, :4]))
    with pytest.raises(InputError, match="mask"):
        causal_effects(
            plain,
            windows,
            AT_SITE,
            Directions(torch.eye(4)[:3]),
            firings,
            meanings,
            config=CausalConfig(route="ghosts"),
        )
    with pytest.raises(InputError, match="width 5"):
        causal_effects(plain, windows, AT_SITE, Directions(torch.eye(5)[:3]), firings, meanings)
    for wrong in (meanings_of(random_firings(windows, 4, density=0.5), windows, 9), meanings_of(firings, windows, 12)):
        with pytest.raises(InputError, match="the meanings are of"):
            causal_effects(plain, windows, AT_SITE, Directions(torch.eye(4)[:3]), firings, wrong)
    with pytest.raises(ValueError, match="twice"):
        CausalConfig(nulls=("isotropic", "isotropic"))
