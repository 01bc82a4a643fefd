"""The product by ReLU neurons: closed forms, and what is told of networks that did not train."""

import math

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.product.toy import (
    BIAS_FREE,
    ProductToy,
    bias_free,
    explained,
    n_lines,
    networks,
    off_diagonal,
    optimum,
    train,
)
from polyseme.zoo.tools.stack import OptimiserConfig, Parameters

SHORT = OptimiserConfig(steps=3, lr=1e-2)


def scaled(parameters: Parameters, factor: torch.Tensor | float) -> Parameters:
    """The network with its output weights times a factor."""
    return {**parameters, "write.weight": factor * parameters["write.weight"]}


def test_bias_free_network_explains_one_over_pi_minus_two():
    assert float(explained(bias_free())) == pytest.approx(BIAS_FREE, abs=2e-4)


def test_a_network_of_nothing_explains_nothing_and_another_scale_explains_less():
    made = bias_free()
    assert float(explained(scaled(made, 0.0))) == pytest.approx(0, abs=1e-6)
    for factor in (0.9, 1.1):
        assert float(explained(scaled(made, factor))) < float(explained(made)) - 1e-3


def test_one_direction_alone_explains_less_than_half():
    made = bias_free()
    half = scaled(made, torch.tensor([1.0, 1, 0, 0]))
    centred = made["write.bias"] - half["write.weight"].sum() / 2 * math.sqrt(2 / math.pi)
    assert 0.3 < float(explained({**half, "write.bias": centred})) < 0.5


def test_optimum_is_that_of_the_network_it_describes():
    best, s = optimum()
    made = bias_free()
    moved, r2 = {**made, "read.bias": torch.full_like(made["read.bias"], -s)}, 0.0
    for scale in torch.linspace(1, 3, 201, dtype=torch.float64):
        r2 = max(r2, float(explained(scaled(moved, scale / made["write.weight"].abs().max()), spacing=0.1)))
    assert r2 == pytest.approx(best, abs=2e-3)


def test_angles_and_lines():
    angles = torch.deg2rad(torch.tensor([45.0, 225, 135, -45]))
    W = torch.stack([angles.cos(), angles.sin()])
    assert torch.allclose(off_diagonal(W), torch.zeros(4), atol=1e-4)
    assert n_lines(W) == 2
    turned = torch.deg2rad(torch.tensor([0.0, 30, 60, 91]))
    W = torch.stack([turned.cos(), turned.sin()])
    assert torch.allclose(off_diagonal(W), torch.tensor([45.0, 15, 15, 44]), atol=1e-3)
    assert n_lines(W) == 4


def test_module_computes_what_the_stack_does():
    made = bias_free()
    xy = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    u, v = xy.sum(-1).abs() / math.sqrt(2), (xy[:, 0] - xy[:, 1]).abs() / math.sqrt(2)
    module = ProductToy().build()
    module.load_state_dict({name: tensor[0] for name, tensor in made.items()})
    torch.testing.assert_close(module(xy)[:, 0], float(made["write.weight"].max()) * (u - v))


def test_an_instance_does_not_depend_on_its_stack():
    config = ProductToy(seeds=(0, 5), batch=16, optimiser=SHORT)
    alone = train(config.model_copy(update={"seeds": (5,)}), Silent())
    torch.testing.assert_close(train(config, Silent()).parameters["read.weight"][1], alone.parameters["read.weight"][0])


def test_untrained_networks_are_not_measured():
    checks = networks(ProductToy(seeds=(0, 1), batch=16, optimiser=SHORT), Silent())
    assert [c.outcome for c in checks[1:]] == ["not_measured"] * 4
    assert not any(toy.trained for toy in ProductToy(seeds=(0, 1), batch=16, optimiser=SHORT).train(Silent()))


def test_no_seeds_is_an_error():
    with pytest.raises(ValidationError):
        ProductToy(seeds=())
