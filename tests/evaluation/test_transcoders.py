"""Transcoders, trained by the engine: their reconstruction, splice and effects against passes made by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polyseme.activations import HarvestConfig, LiveSource, collect_firings, site_means
from polyseme.activations.massive import Ordinary
from polyseme.causal import CausalConfig, Meanings, causal_effects
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.dictionaries import TopKConfig
from polyseme.dictionaries.engine.engine import SparseDictionary
from polyseme.evaluation import evaluate_lookup, evaluate_reconstruction, learn_lookup, patch_edits, splice
from polyseme.networks import EditFrom, Network, load_network, replace
from polyseme.training import Job, TrainingConfig, fit
from tests.evaluation.fakes import VOCABULARY, Linear, make_windows
from tests.tiny import tiny_gpt2

NAMES = ("blocks.1.mlp_in", "blocks.1.mlp_out")
WINDOWS = make_windows(12)
COUNTED = torch.from_numpy(~WINDOWS.special)
TOKENS = torch.from_numpy(WINDOWS.tokens.astype(np.int64))


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(tiny_gpt2(vocab_size=VOCABULARY))


@pytest.fixture(scope="module")
def binding(network: Network) -> Binding:
    return Binding((NAMES[0],), (NAMES[1],)).map(network.site)


@pytest.fixture(scope="module")
def transcoder(network: Network) -> SparseDictionary:
    """As the engine trains it, from the names of an activation source."""
    sites = {name: network.site(name) for name in NAMES}
    source = LiveSource(network, make_windows(40, seed=1), sites, HarvestConfig(batch_windows=4))
    dictionary = TopKConfig(n_latents=48, k=4).build(16, 16, seed=0)
    config = TrainingConfig(n_tokens=6400, batch_size=64)
    (done,) = fit([Job("t", dictionary, Binding((NAMES[0],), (NAMES[1],)), 0)], source, config)
    assert done.final.fvu < 0.9
    return dictionary


def ce(logits: Tensor) -> float:
    """Mean loss over the targets that count."""
    keep = COUNTED[:, 1:]
    return float(cross_entropy(logits[:, :-1][keep].double(), TOKENS[:, 1:][keep]))


def patched_by_hand(network: Network, x: Tensor, y: Tensor, dictionary: SparseDictionary) -> Tensor:
    """y with the dictionary's output for x at the counted positions."""
    out = y.clone()
    out[COUNTED] = dictionary.reconstruct(x[COUNTED])
    return out


def by_key(records: list[MetricRecord]) -> dict[tuple[str, str], MetricRecord]:
    return {(r.name, str(r.scope["site"])): r for r in records if r.scope.get("ablation") != "zero"}


def test_its_reconstruction_is_of_what_it_writes(network, binding, transcoder):
    found = evaluate_reconstruction(network, WINDOWS, {"t": (binding, transcoder)}, n_resamples=10)["t"]
    read = network.read(TOKENS, NAMES)
    x, y = (read[network.site(name)][COUNTED] for name in NAMES)
    error = (y - transcoder.reconstruct(x)).double().square().sum()
    expected = float(error / (y.double() - y.double().mean(0)).square().sum())
    record = next(r for r in found if r.name == "fvu")
    assert record.value == pytest.approx(expected, rel=1e-6)
    assert record.scope["site"] == f"{NAMES[0]} → {NAMES[1]}"
    firings = collect_firings(network, WINDOWS, {"t": (binding, transcoder)})["t"]
    np.testing.assert_allclose(firings.matrix.toarray(), transcoder.encode(x).dense().numpy(), atol=1e-5)


def test_its_splice_is_the_pass_with_its_output_for_what_is_read_in_the_place_of_what_is_written(
    network, binding, transcoder
):
    read, write = binding.places
    means = {write: site_means(network, WINDOWS, {"y": write})["y"]}
    found = by_key(splice(network, WINDOWS, {"s": {binding: transcoder}}, means, n_resamples=10)["s"])
    vectors = network.read(TOKENS, [read, write])
    hand = patched_by_hand(network, vectors[read], vectors[write], transcoder)
    where = str(binding)
    assert found["ce_clean", where].value == pytest.approx(ce(network.logits(TOKENS)), rel=1e-6)
    patched = network.run(TOKENS, edits={write: replace(hand)}).logits
    assert found["ce_patched", where].value == pytest.approx(ce(patched), rel=1e-6)
    mean = network.run(TOKENS, edits={write: replace(means[write], positions=COUNTED)}).logits
    assert found["ce_mean", where].value == pytest.approx(ce(mean), rel=1e-6)
    assert abs(found["ce_increase", where].value) > 1e-3


