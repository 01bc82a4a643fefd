"""Exact solutions missed: the exact solutions themselves, and failing paths."""

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.missed_solution.toy import (
    MissedSolutionToy,
    Perceptron,
    absolute_values,
    conjunctions,
    live,
    single,
    sparse_absolute_values,
    train,
)
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack

SHORT = OptimiserConfig(steps=3, lr=1e-3)


def exact_and(n: int) -> dict[str, torch.Tensor]:
    first, second = torch.triu_indices(n, n, 1)
    eye = torch.eye(n)
    k = len(first)
    return {
        "read.weight": eye[first] + eye[second],
        "read.bias": -torch.ones(k),
        "write.weight": torch.eye(k),
        "write.bias": torch.zeros(k),
    }


def exact_abs(n: int) -> dict[str, torch.Tensor]:
    eye = torch.eye(n)
    return {
        "read.weight": torch.cat([eye, -eye]),
        "read.bias": torch.zeros(2 * n),
        "write.weight": torch.cat([eye, eye], dim=1),
        "write.bias": torch.zeros(n),
    }


@pytest.mark.parametrize(("task", "n", "weights"), [("and", 5, exact_and(5)), ("abs", 6, exact_abs(6))])
def test_there_is_an_exact_solution_and_it_is_monosemantic(task: str, n: int, weights: dict[str, torch.Tensor]):
    config = MissedSolutionToy.model_validate({"task": task, "n": n, "n_neurons": len(weights["read.bias"])})
    module = config.build()
    module.load_state_dict(weights)
    x, y = config.rows(Draws([0]), 1_000)
    torch.testing.assert_close(module(x), y)
    assert float(y.var(dim=(0, 1)).mean()) == pytest.approx(config.variance, rel=0.05)
    stack = Stack({name: tensor[None] for name, tensor in weights.items()}, torch.zeros(1), Grid((0,)), 0.5)
    assert single(stack).all()
    assert live(stack).all()


def test_a_neuron_that_writes_two_outputs_is_not_single_and_one_without_weights_is_not_live():
    weights = exact_abs(3)
    weights["write.weight"][1, 0] = 0.5
    weights["read.weight"][2] = 0
    stack = Stack({name: tensor[None] for name, tensor in weights.items()}, torch.zeros(1), Grid((0,)), 0.5)
    assert single(stack)[0].tolist() == [False, True, True, True, True, True]
    assert live(stack)[0].tolist() == [True, True, False, True, True, True]


def test_untrained_networks_are_not_measured():
    config = MissedSolutionToy(seeds=(0, 1), batch=16, optimiser=SHORT)
    for experiment in (conjunctions, absolute_values, sparse_absolute_values):
        assert {c.outcome for c in experiment(config, Silent())} == {"not_measured"}


def test_an_instance_does_not_depend_on_its_stack():
    config = MissedSolutionToy(seeds=(0, 1), batch=16, optimiser=SHORT)
    alone = train(config.model_copy(update={"seeds": (1,)}), Silent())
    together = train(config, Silent())
    torch.testing.assert_close(together.parameters["read.weight"][1], alone.parameters["read.weight"][0])
    torch.testing.assert_close(together.loss[1], alone.loss[0])


def test_module_is_that_of_the_stack():
    stack = train(MissedSolutionToy(seeds=(0,), batch=16, optimiser=SHORT), Silent())
    assert isinstance(stack.into(MissedSolutionToy().build(), 0), Perceptron)
    torch.testing.assert_close(
        stack.into(MissedSolutionToy().build(), 0).read.weight.detach(), stack.parameters["read.weight"][0]
    )


@pytest.mark.parametrize(
    "bad", [{"n_neurons": 9}, {"task": "abs", "n": 6, "n_neurons": 11}, {"density": 1.5}, {"seeds": ()}]
)
def test_bad_config_is_an_error(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        MissedSolutionToy.model_validate(bad)
