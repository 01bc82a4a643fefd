"""Training in a line, against `fit` with everything spelt out."""

import inspect

import numpy as np
import pytest
import torch

import polyseme
from polyseme.activations import HarvestConfig, LiveSource, TensorSource
from polyseme.api.windows import windows_of
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.dictionaries import TopKConfig
from polyseme.networks import load_network
from polyseme.training import Job, TrainingConfig, fit

CONFIG = TopKConfig(n_latents=32, k=4)
SITE = "blocks.2.resid_post"
ACROSS = {"reads": "blocks.2.mlp_in", "writes": "blocks.2.mlp_out"}
TEXTS = ["for i in range(10):\n    print(i)\n" * 20, "import os\nimport sys\n" * 20]


def vectors(n=600, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def same(one, other):
    return all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


@pytest.fixture(scope="module")
def pylm():
    return load_network("pylm")


def test_vectors_train_what_fit_trains():
    x = vectors()
    trained = polyseme.train(x, CONFIG, n_tokens=3000, batch_size=100, seed=3)
    dictionary = CONFIG.build(8, seed=3)
    config = TrainingConfig(n_tokens=3000, batch_size=100)
    (job,) = fit([Job("x", dictionary, Binding.at("x"), 3)], TensorSource({"x": x}, seed=3), config)
    assert same(trained.dictionary, dictionary)
    assert trained["fvu"].tolist() == [point.fvu for point in job.history]
    assert trained.n_vectors == 3000
    assert "FVU" in repr(trained)
    assert "FVU" in trained._repr_html_()
    assert trained.to_pandas()["step"].iloc[-1] == 30
    for form in (x.view(6, 100, 8), x.numpy()):
        assert same(polyseme.train(form, CONFIG, n_tokens=3000, batch_size=100, seed=3).dictionary, dictionary)


def test_a_mapping_names_the_architecture_and_the_default_trains_well():
    latents = (torch.rand(3000, 12, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    x = latents @ vectors(12, 8, 2)
    trained = polyseme.train(x, {"architecture": "topk", "n_latents": 24, "k": 3})
    assert trained["fvu"][-1] < 0.1
    for form, said in (("topk", "topk"), (TopKConfig, "topk"), (None, "batch_topk")):
        short = polyseme.train(x, form, n_tokens=3000)
        assert f"SparseDictionary({said}, 8 → 64 latents → 8, k 32)" in repr(short)
    assert trained["step"][-1] == 500


def test_a_target_makes_a_transcoder():
    x = vectors()
    trained = polyseme.train(x, CONFIG, target=x[:, :5] * 2, n_tokens=3000, batch_size=100)
    assert trained.dictionary.is_transcoder
    assert trained.dictionary.reconstruct(x).shape == (600, 5)


def test_a_network_trains_what_fit_trains(pylm):
    trained = polyseme.train(pylm, CONFIG, site=SITE, text=TEXTS, batch_size=64)
    dictionary = CONFIG.build(224, seed=0)
    source = LiveSource(pylm, windows_of(pylm, TEXTS), {SITE: pylm.site(SITE)}, HarvestConfig())
    fit([Job("x", dictionary, Binding.at(SITE), 0)], source, TrainingConfig(batch_size=64))
    assert same(trained.dictionary, dictionary)
    mlp = polyseme.train(pylm, CONFIG, site=ACROSS, text=TEXTS, batch_size=64)
    assert mlp.dictionary.is_transcoder
    for form in (Binding(*ACROSS.values()), Binding(*ACROSS.values()).map(pylm.site)):
        assert same(polyseme.train(pylm, CONFIG, site=form, text=TEXTS, batch_size=64).dictionary, mlp.dictionary)
    both = {"reads": ["blocks.1.resid_post", SITE], "writes": [SITE]}
    crosscoder = polyseme.train(pylm, CONFIG, site=both, text=TEXTS, batch_size=64).dictionary
    assert (crosscoder.d_in, crosscoder.d_out) == (448, 224)
    corpus = polyseme.train(pylm, CONFIG, site=SITE, text={"kind": "stdlib"}, n_tokens=500)
    assert corpus.n_vectors == 500


class Reporter:
    def __init__(self):
        self.tasks = []

    def task(self, name, total, unit=""):
        self.tasks.append(name)
        return self

    def message(self, text):
        pass

    def update(self, done, total=None, note=""):
        pass


def test_a_reporter_sees_the_training():
    reporter = Reporter()
    polyseme.train(vectors(), CONFIG, n_tokens=600, reporter=reporter)
    assert "training" in reporter.tasks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.ones(8),), r"no vectors in shape \[8\]"),
        ((torch.ones(3, 8, dtype=torch.int64),), "no vectors in shape"),
        ((torch.ones(0, 8),), "no vectors in shape"),
        (([[1.0, 2.0]],), "no vectors in a list"),
        (("text",), "no vectors in a str"),
        ((torch.tensor([[1.0, 2.0], [float("nan"), 1.0]]),), r"1 of 2 vectors hold NaN.*isfinite\(\)\.all\(-1\)"),
        ((np.zeros((600, 8), dtype=np.float32),), "the activations are all equal"),
        ((vectors(), {"architecture": "top"}), "nearest: topk"),
        ((vectors(), "top"), "nearest: topk"),
        ((vectors(), {"k": 3}), "dictionary.architecture is missing"),
        ((vectors(), TopKConfig(n_latents=4, k=9)), "cannot keep k = 9"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_on_is_refused_in_a_sentence(arguments, said):
    with pytest.raises(InputError, match=said):
        inspect.unwrap(polyseme.train)(*arguments)  # without the tests' check of types


def test_arguments_that_do_not_belong_are_refused_in_a_sentence(pylm):
    for more, said in [
        ({"site": SITE}, "site and text are of a network"),
        ({"n_tokens": 0}, "n_tokens is 0"),
        ({"lrr": 1.0}, "unknown key 'lrr' .nearest: lr"),
        ({"batch_size": 10_000, "n_tokens": 100}, "a batch of 10000"),
        ({"target": vectors(3)}, "3 targets for 600 vectors"),
    ]:
        with pytest.raises(InputError, match=said):
            polyseme.train(vectors(), CONFIG, **more)
    for more, said in [
        ({"site": SITE}, "text is missing"),
        ({"text": "a"}, "site is missing"),
        ({"text": "a", "site": "blocks.9"}, r"no site 'blocks\.9"),
        ({"text": "", "site": SITE}, "there is no text"),
        ({"text": {"kind": "stdlb"}, "site": SITE}, "nearest: stdlib"),
        ({"target": vectors(3)}, "a network has no target"),
    ]:
        with pytest.raises(InputError, match=said):
            polyseme.train(pylm, CONFIG, **more)
