"""Gestures on texts, against the machinery that studies use and against what a few lines of torch give."""

import inspect

import numpy as np
import pytest
import torch

import polyseme
from polyseme.activations import site_means
from polyseme.api.windows import windows_of
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.corpora import StdlibCorpusConfig
from polyseme.dictionaries import TopKConfig
from polyseme.evaluation import splice_sums
from polyseme.networks import load_network
from tests import tiny

SITE, OTHER = "blocks.2.resid_post", "blocks.1.mlp_out"
TEXTS = ["for i in range(10):\n    print(i)\n", "import os\nimport sys\nfrom pathlib import Path\n"]


@pytest.fixture(scope="module")
def pylm():
    return load_network("pylm")


@pytest.fixture(scope="module")
def dictionary():
    return TopKConfig(n_latents=512, k=64).build(224, seed=0)


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS], ids=["text", "texts"])
def test_top_tokens_are_those_of_the_dense_latents(pylm, dictionary, text):
    windows = windows_of(pylm, text)
    x = pylm.read(torch.from_numpy(windows.tokens).long(), [SITE])[SITE]
    z = dictionary.encode(x).dense().masked_fill(torch.from_numpy(windows.special)[..., None], 0)
    latent = int((z > 0).sum((0, 1)).argmax())
    top = polyseme.top_tokens(pylm, text, SITE, dictionary, latent, n=5)
    strongest = z[..., latent].flatten().sort(descending=True, stable=True)
    np.testing.assert_allclose(top["activation"], strongest.values[:5], rtol=1e-5)
    assert (top["position"] == strongest.indices[:5].numpy() % windows.tokens.shape[1]).all()
    assert top.n_firings == int((z[..., latent] > 0).sum())
    assert top.n_tokens == windows.n_tokens
    assert top.to_pandas().columns.tolist() == ["activation", "before", "token", "after", "document", "position"]
    first = next(iter(top))
    shown = TEXTS[int(first.document.split()[1])].replace("\n", "↵")
    assert first.before.removeprefix("<|bos|>") + first.token + first.after in shown
    with pytest.raises(InputError, match="latents are 0 to 511"):
        polyseme.top_tokens(pylm, text, SITE, dictionary, 512)


def test_a_latent_that_never_fires_gives_an_empty_table(pylm):
    dictionary = TopKConfig(n_latents=8, k=1).build(224, seed=0)
    dictionary.parameters()["b_enc"][3] = -1e6
    top = polyseme.top_tokens(pylm, TEXTS, SITE, dictionary, 3)
    assert len(top) == 0
    assert "active on 0 of" in repr(top)
    assert "active on 0 of" in top._repr_html_()


@pytest.mark.parametrize("sites", [[SITE], [OTHER, SITE]], ids=["single", "joint"])
def test_the_spliced_loss_is_that_of_splice_sums(pylm, dictionary, sites):
    chosen = dict.fromkeys(sites, dictionary)
    loss = polyseme.splice_loss(pylm, TEXTS, chosen)
    windows = windows_of(pylm, TEXTS)
    places = {name: pylm.site(name) for name in sites}
    means = site_means(pylm, windows, places)
    sums = splice_sums(
        pylm,
        windows,
        {"": {Binding.at(places[name]): dictionary for name in sites}},
        {places[n]: means[n] for n in sites},
    )[""]
    assert loss["site"].tolist() == [*sites, *(["joint"] if len(sites) > 1 else [])]
    for row in loss:
        place = row.site if row.site == "joint" else str(places[row.site])
        own = {(e.name, e.scope.get("ablation")): e.record().value for e in sums if e.scope["site"] == place}
        for column in ("ce_clean", "ce_patched", "ce_zero", "ce_mean", "kl"):
            assert getattr(row, column) == own[column, None]
        for kind in ("zero", "mean"):
            assert getattr(row, f"recovered_{kind}") == own["ce_recovered", kind]
    assert loss.n_tokens == windows.n_tokens == next(e.n for e in sums)


