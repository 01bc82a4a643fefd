"""Compressed computation: the floor, the naive loss, and that nothing is gained without mixing."""

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.compressed_computation import toy as networks
from polyseme.zoo.compressed_computation.toy import (
    CompressedComputationToy,
    gains,
    identity,
    in_top_eigenspace,
    mixing_matrices,
    naive_loss,
    one_hot,
    one_hot_floor,
    one_hot_loss,
    train,
)
from polyseme.zoo.tools.stack import Draws, OptimiserConfig

TINY = CompressedComputationToy(
    n_features=10,
    n_hidden=5,
    d_embed=50,
    seeds=(0, 1),
    batch=64,
    optimiser=OptimiserConfig(steps=300, weight_decay=0.0),
)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "EVALUATION_ROWS", 8192)
    monkeypatch.setattr(networks, "EVALUATION_BLOCK", 4096)


def test_without_mixing_the_floor_is_the_naive_loss() -> None:
    assert naive_loss(CompressedComputationToy()) == pytest.approx(1 / 12)
    assert float(one_hot_floor(torch.zeros(10, 10), 5)) == pytest.approx(naive_loss(TINY))


def test_no_network_is_under_the_floor() -> None:
    draws = Draws(range(20))
    M = mixing_matrices(torch.full((20,), 0.2), draws, 6)
    loss = one_hot_loss(draws.normal(3, 6), draws.normal(6, 3), M)
    assert (loss >= one_hot_floor(M, 3)).all()


def test_the_one_hot_loss_is_the_rare_limit_of_the_sampled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY.model_copy(update={"density": 0.001, "mixing": (0.1,), "optimiser": OptimiserConfig(steps=1, lr=0.0)})
    monkeypatch.setattr(networks, "EVALUATION_ROWS", 1 << 18)
    stack = train(config, Silent())
    torch.testing.assert_close(stack.loss, one_hot_loss(**stack.parameters, M=stack.M), rtol=0.1, atol=0)


def test_mixing_is_symmetric_and_of_its_size() -> None:
    M = mixing_matrices(torch.tensor([0.02, 0.0]), Draws([0, 1]), 100)
    assert torch.equal(M, M.mT)
    assert not M.diagonal(dim1=-2, dim2=-1).any()
    assert float(M[0][~torch.eye(100, dtype=torch.bool)].std()) == pytest.approx(0.02, rel=0.05)
    assert not M[1].any()


def test_eigenvectors_lie_in_their_eigenspace() -> None:
    M = mixing_matrices(torch.tensor([0.1]), Draws([0]), 8)
    vectors = torch.linalg.eigh(M).eigenvectors
    assert float(in_top_eigenspace(vectors[..., -3:].mT, M)) == pytest.approx(1, abs=1e-5)
    assert float(in_top_eigenspace(vectors[..., :3].mT, M)) == pytest.approx(0, abs=1e-5)


def test_the_identity_holds_for_any_size() -> None:
    assert {c.outcome for c in identity(TINY, Silent())} == {"pass"}


def test_the_gain_is_that_of_the_mixing() -> None:
    # 5 of 10 features: σ is scaled so that the spectrum of M, 2σ√n, is as wide as at the documented size.
    config = TINY.model_copy(
        update={
            "mixing": (0.0, 0.1),
            "optimiser": OptimiserConfig(steps=800, lr=1e-2, weight_decay=0.0, schedule="cosine"),
        }
    )
    stack = train(config, Silent(), one_hot=True)
    gain = 1 - stack.loss / naive_loss(config)
    assert (gain[:2].abs() < 0.01).all()
    assert (gain[2:] > 0.05).all()


def test_untrained_networks_are_not_measured() -> None:
    config = TINY.model_copy(update={"mixing": (0.0, 0.02), "optimiser": OptimiserConfig(steps=1, lr=1e4)})
    checks = gains(config, train(config, Silent(), one_hot=True), "p → 0")
    assert {c.outcome for c in checks} == {"not_measured"}


def test_one_hot_says_where_the_gain_comes_from() -> None:
    names = [c.name for c in one_hot(TINY.model_copy(update={"seeds": (0, 1)}), Silent())]
    assert sum("gain" in name for name in names) == 3
    assert sum("eigenspace" in name for name in names) == 2


def test_a_network_does_not_depend_on_its_batch() -> None:
    config = TINY.model_copy(update={"optimiser": OptimiserConfig(steps=20)})
    together = train(config, Silent())
    alone = train(config.model_copy(update={"mixing": (0.02,), "seeds": (1,)}), Silent())
    torch.testing.assert_close(together.parameters["W_in"][5], alone.parameters["W_in"][0], rtol=0, atol=1e-6)


def test_truth_is_what_one_sided_features_write() -> None:
    toy = TINY.model_copy(update={"optimiser": OptimiserConfig(steps=20)}).train(Silent())[0]
    site, x = toy.truth.site, torch.cat([torch.eye(10), -torch.eye(10)])
    assert toy.truth.directions is not None
    torch.testing.assert_close(toy.network().read(x, [site])[site], toy.truth.directions)


@pytest.mark.parametrize("bad", [{"n_hidden": 100}, {"mixing": (-0.1,)}, {"mixing": ()}, {"density": 0.0}])
def test_bad_input_comes_before_work(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CompressedComputationToy(**bad)