def test_jointly_it_reads_what_the_dictionaries_upstream_have_made(network, binding, transcoder):
    upstream = Binding.at(network.site("blocks.0.resid_post"), "stream")
    first = TopKConfig(n_latents=32, k=4).build(16, seed=3)
    read, write = binding.places
    means = {site: torch.zeros(16) for site in (write, *upstream.writes)}
    chosen = {upstream: first, binding: transcoder}
    found = by_key(splice(network, WINDOWS, {"s": chosen}, means, n_resamples=10)["s"])
    stream = network.read(TOKENS, upstream.reads)[upstream.reads[0]]
    below = {upstream.writes[0]: replace(patched_by_hand(network, stream, stream, first))}
    vectors = network.read(TOKENS, [read, write], edits=below)
    hand = patched_by_hand(network, vectors[read], vectors[write], transcoder)
    both = network.run(TOKENS, edits={**below, write: replace(hand)}).logits
    assert found["ce_patched", "joint"].value == pytest.approx(ce(both), rel=1e-6)


class Two:
    """Reads two sites and writes two others, all as linear maps."""

    d_in = d_out = 32

    def __init__(self) -> None:
        self.maps = Linear(24, 32, seed=4, bias=0.0)
        self.n_latents = 24

    def encode(self, x: Tensor) -> Latents:
        return self.maps.encode(x)

    def decode(self, z: Latents) -> Tensor:
        return self.maps.decode(z)

    def write_directions(self) -> Tensor:
        return self.maps.W_dec


def test_two_writes_are_patched_in_one_pass_from_what_was_read_before_both(network):
    names = ("blocks.0.mlp_in", "blocks.0.attn_out"), ("blocks.0.mlp_out", "blocks.1.attn_out")
    binding = Binding(*names).map(network.site)
    dictionary, (one, other) = Two(), binding.writes
    means = {site: torch.zeros(16) for site in binding.writes}
    found = by_key(splice(network, WINDOWS, {"s": {binding: dictionary}}, means, n_resamples=10)["s"])
    vectors = network.read(TOKENS, binding.places)
    x = torch.cat([vectors[site][COUNTED] for site in binding.reads], 1)
    output = dictionary.decode(dictionary.encode(x))
    first = vectors[one].clone()
    first[COUNTED] = output[:, :16]
    second = network.read(TOKENS, [other], edits={one: replace(first)})[other].clone()
    second[COUNTED] = output[:, 16:]
    hand = network.run(TOKENS, edits={one: replace(first), other: replace(second)}).logits
    assert found["ce_patched", str(binding)].value == pytest.approx(ce(hand), rel=1e-5)
    only_one = network.run(TOKENS, edits={one: replace(first)}).logits
    assert ce(only_one) != pytest.approx(ce(hand), rel=1e-4)
    zero = {site: replace(torch.zeros(16), positions=COUNTED) for site in binding.writes}
    assert found["ce_mean", str(binding)].value == pytest.approx(ce(network.run(TOKENS, edits=zero).logits), rel=1e-6)


@pytest.mark.parametrize("route", ["ghosts", "rows"])
def test_a_latent_of_two_writes_is_ablated_at_both(network, route):
    binding = Binding(("blocks.0.mlp_in", "blocks.0.attn_out"), ("blocks.0.mlp_out", "blocks.1.attn_out"))
    _effects_are_two_hand_made_passes(network, binding.map(network.site), Two(), route)


@pytest.mark.parametrize("route", ["ghosts", "rows"])
def test_a_latent_of_a_transcoder_is_ablated_where_it_writes(network, binding, transcoder, route):
    _effects_are_two_hand_made_passes(network, binding, transcoder, route)


