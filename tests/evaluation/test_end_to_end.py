"""The metrics on a real architecture: a tiny GPT-2, a tiny BERT, real dictionaries."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from polyseme.activations.firings import FiringsCollector, collect_firings
from polyseme.causal import CausalConfig, Meanings, causal_effects, n_predicted
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.corpora.pack import Windows, pack
from polyseme.dictionaries import TopKConfig
from polyseme.evaluation import (
    ContinuationConfig,
    LookupSums,
    ReconstructionSums,
    continue_text,
    evaluate_reconstruction,
    gap,
    learn_lookup,
    load_sums,
    save_sums,
    splice,
    splice_sums,
    sweep,
)
from polyseme.networks import load_network
from tests.evaluation.fakes import Identity
from tests.tiny import LINES, tiny_bert, tiny_gpt2, tiny_tokenizer

NAMES = ("blocks.0.resid_post", "blocks.1.mlp_out")


def windows(repeats: int, start: int = 0) -> Windows:
    tokenizer = tiny_tokenizer()
    texts = [(f"doc{i}", LINES[i % len(LINES)] * (1 + i % 3)) for i in range(start, start + repeats)]
    return pack(
        texts, lambda t: tokenizer(t, add_special_tokens=False)["input_ids"], context=24, prefix=tokenizer.bos_token_id
    )


@pytest.fixture(scope="module")
def network():
    return load_network(tiny_gpt2(), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def sites(network):
    return [network.site(name) for name in NAMES]


def test_one_pass_feeds_everything(network, sites, tmp_path: Path):
    heldout, train = windows(6), windows(10, start=6)
    dictionaries = {
        f"{site}/{seed}": (Binding.at(site), TopKConfig(n_latents=32, k=4).build(16, seed=seed))
        for site in sites
        for seed in (0, 1)
    }
    reconstruction = ReconstructionSums(dictionaries, heldout)
    lookup = LookupSums(learn_lookup(network, train, heldout, [Binding.at(site) for site in sites]), heldout)
    firings = FiringsCollector({name: d.n_latents for name, (_, d) in dictionaries.items()})
    sweep(network, heldout, dictionaries, [reconstruction.see, lookup.see, firings.see], batch_windows=4)
    found = reconstruction.finish(scope={"control": "none"})
    collected = firings.finish()
    for name, (binding, dictionary) in dictionaries.items():
        (site,) = binding.reads
        y = torch.cat([network.read(torch.from_numpy(heldout.tokens).long(), [site])[site][~heldout.special]])
        error = (y - dictionary.reconstruct(y)).double().square().sum()
        fvu = float(error / (y.double() - y.double().mean(0)).square().sum())
        records = {entry.name: entry.record(n_resamples=20) for entry in found[name]}
        assert records["fvu"].value == pytest.approx(fvu, rel=1e-5)
        assert records["l0"].value == pytest.approx(collected[name].matrix.nnz / heldout.n_tokens)
        counts = np.diff(collected[name].columns.indptr)
        assert np.array_equal(reconstruction.firing_counts(name), counts)
        assert records["dead_latents"].value == pytest.approx(float((counts == 0).mean()))
        assert records["dense_latents"].value == pytest.approx(float((counts > 0.1 * heldout.n_tokens).mean()))
        assert np.array_equal(reconstruction.alive(name), counts > 0)
    entries = [entry for name in found for entry in found[name]] + lookup.finish()
    save_sums(tmp_path, entries, heldout.names)
    assert [e.record(n_resamples=20) for e in load_sums(tmp_path)] == [e.record(n_resamples=20) for e in entries]


def test_patching_the_identity_is_exact_at_every_kind_of_site(network):
    heldout = windows(2)
    chosen = {
        Binding.at(network.site(name)): Identity(16)
        for name in ("blocks.0.resid_post", "blocks.0.attn_out", "blocks.1.mlp_out")
    }
    means = {site: torch.zeros(16) for binding in chosen for site in binding.writes}
    for entry in splice_sums(network, heldout, {"s": chosen}, means)["s"]:
        if entry.name in ("ce_increase", "kl", "ce_interaction"):
            assert entry.record(n_resamples=20).value == 0
        if entry.name == "ce_recovered":
            assert entry.values(entry.sums.sum(0)) == 1
            # A network of random weights has no loss to recover, whatever the sums divide to.
            assert "no better than a uniform guess" in entry.record(n_resamples=20).details["note"]


def test_zero_mean_is_the_zero_ablation_and_gaps_pair(network, sites):
    heldout = windows(6)
    sets = {
        f"seed {seed}": {Binding.at(site): TopKConfig(n_latents=32, k=4).build(16, seed=seed) for site in sites}
        for seed in (0, 1)
    }
    means = {site: torch.zeros(16) for site in sites}
    few = splice_sums(network, heldout, sets, means, batch_windows=2)
    many = splice_sums(network, heldout, sets, means, batch_windows=64)
    for name in sets:
        by_key = {(e.name, e.scope["site"], e.scope.get("ablation")): e.record(n_resamples=20) for e in few[name]}
        for (metric, site, _), record in by_key.items():
            if metric == "ce_mean":
                assert record.value == by_key["ce_zero", site, None].value
        assert [e.record(n_resamples=20).value for e in many[name]] == pytest.approx(
            [r.value for r in by_key.values()], rel=1e-4, nan_ok=True
        )
    record = gap(few["seed 0"][1], few["seed 1"][1], n_resamples=50)
    assert record.name == "ce_patched"
    assert record.value == pytest.approx(record.details["trained"] - record.details["control"])


def test_text_goes_on(network, sites):
    config = ContinuationConfig(n_prompts=2, prompt_tokens=6, new_tokens=10, temperature=1.0)
    same = continue_text(network, windows(6), {Binding.at(site): Identity(16) for site in sites}, config=config)
    assert [one.diverges_at for one in same] == [None, None]
    dictionaries = {Binding.at(site): TopKConfig(n_latents=32, k=2).build(16, seed=0) for site in sites}
    patched = continue_text(network, windows(6), dictionaries, config=config)
    assert [one.clean for one in patched] == [one.clean for one in same]
    assert any(one.diverges_at is not None for one in patched)
    with pytest.raises(InputError, match="context, 32"):
        continue_text(network, windows(6), {}, config=ContinuationConfig(prompt_tokens=20, new_tokens=20))


def test_an_encoder_is_reconstructed_but_has_no_ce():
    network = load_network(tiny_bert(), tokenizer=tiny_tokenizer())
    heldout = windows(6)
    site = network.site("blocks.0.resid_post")
    sums = ReconstructionSums({"d": (Binding.at(site), Identity(16))}, heldout)
    sweep(network, heldout, {"d": (Binding.at(site), Identity(16))}, [sums.see])
    assert sums.finish()["d"][0].record(n_resamples=10).value == 0
    for record in splice(
        network, heldout, {"s": {Binding.at(site): Identity(16)}}, {site: torch.zeros(16)}, n_resamples=10
    )["s"]:
        assert math.isnan(record.value)


@pytest.mark.parametrize("by_name", [False, True], ids=["site", "name"])
def test_a_place_by_itself_stands_for_its_binding(network, sites, by_name):
    place, binding, heldout = (NAMES if by_name else sites)[0], Binding.at(sites[0]), windows(6)
    dictionary = TopKConfig(n_latents=32, k=4).build(16, seed=0)
    settings = ContinuationConfig(n_prompts=1, prompt_tokens=8, new_tokens=4)
    causal = CausalConfig(n_samples=1, n_resamples=100)

    def found(key):
        firings = collect_firings(network, heldout, {"d": (key, dictionary)})["d"]
        meanings = Meanings.learn(firings, heldout, n_predicted(network, heldout))
        return {
            "firings": firings.matrix.toarray(),
            "fvu": evaluate_reconstruction(network, heldout, {"d": (key, dictionary)}, n_resamples=20)["d"][0].value,
            "means": next(iter(learn_lookup(network, heldout, heldout, [key]).means.values())).numpy(),
            "losses": [
                record.value
                for record in splice(network, heldout, {"": {key: dictionary}}, {sites[0]: torch.zeros(16)})[""]
            ],
            "text": continue_text(network, heldout, {key: dictionary}, config=settings),
            "effects": causal_effects(
                network, heldout, key, dictionary, firings, meanings, config=causal
            ).expected.value,
        }

    for name, value in found(binding).items():
        np.testing.assert_equal(found(place)[name], value, err_msg=name)
