"""Directions to read and to write: closed forms, invariances, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.causal.directions import (
    difference_of_means,
    duals,
    leaks,
    linear_probe,
    optimal_probe,
    surgical_steering,
)
from polyseme.core.errors import InputError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: torch.Tensor, b: object, **tolerance: float) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), **({"atol": 1e-9, "rtol": 1e-9} | tolerance))


PAIR = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
ANGLES = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 5
PENTAGON = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)


def test_a_pair_at_60_degrees():
    close(duals(PAIR), [[1.0, -1 / math.sqrt(3)], [0.0, 2 / math.sqrt(3)]])
    close(leaks(duals(PAIR), duals(PAIR)), [[1.0, -0.5], [-0.5, 1.0]])
    close(leaks(duals(PAIR), PAIR), torch.eye(2))


def test_a_pentagon_is_read_by_its_own_features():
    probe = optimal_probe(PENTAGON)
    close(probe.r2, [0.4] * 5)
    close(probe.directions, 0.4 * PENTAGON)
    close(leaks(probe.directions, PENTAGON)[0], [math.cos(2 * math.pi * k / 5) for k in range(5)])


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 7), d=st.integers(1, 7), seed=st.integers(0, 2**20))
def test_duals_of_any_features(n: int, d: int, seed: int):
    features = normal(n, d, seed=seed)
    if n <= d:
        close(duals(features) @ features.T, torch.eye(n), atol=1e-6)
        close(surgical_steering(duals(features)), features, atol=1e-6, rtol=1e-6)
    probe = optimal_probe(features)
    close(probe.directions, duals(features), atol=1e-6, rtol=1e-6)
    assert float(probe.r2.sum()) == pytest.approx(min(n, d))


def test_one_rotation_turns_them_all():
    features, turn = normal(3, 6), torch.linalg.qr(normal(6, 6, seed=1)).Q
    close(duals(features @ turn), duals(features) @ turn)
    close(surgical_steering(features @ turn), surgical_steering(features) @ turn)
    close(duals(features * 4), duals(features) / 4)


def test_a_dictionary_in_its_own_precision():
    assert duals(PAIR.float()).dtype == torch.float32
    assert surgical_steering(PAIR.float()).dtype == torch.float32
    assert linear_probe(normal(50, 2).float(), normal(50, 1).float()).directions.dtype == torch.float32


def test_a_fitted_probe_is_the_best_one_for_the_covariance_it_sees():
    features, z = normal(5, 3), normal(4000, 5, seed=1) @ normal(5, 5, seed=2) + 2
    fitted = linear_probe(z @ features, z)
    best = optimal_probe(features, z.T.cov(correction=0), z.mean(0))
    close(fitted.directions, best.directions, atol=1e-8)
    close(fitted.bias, best.bias, atol=1e-7)
    close(fitted.r2, best.r2, atol=1e-8)
    error = (fitted(z @ features) - z).square().mean(0) / z.var(0, correction=0)
    close(1 - error, fitted.r2, atol=1e-8)


def test_no_other_direction_reads_better():
    features, z = normal(4, 2), normal(500, 4, seed=1)
    x = z @ features
    probe = linear_probe(x, z)
    least = (probe(x) - z).square().sum(0)
    for seed in range(5):
        moved = x @ (probe.directions + 0.05 * normal(4, 2, seed=seed)).T + probe.bias
        assert ((moved - z).square().sum(0) > least).all()


def test_values_that_do_not_vary_have_no_r2():
    x = normal(50, 3)
    probe = linear_probe(x, torch.stack([torch.ones(50, dtype=torch.float64), x[:, 0]], dim=1))
    assert probe.r2.isnan().tolist() == [True, False]
    assert float(probe.r2[1]) == pytest.approx(1)


def test_difference_of_means_by_hand():
    x = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
    on = torch.tensor([[False, True], [True, True], [False, True], [True, True]])
    found = difference_of_means(x, on)
    assert float(found[0]) == 2.0
    assert found[1].isnan().all()


def test_difference_of_means_takes_a_share_of_what_goes_with_a_feature():
    # All four states once: independent. The state (1, 1) twice more: each goes with the other.
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    close(difference_of_means(states @ PAIR, states > 0), PAIR)
    more = torch.cat([states, states[3:], states[3:]])
    share = 3 / 4 - 1 / 2
    close(difference_of_means(more @ PAIR, more > 0), PAIR + share * PAIR.flip(0))


def test_surgical_steering_is_the_shortest_that_changes_one_read_off():
    readers = normal(3, 8)
    steering = surgical_steering(readers)
    close(steering @ readers.T, torch.eye(3), atol=1e-8)
    across = torch.linalg.svd(readers).Vh[3:]
    close(steering @ across.T, torch.zeros(3, 5), atol=1e-8)


def test_readers_that_depend_on_each_other_are_named():
    readers = normal(4, 6)
    readers[3] = readers[0] - 2 * readers[2]
    with pytest.raises(InputError, match=r"3 of 4 readers.*readers 0, 2, 3"):
        surgical_steering(readers)
    with pytest.raises(InputError, match="5 of 5 readers in 2 dimensions"):
        surgical_steering(PENTAGON)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="not finite"):
        duals(torch.tensor([[math.nan, 1.0]]))
    with pytest.raises(InputError, match="no features"):
        duals(torch.zeros(0, 3))
    with pytest.raises(InputError, match="whatever the values are"):
        linear_probe(normal(4, 3), normal(4, 1))
    with pytest.raises(InputError, match="9 rows of activations and 8"):
        linear_probe(normal(9, 3), normal(8, 1))
    with pytest.raises(InputError, match="9 rows of activations and 8"):
        difference_of_means(normal(9, 3), normal(8, 1) > 0)
    with pytest.raises(InputError, match="covariance"):
        optimal_probe(PAIR, torch.eye(3, dtype=torch.float64))
