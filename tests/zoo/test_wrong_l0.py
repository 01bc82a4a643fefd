import math

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.batch import Batch
from polyseme.core.progress import Silent
from polyseme.dictionaries import BatchTopKConfig
from polyseme.zoo.tools.exact import (
    ShortTraining,
    bias,
    components,
    features_of,
    fvu,
    start_at_truth,
    start_without_bias,
)
from polyseme.zoo.wrong_l0.toy import Found, WrongL0Toy, bias_start, found, right_and_low

SMALL = WrongL0Toy(n_features=3, d=6, seeds=(0, 1), training=ShortTraining(steps=150, batch=1024, rows=20_000))


def rows(config=SMALL, n=20_000):
    toy = config.train(Silent())[0]
    return toy, *toy.activations(n, torch.Generator().manual_seed(0))


def batch_of(x):
    zeros = torch.zeros(len(x), dtype=torch.int32)
    return Batch(x, x, zeros, zeros, zeros)


def test_drawn_features_have_their_frequency_and_correlation():
    _, _, sample = rows(WrongL0Toy(), 60_000)
    on = (sample.features > 0).double()
    assert on.mean(0).numpy() == pytest.approx(0.4, abs=4.5 * math.sqrt(0.24 / 60_000))
    correlation = torch.corrcoef(on.T).numpy()
    assert correlation[0, 1:] == pytest.approx(0.4, abs=0.02)
    # The others depend on feature 0 alone: their correlation is the product of both.
    assert correlation[1, 2:] == pytest.approx(0.16, abs=0.02)
    size = sample.features[sample.features > 0]
    assert float(size.mean()) == pytest.approx(1, abs=0.005)
    assert float(size.std()) == pytest.approx(0.15, abs=0.005)


def test_a_dictionary_started_at_the_truth_is_the_truth():
    toy, x, sample = rows()
    dictionary = BatchTopKConfig(n_latents=3, k=3).build(6, seed=0)  # untrained, it keeps k of every vector
    start_at_truth(dictionary, features_of(toy), x)
    dictionary.initialise(batch_of(x))
    torch.testing.assert_close(components(dictionary.write_directions(), features_of(toy)), torch.eye(3))
    assert float(bias(dictionary).norm()) < 1e-5
    torch.testing.assert_close(dictionary.encode(x).dense(), sample.features, atol=1e-4, rtol=1e-4)
    assert fvu(dictionary, x) < 1e-9


def test_without_a_bias_zero_is_written_for_nothing():
    _, x, _ = rows()
    dictionary = BatchTopKConfig(n_latents=3, k=1).build(6, seed=0)
    dictionary.initialise(batch_of(x))
    assert float(bias(dictionary).norm()) > 0.5
    start_without_bias(dictionary, x)
    assert float(bias(dictionary).norm()) < 1e-5


def test_what_is_said_of_a_dictionary():
    of = Found(torch.tensor([[1.0, 0, 0], [0.3, 0.95, 0], [-0.2, 0, 0.98]]), 0.1)
    assert of.own == pytest.approx(0.95)
    assert of.mixed.tolist() == pytest.approx([0.3, -0.2])
    assert not of.absent
    assert not of.recovered
    assert Found(torch.eye(3), 0.0).recovered
    # The matching had to give the latent of f1's absence to f1.
    assert Found(torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]]), 0.0).absent


def test_too_small_a_k_mixes_and_the_right_one_does_not():
    of = found(SMALL, [(SMALL.l0, "at the truth"), (SMALL.low * SMALL.l0, "at the truth")], Silent())
    right, low = of.values()
    for high_k, low_k in zip(right, low, strict=True):
        assert high_k.recovered
        assert float(high_k.mixed.max()) < float(low_k.mixed.min())
        assert float(low_k.mixed.min()) > 0.05
        assert low_k.fvu > 5 * high_k.fvu


def test_dictionaries_that_did_not_train_are_not_measured():
    config = SMALL.model_copy(update={"training": ShortTraining(steps=2, batch=64, rows=2_000, lr=1e-6)})
    checks = [*right_and_low(config, Silent()), *bias_start(config, Silent())]
    assert len(checks) == 8
    assert {c.outcome for c in checks} == {"not_measured"}
    assert "did not train" in checks[0].note


@pytest.mark.parametrize(
    "change", [{"n_features": 2}, {"d": 4}, {"p": 0}, {"correlation": 1}, {"spread": 0.6}, {"low": 1}, {"seeds": (0,)}]
)
def test_what_cannot_be_is_told(change):
    with pytest.raises(ValidationError):
        WrongL0Toy.model_validate(change)