def test_the_clean_loss_is_the_networks_own(pylm, dictionary):
    loss = polyseme.splice_loss(pylm, TEXTS[0], {SITE: dictionary})
    tokens = pylm.tokens(TEXTS[0])
    logp = pylm.logits(tokens).log_softmax(-1)[0, :-1]
    assert loss["ce_clean"][0] == pytest.approx(-float(logp.gather(1, tokens.ids[0, 1:, None]).mean()), rel=1e-5)

    class Whole:
        """A dictionary that loses nothing."""

        d_in = d_out = n_latents = 224

        def encode(self, x):
            from polyseme.core.batch import Latents

            return Latents.from_dense(x)

        def decode(self, z):
            return z.dense()

    perfect = next(iter(polyseme.splice_loss(pylm, TEXTS[0], {SITE: Whole()})))
    assert perfect.ce_patched == pytest.approx(perfect.ce_clean, abs=1e-5)
    assert perfect.recovered_zero == pytest.approx(1, abs=1e-4)


def test_a_corpus_may_stand_for_texts(pylm):
    windows = windows_of(pylm, StdlibCorpusConfig().build(), n_tokens=1000, context=64)
    assert windows.n_tokens >= 1000
    assert windows.tokens.shape[1] == 64
    assert windows_of(pylm, windows) is windows


def test_every_gesture_works_on_a_hugging_face_folder(small_network):
    network = load_network(small_network)
    site = "blocks.1.resid_post"
    text = "the cat sat on the mat"
    x = network.read(text, site)[site]
    config = TopKConfig(n_latents=32, k=4)
    dictionary = polyseme.train(network, config, site=site, text=[text] * 8, batch_size=8).dictionary
    assert dictionary.reconstruct(x).shape == x.shape
    latent = int(dictionary.encode(x).dense().amax((0, 1)).argmax())
    assert polyseme.top_tokens(network, text, site, dictionary, latent).n_firings > 0
    assert polyseme.splice_loss(network, text, {site: dictionary})["ce_clean"][0] > 0
    edits = {site: polyseme.ablate(dictionary, latent)}
    assert len(polyseme.continue_text(network, text, edits, n_tokens=3).edited_ids) > 0


def test_a_short_text_is_not_run_as_a_whole_window(pylm):
    assert windows_of(pylm, TEXTS[0]).tokens.shape == (1, 14)
    assert windows_of(pylm, ["x = 1\n" * 200]).tokens.shape[1] == pylm.context


def test_what_cannot_be_measured_is_refused_in_a_sentence(pylm, dictionary):
    for text in ("", [], ["a", ""], [3]):
        with pytest.raises(InputError, match="there is no text, or an empty one"):
            windows_of.__wrapped__(pylm, text)
    with pytest.raises(InputError, match="which site it is for"):
        inspect.unwrap(polyseme.splice_loss)(pylm, TEXTS, dictionary)
    with pytest.raises(InputError, match="no text in a NoneType"):
        windows_of.__wrapped__(pylm, None)
    with pytest.raises(InputError, match="there is no dictionary"):
        polyseme.splice_loss(pylm, TEXTS, {})
    with pytest.raises(InputError, match=r"no site 'blocks\.9"):
        polyseme.splice_loss(pylm, TEXTS, {"blocks.9.resid_post": dictionary})
    narrow = TopKConfig(n_latents=8, k=2).build(16, seed=0)
    with pytest.raises(InputError, match="vectors of width 16, but the site's vectors have width 224"):
        polyseme.splice_loss(pylm, TEXTS, {SITE: narrow})
    with pytest.raises(InputError, match="vectors of width 16, but the site's vectors have width 224"):
        polyseme.top_tokens(pylm, TEXTS, SITE, narrow, 0)
    with pytest.raises(InputError, match="no loss to measure"):
        polyseme.splice_loss(load_network(tiny.tiny_bert()), TEXTS, {"blocks.0.resid_post": narrow})
    with pytest.raises(InputError, match="came without a tokenizer"):
        polyseme.top_tokens(load_network(tiny.tiny_gpt2()), TEXTS, "blocks.0.resid_post", narrow, 0)
    with pytest.raises(InputError, match="Probes come with a later version"):
        polyseme.fit_probe.__wrapped__()
