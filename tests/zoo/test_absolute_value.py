"""Absolute value: exact networks, untrained ones, and that instances do not mix."""

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.absolute_value import toy as networks
from polyseme.zoo.absolute_value.toy import (
    AbsoluteValueNetwork,
    AbsoluteValueToy,
    Trained,
    densities,
    inputs,
    outputs,
    paired,
    scored,
    train,
    variance,
)
from polyseme.zoo.tools.neurons import largest_share, monosemantic
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "EVALUATION_ROWS", 4096)
    monkeypatch.setattr(networks, "EVALUATION_BLOCK", 2048)


def tiny(**fields: object) -> AbsoluteValueToy:
    fields = {"optimiser": OptimiserConfig(steps=20), **fields}
    return AbsoluteValueToy(n_features=4, n_hidden=4, density=(1.0, 0.01), seeds=(0, 1), batch=64, **fields)


def exact(n: int, solved: int) -> dict[str, torch.Tensor]:
    """A pair of neurons for each of the first `solved` of n features."""
    W = torch.zeros(1, 2 * solved, n)
    W[0, range(0, 2 * solved, 2), range(solved)] = 1
    W[0, range(1, 2 * solved, 2), range(solved)] = -1
    return {"W_in": W, "W_out": W.abs().mT.contiguous(), "b": torch.zeros(1, n)}


def stack(weights: dict[str, torch.Tensor]) -> Trained:
    m, n = weights["W_in"].shape[1:]
    config = AbsoluteValueToy(n_features=n, n_hidden=m, density=(1.0,), seeds=(0,))
    return scored(config, weights, Grid((0,), density=(1.0,)), Draws([0]))


def test_pairs_of_neurons_compute_the_absolute_value() -> None:
    weights = exact(4, 4)
    x = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
    torch.testing.assert_close(outputs(x, **weights), x.abs())
    net = stack(weights).into(AbsoluteValueNetwork(4, 8), 0)
    torch.testing.assert_close(net(x[0]), x[0].abs())


def test_an_exact_half_is_counted_as_such() -> None:
    found = stack(exact(4, 2))
    assert found.solved.tolist() == [2]
    assert found.monosemantic.tolist() == [1]
    assert found.cause(0) == "aligned"
    # Output 0 instead of |x| leaves E x² of Var |x|: a third of a twelfth.
    torch.testing.assert_close(found.unexplained[0], torch.tensor([0.0, 0.0, 4.0, 4.0]), atol=0.15, rtol=0)


def test_one_sign_alone_leaves_half_or_more() -> None:
    weights = exact(4, 2)
    weights["W_in"][0, 1::2] = 0
    assert stack(weights).solved.tolist() == [0]


def test_pairs_are_told_from_neurons_of_one_sign() -> None:
    weights = exact(2, 2)
    assert paired(stack(exact(4, 4))).tolist() == [True]
    both = weights["W_in"].clone()
    both[0, 1] = both[0, 0]
    assert paired(stack({**exact(2, 2), "W_in": both})).tolist() == [False]


def test_shares_of_a_neuron() -> None:
    share = largest_share(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
    assert share.tolist() == pytest.approx([0.64, 0.0, 1.0])
    assert monosemantic(torch.tensor([[3.0, 4.0], [0.0, -2.0]])).item() == 0.5


def test_the_data_have_the_variance_of_the_formula() -> None:
    density = torch.tensor([1.0, 0.3])
    x = inputs(Draws([0, 1]), density, 50_000, 2)
    torch.testing.assert_close(x.abs().var((1, 2)), variance(density), rtol=0.02, atol=0)
    assert abs(float(x.mean())) < 0.01


def test_a_network_does_not_depend_on_its_batch() -> None:
    together = train(tiny(), Silent())
    alone = train(tiny().model_copy(update={"density": (0.01,), "seeds": (1,)}), Silent())
    torch.testing.assert_close(together.parameters["W_in"][3], alone.parameters["W_in"][0], rtol=0, atol=1e-6)


def test_untrained_networks_are_not_measured() -> None:
    config = tiny(optimiser=OptimiserConfig(steps=1, lr=1e6))
    checks = densities(config, Silent())
    assert len(checks) == 4
    assert {c.outcome for c in checks} == {"not_measured"}


def test_truth_is_what_one_sided_features_write() -> None:
    toy = tiny().train(Silent())[0]
    site, directions = toy.truth.site, toy.truth.directions
    x = torch.cat([torch.eye(4), -torch.eye(4)])
    assert directions is not None
    torch.testing.assert_close(toy.network().read(x, [site])[site], directions)
    sample = toy.draw(8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample.features[:, :4] - sample.features[:, 4:], sample.inputs)


@pytest.mark.parametrize("bad", [{"density": (0.0,)}, {"density": (1.5,)}, {"density": ()}, {"seeds": ()}])
def test_bad_input_comes_before_work(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AbsoluteValueToy(**bad)
