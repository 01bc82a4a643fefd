"""Correlated pairs: the data's correlation, the derived losses and boundary, and failing paths."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.correlated_pairs.toy import (
    CorrelatedPairsToy,
    algebra,
    boundary,
    change,
    crossing,
    dimension_loss,
    features,
    held,
    neurons,
    opposite_loss,
    partners,
    shared_loss,
    sharing,
    sharing_neurons,
    train,
)
from polyseme.zoo.tools.stack import Draws, OptimiserConfig

SHORT = OptimiserConfig(steps=3, lr=5e-3)


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_features_have_the_correlation_asked_for_and_the_same_margins(rho: float):
    config = CorrelatedPairsToy(density=0.3)
    x = features(config, Draws([3]), torch.tensor([rho]), 100_000)[0]
    measured = np.corrcoef(x.numpy().T)
    wanted = np.kron(np.eye(3), np.array([[1, rho], [rho, 1]]))
    assert np.abs(measured - wanted).max() < 0.02
    assert (x > 0).float().mean(0).tolist() == pytest.approx([0.3] * 6, abs=0.01)
    assert x.mean(0).tolist() == pytest.approx([0.15] * 6, abs=0.01)


def test_losses_meet_at_the_boundary():
    for p in (0.05, 0.2, 0.4):
        assert shared_loss(p, boundary(p)) == pytest.approx(opposite_loss(p))
    assert boundary(4 / 7) == pytest.approx(0)
    assert boundary(0.9) == 0


def test_losses_are_those_of_the_networks():
    assert all(c.outcome == "pass" for c in algebra(CorrelatedPairsToy(density=0.35, rho=(0.2, 1.0)), Silent()))
    # Opposite vectors for a pair that is one feature lose both of it wherever it is on.
    assert dimension_loss((1.0, -1.0), 0.3, 1.0) == pytest.approx(0.3 * 2 / 3, rel=1e-4)


def test_sharing_is_that_of_pairs_alone():
    W = torch.tensor([[1.0, 2.0, 0, 0, -1, 1], [0, 0, 1, 1, 0, 0.1]])
    assert sharing(W).tolist() == [True, True, False]
    assert float(partners(W)[2]) == pytest.approx(-1, abs=0.01)


def test_a_neuron_that_holds_a_pair():
    W = torch.tensor([[0.7, 0.7, 0, 0, 0.1, 0.1], [0.5, 0.5, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0.7, -0.7]])
    assert held(W).tolist() == [True, False, True]
    assert sharing_neurons(W).tolist() == [True, False, False]


def test_crossing():
    assert crossing(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.25, 0.75])) == pytest.approx(0.75)
    assert crossing(np.array([0.2, 1.0]), np.array([0.9, 1.0])) == 0.2
    assert np.isnan(crossing(np.array([0.0, 1.0]), np.array([0.9, 0.1])))


def test_untrained_networks_are_not_measured():
    config = CorrelatedPairsToy(seeds=(0, 1), batch=32, optimiser=SHORT)
    assert {c.outcome for c in neurons(config, Silent())} == {"not_measured"}
    assert {c.outcome for c in change(config, Silent())} == {"not_measured"}
    assert {c.outcome for c in change(config.model_copy(update={"n_hidden": 2}), Silent())} == {"not_measured"}


def test_an_instance_does_not_depend_on_its_stack():
    config = CorrelatedPairsToy(rho=(0.0, 0.9), seeds=(0, 1), batch=16, optimiser=SHORT)
    alone = train(config.model_copy(update={"rho": (0.9,), "seeds": (1,)}), Silent())
    torch.testing.assert_close(train(config, Silent()).parameters["W"][3], alone.parameters["W"][0])


def test_toys_run_as_networks():
    toy = CorrelatedPairsToy(rho=(0.5,), seeds=(0,), batch=16, optimiser=SHORT).train(Silent())[0]
    vectors, sample = toy.activations(5, torch.Generator().manual_seed(0))
    assert (vectors >= 0).all()
    assert sample.features.shape == (5, 6)


@pytest.mark.parametrize("bad", [{"rho": (1.5,)}, {"rho": ()}, {"density": 0.0}, {"seeds": ()}])
def test_bad_config_is_an_error(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        CorrelatedPairsToy.model_validate(bad)