def _effects_are_two_hand_made_passes(network: Network, binding: Binding, dictionary, route) -> None:
    firings = collect_firings(network, WINDOWS, {"d": (binding, dictionary)})["d"]
    config = CausalConfig(n_samples=3, n_directions=2, horizon=2, route=route, n_resamples=20)
    meanings = Meanings.learn(firings, WINDOWS, VOCABULARY)
    effects = causal_effects(network, WINDOWS, binding, dictionary, firings, meanings, config=config)
    directions = dictionary.write_directions()
    values = firings.matrix.toarray()
    clean = network.logits(TOKENS).double().log_softmax(-1)
    for i in range(0, len(effects.sample_latent), 7):
        latent, row = int(effects.sample_latent[i]), int(effects.sample_row[i])
        w, t = int(firings.window[row]), int(firings.position[row])
        edits = {}
        for n, site in enumerate(binding.writes):
            vector = float(values[row, latent]) * directions[latent, 16 * n : 16 * (n + 1)]

            def subtract(x: Tensor, vector: Tensor = vector, w: int = w, t: int = t) -> Tensor:
                x[w, t] -= vector
                return x

            edits[site] = subtract
        edited = network.run(TOKENS, edits=edits).logits.double().log_softmax(-1)
        target = TOKENS[w, t + 1]
        assert effects.sample_loss[i] == pytest.approx(float((clean - edited)[w, t, target]), abs=1e-5)
        kl = (clean[w, t].exp() * (clean - edited)[w, t]).sum()
        assert effects.sample_kl[i] == pytest.approx(float(kl), abs=1e-5)


def test_the_token_alone_is_asked_for_what_is_written(network, binding):
    lookup = learn_lookup(network, WINDOWS, WINDOWS, [binding])
    y = network.read(TOKENS, binding.writes)[binding.writes[0]][COUNTED].double()
    tokens = TOKENS[COUNTED]
    means = torch.stack([y[tokens == token].mean(0) for token in tokens])
    expected = float((y - means).square().sum() / (y - y.mean(0)).square().sum())
    found = {r.name: r for r in evaluate_lookup(network, WINDOWS, lookup, n_resamples=10)}
    assert found["fvu_token"].value == pytest.approx(expected, rel=1e-4)
    assert found["fvu_token"].scope["site"] == str(binding)


def test_a_token_is_ordinary_where_it_is_at_both_ends(network, binding, transcoder):
    read, write = binding.places
    x = network.read(TOKENS, [read, write])
    limits: dict[Site, float] = {}
    for site in (read, write):
        sizes = x[site][COUNTED].norm(dim=-1).sort().values
        limits[site] = float(sizes[-len(sizes) // 5 :][:2].mean())  # between two of them
    ordinary = {site: Ordinary(torch.zeros(16), limit) for site, limit in limits.items()}
    kept = COUNTED & (x[read].norm(dim=-1) <= limits[read]) & (x[write].norm(dim=-1) <= limits[write])
    located = {"t": (binding, transcoder)}
    found = evaluate_reconstruction(network, WINDOWS, located, ordinary=ordinary, n_resamples=10)["t"]
    assert next(r for r in found if r.name == "fvu_ordinary").n == int(kept.sum()) < int(COUNTED.sum())
    options = {"trained_on": ordinary, "n_resamples": 10}
    spliced = by_key(splice(network, WINDOWS, {"s": {binding: transcoder}}, {write: torch.zeros(16)}, **options)["s"])
    hand = x[write].clone()
    hand[kept] = transcoder.reconstruct(x[read][kept])
    assert spliced["ce_patched", str(binding)].value == pytest.approx(
        ce(network.run(TOKENS, edits={write: replace(hand)}).logits), rel=1e-6
    )


def test_what_cannot_be_spliced_is_refused_before_any_pass(network, binding, transcoder, monkeypatch):
    read, write = binding.places
    means = {site: torch.zeros(16) for site in (read, write)}
    network.check_order([read], [write])  # looked at by a pass of its own
    cases: list[tuple[dict, str]] = [
        ({Binding((write,), (read,)): transcoder}, "comes later in the forward pass"),
        (
            {Binding((read, write), (read,)): TopKConfig(n_latents=8, k=2).build(32, 16, seed=0)},
            "comes later in the forward pass",
        ),
        ({binding: transcoder, Binding.at(write): TopKConfig(n_latents=8, k=2).build(16, seed=0)}, "both write"),
        ({Binding((read, write), (write,)): transcoder}, "reads vectors of width 16.*width 32"),
    ]
    assert network.predicts_tokens
    monkeypatch.setattr(Network, "run", lambda *_, **__: pytest.fail("a pass was made"))
    for chosen, why in cases:
        with pytest.raises(InputError, match=why):
            splice(network, WINDOWS, {"s": chosen}, means)


def test_an_edit_is_from_other_sites_only_where_it_must_be(network, binding, transcoder):
    at = Binding.at(network.site("blocks.0.resid_post"))
    autoencoder = TopKConfig(n_latents=8, k=2).build(16, seed=0)
    chosen = {binding: transcoder, at: autoencoder}
    edits = patch_edits(network, chosen, dict.fromkeys(chosen, COUNTED))
    assert isinstance(edits[binding.writes[0]], EditFrom)
    assert not isinstance(edits[at.writes[0]], EditFrom)
