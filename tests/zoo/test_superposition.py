"""The toy model of superposition: exact answers, honest causes, and checks that cannot pass by accident."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.superposition.checks import (
    capacities,
    dictionaries,
    factorised,
    hidden_vectors,
    pentagon,
    polygons,
)
from polyseme.zoo.superposition.exact import (
    antipodal_loss,
    best_polygon,
    boundary,
    dropped_loss,
    expected_loss,
    line_at,
    one_hot_loss,
    sticky,
    vanished_first,
)
from polyseme.zoo.superposition.sweeps import edge, phase, sticky_checks
from polyseme.zoo.superposition.toy import (
    Networks,
    SuperpositionToy,
    cause,
    ceiling,
    features,
    final_loss,
    importances,
    initial,
    train,
)
from polyseme.zoo.tools.geometry import dimensionality, polygon
from polyseme.zoo.tools.stack import Draws, OptimiserConfig


def corners(k: int, length: float = 1.0) -> torch.Tensor:
    return torch.tensor(polygon(k, length), dtype=torch.float32)


def test_one_hot_loss_is_the_integral():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, 4))
    x = (np.arange(200_000) + 0.5) / 200_000
    for b in (-0.4, 0.0, 0.3):
        sampled = 0.0
        for i in range(4):
            out = np.maximum(np.outer(x, W[:, i] @ W) + b, 0)
            out[:, i] -= x
            sampled += (out**2).sum(1).mean() / 4
        assert one_hot_loss(W.T @ W, b) == pytest.approx(sampled, rel=1e-6)


def test_square_is_two_antipodal_pairs_without_any_loss():
    length, b, loss = best_polygon(4)
    assert (length, b, loss) == pytest.approx((1, 0, 0), abs=1e-5)


def test_polygons_pass():
    assert {c.outcome for c in polygons(SuperpositionToy(), Silent())} == {"pass"}


@pytest.mark.parametrize("r", [0.2, 1.0, 3.0])
def test_boundary_is_where_the_losses_meet(r: float):
    p = boundary(r)
    assert antipodal_loss(p, r) == pytest.approx(dropped_loss(p, r), rel=1e-12)
    assert antipodal_loss(p / 2, r) < dropped_loss(p / 2, r)


def test_boundary_of_equal_importances():
    assert boundary(1.0) == pytest.approx(4 / 7)


def test_expected_loss_of_nothing_is_the_second_moment():
    p = torch.tensor([0.3, 1.0])
    weights = torch.tensor([[1.0, 2.0], [1.0, 1.0]])
    loss = expected_loss(torch.zeros(2, 1, 2), torch.zeros(2, 2), p, weights)
    assert loss.tolist() == pytest.approx([0.3, 2 / 3])


def test_a_line_needs_a_crowd_and_flanks():
    flat = np.linspace(0, 1, 4000)
    assert not line_at(flat, 0.5)
    crowd = np.concatenate([flat, np.full(60, 0.5)])
    assert line_at(crowd, 0.5)
    assert not line_at(crowd, 0.75)
    assert not line_at(np.full(9, 0.5), 0.5)
    assert not sticky(crowd)
    assert sticky(np.concatenate([crowd, np.full(60, 0.4)]))


def test_vanishing_counts_what_is_left_out_before_the_last_kept():
    assert vanished_first([True, True, False, False]) == 0
    assert vanished_first([True, False, True, False]) == 1
    assert vanished_first([False, False, True]) == 2
    assert vanished_first([False, False]) == 0


def test_edge_parts_opposite_from_the_rest():
    seen = {0.1: "opposite", 0.2: "opposite", 0.4: "one", 0.8: "same"}
    assert edge(seen) == pytest.approx(math.sqrt(0.2 * 0.4))
    assert math.isnan(edge(dict.fromkeys(seen, "opposite")))
    assert math.isnan(edge({**seen, 0.8: "none"}))


def test_phases_are_told_by_size_and_sign():
    found = [phase(torch.tensor(w)) for w in ([1.0, -0.9], [0.7, 0.7], [1.0, 0.2], [-0.1, 1.1])]
    assert found == ["opposite", "same", "one", "one"]


def test_causes():
    eye, turn = torch.eye(3), torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    dropped = torch.zeros(4, 3)
    assert cause(torch.cat([eye[[2, 0, 1]], dropped])) == "aligned"
    assert cause(torch.cat([eye, dropped]) @ turn) == "rotated"
    assert cause(corners(5, 1.13)) == "superposition"
    assert cause(torch.cat([eye, -eye])) == "superposition"
    assert cause(dropped) is None
    nearly = torch.tensor([[1.0, 0.0], [0.15, 1.0]])
    assert cause(nearly) is None
    pair = torch.tensor([[0.7, 0.0], [0.7, 0.0], [0.0, 0.7], [0.0, 0.7]])
    assert cause(pair, "correlated") == "correlated"
    assert cause(pair) == "superposition"


def test_pairs_are_on_together_or_never():
    draws = lambda: Draws([1, 2], "data")  # noqa: E731
    p = torch.tensor([0.1, 0.4])
    both = features(SuperpositionToy(n_features=4, correlation="correlated"), draws(), p, 20_000)
    assert torch.equal(both[..., ::2] > 0, both[..., 1::2] > 0)
    never = features(SuperpositionToy(n_features=4, correlation="anticorrelated"), draws(), p, 20_000)
    assert not ((never[..., ::2] > 0) & (never[..., 1::2] > 0)).any()
    for x in (both, never):
        torch.testing.assert_close((x > 0).float().mean((1, 2)), p, atol=0.01, rtol=0)


def test_a_network_does_not_depend_on_its_stack():
    common = {"density": (0.1, 0.5), "importance": (0.8, 1.0), "batch": 32, "optimiser": OptimiserConfig(steps=20)}
    many = train(SuperpositionToy(seeds=(3, 4, 5), **common), Silent())
    one = train(SuperpositionToy(seeds=(4,), **common | {"density": (0.5,), "importance": (0.8,)}), Silent())
    (at,) = (i for i in many.where(density=0.5, importance=0.8) if many.grid.seeds[i] == 4)
    torch.testing.assert_close(many.W[at], one.W[0], atol=1e-6, rtol=1e-5)


def test_turning_the_basis_changes_no_output():
    base = {"seeds": (0, 1), "batch": 64, "optimiser": OptimiserConfig(steps=50, lr=1e-2)}
    free = train(SuperpositionToy(**base), Silent())
    for basis in ("aligned", "rotated"):
        turned = train(SuperpositionToy(**base, basis=basis), Silent())
        torch.testing.assert_close(turned.W.mT @ turned.W, free.W.mT @ free.W, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(turned.W, free.W, atol=1e-2)


@pytest.mark.parametrize("basis", ["aligned", "rotated"])
def test_dense_twins_differ_in_their_basis_alone(basis: str):
    config = SuperpositionToy.model_validate(
        {
            "n_features": 8,
            "n_hidden": 3,
            "density": (1.0,),
            "importance": (0.6,),
            "basis": basis,
            "seeds": (0, 1, 2),
            "batch": 256,
            "optimiser": OptimiserConfig(steps=1500, lr=1e-2, schedule="linear"),
        }
    )
    toys = config.train(Silent())
    assert all(toy.trained for toy in toys)
    assert [toy.truth.cause for toy in toys] == [basis] * 3


def test_the_site_holds_the_directions():
    config = SuperpositionToy(basis="relu", seeds=(0,), batch=64, optimiser=OptimiserConfig(steps=30, lr=1e-2))
    (toy,) = config.train(Silent())
    network = toy.network()
    read = network.read(torch.eye(5), [toy.truth.site])[toy.truth.site]
    assert toy.truth.directions is not None
    torch.testing.assert_close(read, toy.truth.directions)


def test_untrained_networks_are_not_measured():
    config = SuperpositionToy(seeds=(0, 1), optimiser=OptimiserConfig(steps=20, lr=0.0))
    assert {c.outcome for c in pentagon(config, Silent())} == {"not_measured"}


def test_the_ceiling_is_what_the_hand_made_network_costs():
    for p, r in ((0.2, 0.5), (0.9, 0.5)):
        best = min(antipodal_loss(p, r), dropped_loss(p, r))
        assert ceiling(SuperpositionToy(n_features=2, n_hidden=1), p, r) == pytest.approx(1.1 * best)


def test_the_final_loss_is_the_expected_one():
    config = SuperpositionToy(n_features=2, n_hidden=1, density=(0.3, 0.01), importance=(0.5,), seeds=(0,))
    W, b = torch.tensor([[[1.0, -0.8]]]).expand(2, -1, -1), torch.tensor([[0.1, -0.05]]).expand(2, -1)
    exact = expected_loss(W, b, torch.tensor(config.density), torch.tensor([[1.0, 0.5]]).expand(2, -1))
    torch.testing.assert_close(final_loss(config, W, b, torch.zeros(2)).double(), exact, rtol=0.03, atol=0)


@pytest.mark.parametrize("correlation", ["correlated", "anticorrelated"])
def test_the_final_loss_of_pairs_is_what_rows_give(correlation: str):
    config = SuperpositionToy(
        n_features=4, n_hidden=2, density=(0.3,), importance=(0.7,), correlation=correlation, seeds=(0,)
    )
    W, b = initial(config)
    x = features(config, Draws([7]), torch.tensor(config.density), 200_000)
    errors = (x - torch.relu(x @ W.mT @ W + b[:, None])).square() @ importances(0.7, 4)
    found = final_loss(config, W, b, torch.zeros(1))
    torch.testing.assert_close(found, errors.mean(1), rtol=0.03, atol=0)


def test_many_features_take_the_loss_of_the_last_batches():
    config = SuperpositionToy(n_features=12, n_hidden=3, seeds=(0,))
    W, b = initial(config)
    assert final_loss(config, W, b, torch.tensor([0.25])).tolist() == [0.25]


def test_sticky_checks_fail_without_structure_and_tell_untrained_networks():
    config = SuperpositionToy(n_features=60, n_hidden=10, density=tuple(np.geomspace(1, 0.05, 20)), seeds=(0,))
    W, b = initial(config)
    good, bad = (Networks.of(config, W, b, torch.full((20,), loss)) for loss in (0.0, math.nan))
    found = {c.name: c.outcome for c in sticky_checks(good)}
    assert found["lines in the features' dimensionalities (1: yes)"] == "fail"
    assert set(list(found.values())[2:]) == {"pass"}
    assert {c.outcome for c in sticky_checks(bad)} == {"not_measured"}


def test_capacity_is_dimensionality_for_any_size():
    config = SuperpositionToy(n_features=7, n_hidden=3, seeds=(1,), batch=16, optimiser=OptimiserConfig(steps=2))
    assert {c.outcome for c in capacities(config, Silent())} == {"pass"}
    assert dimensionality(corners(5).double()).tolist() == pytest.approx([0.4] * 5)


def test_factorisations_stop_at_the_rank_where_a_dictionary_does_not():
    config = SuperpositionToy(seeds=(1,))
    stack = Networks.of(config, corners(5, 1.13).T[None].contiguous(), torch.zeros(1, 5), torch.zeros(1))
    (h,) = hidden_vectors(stack, 10_000)
    found = {"dictionary": dictionaries(stack, [h], Silent(), n_tokens=100_000)[0], **factorised(h, 2, seed=0)}
    units = {how: torch.nn.functional.normalize(rows, dim=1) for how, rows in found.items()}
    recovered = {how: int(((rows @ corners(5).T).amax(0) >= 0.95).sum()) for how, rows in units.items()}
    assert recovered["dictionary"] >= 4
    assert recovered["SVD"] <= 2
    assert recovered["NMF"] <= 2


@pytest.mark.parametrize(
    "bad",
    [
        {"density": ()},
        {"density": (0.0,)},
        {"density": (1.5,)},
        {"importance": (-1.0,)},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"n_hidden": 6},
        {"correlation": "correlated"},
        {"correlation": "anticorrelated", "n_features": 4, "density": (0.7,)},
        {"n_features": 0},
    ],
)
def test_what_cannot_be_is_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        SuperpositionToy.model_validate(bad)
