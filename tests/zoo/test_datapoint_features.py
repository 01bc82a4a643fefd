"""Datapoint features: stacks that leave out what is not there, and checks that tell untrained networks."""

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.datapoint_features.toy import DatapointFeaturesToy, bump, examples, few, peak, train
from polyseme.zoo.tools.stack import Draws, OptimiserConfig

SHORT = OptimiserConfig(steps=25, lr=1e-2)
SMALL = DatapointFeaturesToy(
    n_features=30, sparsity=0.8, n_examples=(3, 5, 7, 20), seeds=(0, 1), n_test=200, optimiser=SHORT
)


def test_examples_have_length_one_and_few_features():
    x = examples(SMALL, Draws([0, 1]), 2000)
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(2, 2000))
    assert float((x > 0).float().mean()) == pytest.approx(0.2, abs=0.005)


def test_an_example_without_features_is_drawn_again():
    config = SMALL.model_copy(update={"n_features": 10, "sparsity": 0.9})  # a third of the rows have none
    both = examples(config, Draws([0, 1]), 500)
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(2, 500))
    share = 0.1 / (1 - 0.9**10)
    assert float((both > 0).float().mean()) == pytest.approx(share, abs=0.01)
    assert torch.equal(both[1], examples(config, Draws([1]), 500)[0])


def test_a_network_does_not_depend_on_its_stack():
    many = {(run.n_examples, run.toy.seed): run for run in train(SMALL, Silent())}
    (one,) = train(SMALL.model_copy(update={"n_examples": (5,), "seeds": (1,)}), Silent())
    same = many[5, 1]
    torch.testing.assert_close(one.X, same.X)
    torch.testing.assert_close(one.weights, same.weights, atol=1e-5, rtol=1e-4)
    assert one.test_loss == pytest.approx(same.test_loss, rel=1e-4)


def test_examples_that_fill_up_a_stack_do_not_count():
    for run in train(SMALL, Silent()):
        assert run.X.shape == (run.toy.setting["n_examples"], 30)
        out = run.toy.module(run.X)
        assert run.toy.loss == pytest.approx(float((out - run.X).square().sum(-1).mean().detach()), rel=1e-5)


def test_a_peak_is_above_both_ends():
    at, height = peak(torch.tensor([[1.0, 1.0], [1.5, 1.3], [0.9, 1.2]]))
    assert at == 1
    torch.testing.assert_close(height, torch.tensor([0.5, 0.1]))
    at, height = peak(torch.tensor([[1.0], [0.9], [0.8]]))
    assert (at, height.tolist()) == (0, [0.0])


def test_few_examples_make_a_polygon():
    config = DatapointFeaturesToy(
        seeds=(0, 1), n_test=50, optimiser=OptimiserConfig(steps=2500, lr=1e-2, warmup=100, schedule="cosine")
    )
    outcomes = {c.name: c.outcome for c in few(config, Silent())}
    assert outcomes["Σ D of the examples' hidden vectors, T = 5, n = 300"] == "pass"


def test_untrained_networks_are_not_measured():
    config = SMALL.model_copy(update={"optimiser": OptimiserConfig(steps=1, lr=0.0)})
    assert {c.outcome for c in few(config, Silent())} == {"not_measured"}
    assert {c.outcome for c in bump(config, Silent())} == {"not_measured"}
    assert {c.outcome for c in bump(SMALL.model_copy(update={"n_examples": (3, 5)}), Silent())} == {"not_measured"}


def test_the_site_holds_the_directions():
    toy = SMALL.train(Silent())[0]
    assert toy.truth.directions is not None
    read = toy.network().read(torch.eye(30), [toy.truth.site])[toy.truth.site]
    torch.testing.assert_close(read, toy.truth.directions)
    assert toy.setting == {"n_examples": 3}


@pytest.mark.parametrize(
    "bad",
    [
        {"n_examples": ()},
        {"n_examples": (5, 3)},
        {"n_examples": (3, 3)},
        {"n_examples": (0, 3)},
        {"sparsity": 1.0},
        {"seeds": ()},
        {"n_hidden": 20, "n_features": 10},
    ],
)
def test_what_cannot_be_is_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        DatapointFeaturesToy.model_validate(bad)
