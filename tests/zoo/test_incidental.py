"""Incidental polysemanticity: counts of hand-made weights, and what is told of networks that did not settle."""

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.incidental.toy import (
    IncidentalToy,
    TiedAutoencoder,
    count,
    expected,
    loss_of,
    occupied,
    polysemantic,
    settled,
    train,
)
from polyseme.zoo.tools.stack import OptimiserConfig

SHORT = OptimiserConfig(steps=3)


def test_counts_of_hand_made_weights():
    W = torch.zeros(4, 6)
    W[0, 0], W[1, 0], W[2, 3], W[3, 4] = 1.0, -1.0, 0.9, -1.0
    assert float(polysemantic(W)) == 1
    assert float(settled(W)) == 1
    W[3, 5] = 0.6
    assert float(settled(W)) == 0.75


def test_opposite_features_of_one_neuron_are_told_apart():
    W = torch.tensor([[1.0], [-1.0]])
    torch.testing.assert_close(TiedAutoencoder(W)(torch.eye(2)), torch.eye(2))
    assert not torch.equal(TiedAutoencoder(W.abs())(torch.eye(2)), torch.eye(2))


def test_expected_number_is_that_of_pairs_of_opposite_signs():
    assert expected(32, 128) == pytest.approx(1.9375)
    generator = torch.Generator().manual_seed(0)
    home = torch.randint(16, (20_000, 6), generator=generator)
    sign = torch.randint(2, (20_000, 6), generator=generator)
    pairs = (home[:, :, None] == home[:, None]) & (sign[:, :, None] != sign[:, None])
    assert float(pairs.sum((1, 2)).float().mean()) / 2 == pytest.approx(expected(6, 16), rel=0.05)
    both = torch.zeros(20_000, 2, 16)
    both[torch.arange(20_000)[:, None], sign, home] = 1
    assert float(both.prod(1).sum(-1).mean()) == pytest.approx(occupied(6, 16), rel=0.05)
    assert occupied(32, 10**5) == pytest.approx(expected(32, 10**5), rel=1e-3)  # the leading term


def test_gradient_by_hand_is_the_losses():
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    plain = (torch.relu(W @ W.mT) - torch.eye(5)).square().sum((1, 2)) + 0.1 * W.abs().sum((1, 2))
    torch.testing.assert_close(loss_of(W, 0.1), plain)
    assert torch.autograd.gradcheck(lambda w: loss_of(w, 0.1), (W,))


def test_an_instance_does_not_depend_on_its_stack():
    config = IncidentalToy(n_features=4, n_neurons=8, seeds=(1, 2), optimiser=SHORT)
    both = train(config, Silent())
    alone = train(config.model_copy(update={"seeds": (2,)}), Silent())
    torch.testing.assert_close(both.parameters["W"][1], alone.parameters["W"][0])
    torch.testing.assert_close(both.loss[1], alone.loss[0])


def test_unsettled_networks_and_few_networks_are_not_measured():
    config = IncidentalToy(n_features=4, n_neurons=8, seeds=tuple(range(30)), optimiser=SHORT)
    for check in count(config, Silent()):
        assert check.outcome == "not_measured"
        assert "30 of 30" in check.note
    for check in count(config.model_copy(update={"seeds": (0,)}), Silent()):
        assert check.outcome == "not_measured"


def test_small_networks_settle_on_one_neuron_a_feature():
    config = IncidentalToy(n_features=4, n_neurons=6, seeds=(0, 1), optimiser=OptimiserConfig(steps=1_500, lr=1e-2))
    for toy in config.train(Silent()):
        assert toy.trained
        shares = int(polysemantic(toy.truth.directions)) > 0
        assert toy.truth.cause == ("incidental" if shares else "aligned")


def test_fewer_neurons_than_features_is_an_error():
    with pytest.raises(ValidationError, match="less than one neuron a feature"):
        IncidentalToy(n_features=8, n_neurons=4)
