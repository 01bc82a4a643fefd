"""Closed forms of the geometry behind the signatures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.diagnosis.components import independent_sources, sparse_dictionary
from polyseme.diagnosis.config import DiagnosisConfig
from polyseme.diagnosis.geometry import (
    concentration,
    overlaps,
    p_value,
    purity,
    random_arrangements,
    rank,
    rotations,
    turned,
    turned_purity,
    varimax,
    worst_purity,
)
from polyseme.diagnosis.signatures.arrangement import crowding
from polyseme.diagnosis.signatures.sparse_read import sparse_codes
from polyseme.diagnosis.variables import canonical_order, resting, typical, variables_of

PENTAGON = np.stack([np.cos(np.arange(5) * 2 * np.pi / 5), np.sin(np.arange(5) * 2 * np.pi / 5)], 1)


def test_purity_of_known_arrangements():
    assert purity(np.eye(3)) == 1
    assert purity(np.ones((4, 3))) == 0.25
    assert concentration(np.ones((4, 3))) == pytest.approx(1 / 3)
    # (DDᵀ)^½ of two directions at 60° has rows (√3 + 1, √3 − 1) / 2√2.
    sixty = np.array([[1, 0], [0.5, np.sqrt(3) / 2]])
    assert turned_purity(sixty) == pytest.approx((2 + np.sqrt(3)) / 4)
    assert turned_purity(PENTAGON) == pytest.approx(0.4)


def test_varimax_undoes_a_rotation_of_features_even_from_the_saddle_at_45_degrees():
    neurons = np.array([[1.0, 1, 0, 0], [0, 0, 1, 2]])
    for turn in (np.array([[1, 1], [1, -1]]) / np.sqrt(2), rotations(1, 2, np.random.default_rng(3))[0]):
        assert purity(turn @ neurons) < 0.99
        assert purity(varimax(turn @ neurons)) == pytest.approx(1)


def test_one_shared_neuron_of_many_shows_in_the_worst_purity_alone():
    D = np.eye(20)
    D[1, :2] = [-1, 0]
    assert purity(D) == pytest.approx(19 / 20)
    assert worst_purity(D) == 0.5
    D[1, 0] = -1e-3
    assert worst_purity(D) == pytest.approx(1, abs=1e-5)


def test_crowding_of_a_pentagon_and_of_antipodal_pairs():
    near, far = np.cos(np.pi * 2 / 5) ** 2, np.cos(np.pi * 4 / 5) ** 2
    assert one_sided(PENTAGON) == pytest.approx(np.array([2 * near, 2 * near + 2 * far]))
    both_ways = np.concatenate([np.eye(3), -np.eye(3)])
    assert one_sided(both_ways) == pytest.approx(np.array([0, 1]))
    # Where the features have both signs, opposed directions are one line.
    assert crowding(both_ways, np.full(6, True)) == pytest.approx(np.array([1, 1]))
    first = overlaps(both_ways, np.array([True, *[False] * 5]))
    assert first[0, 3] == first[3, 0] == 1
    assert first[1, 4] == -1


def one_sided(directions):
    return crowding(directions, np.zeros(directions.shape[-2], dtype=bool))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6))
def test_rotations_keep_what_is_not_about_axes(seed: int, n: int, d: int):
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((n, d))
    Q = rotations(1, d, rng)[0]
    assert pytest.approx(np.eye(d)) == Q @ Q.T
    assert rank(D @ Q, 1e-6) == rank(D, 1e-6) == min(n, d)
    assert turned_purity(D @ Q) == pytest.approx(turned_purity(D), abs=1e-6)
    assert worst_purity(turned(D @ Q)) == pytest.approx(worst_purity(turned(D)), abs=1e-6)
    assert one_sided(D @ Q) == pytest.approx(one_sided(D), abs=1e-9)
    assert one_sided(3 * D) == pytest.approx(one_sided(D), abs=1e-9)


def test_re_initialised_directions_keep_what_they_say():
    D = np.random.default_rng(0).standard_normal((5, 3))
    drawn = random_arrangements(D, 4, np.random.default_rng(1))
    for other in drawn["same spectrum"]:
        assert np.linalg.svd(other, compute_uv=False) == pytest.approx(np.linalg.svd(D, compute_uv=False))
    for other in drawn["same entries"]:
        assert np.sort(other.ravel()) == pytest.approx(np.sort(D.ravel()))


def test_a_p_value_counts_the_value_itself():
    null = np.arange(99.0)
    assert p_value(1000.0, null, larger=True) == 0.01
    assert p_value(-1.0, null, larger=True) == 1
    assert p_value(-1.0, null, larger=False) == 0.01


def test_a_typical_distance_has_the_variables_unit_and_no_regard_to_how_often_it_is_on():
    x = np.array([0.0, 0, 0, 0, 0, 0, 3, 4])
    assert typical(x) == pytest.approx(np.sqrt(12.5))
    assert typical(-1e-5 * x) == pytest.approx(1e-5 * np.sqrt(12.5))
    assert typical(np.concatenate([x, np.zeros(1000)])) == typical(np.concatenate([x, x])) == typical(x)
    assert typical(np.zeros(3)) == typical(np.zeros(0)) == 0
    # One value a million times as large counts as three medians, and rounding near rest as rest.
    many = np.ones(99)
    assert typical(np.append(many, 1e6)) == pytest.approx(np.sqrt((99 + 9) / 100))
    assert typical(np.append(many, 1e-9)) == 1


def test_a_resting_value_is_the_mode_of_sparse_data_and_the_mean_of_dense():
    assert resting(np.array([2.0, 2.0, 2.0, 5.0, 6.0])) == 2
    dense = np.linspace(0, 1, 101)
    assert resting(dense) == pytest.approx(0.5)


def test_columns_are_ordered_by_what_they_hold():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(300, 6))
    x[:, 4] = 0.1
    order = canonical_order(x, np.random.default_rng(1))
    assert sorted(order) == list(range(6))
    assert order[-1] == 4
    places = rng.permutation(6)
    other = (x * [1e-3, 5, -1, 1e3, 1, -0.2] + [1, 0, -7, 1e3, 0, 2])[:, places]
    assert [places[i] for i in canonical_order(other, np.random.default_rng(1))] == list(order)


def test_copies_of_a_column_are_one_variable_and_constants_are_none():
    x = torch.rand(300, 3, generator=torch.Generator().manual_seed(0))
    a, b, c = x.T
    data = torch.stack([a, torch.full((300,), 0.1), b, 3 - 5 * a, c, (a + b) / 2], 1)
    found = variables_of(data, np.random.default_rng(0))
    assert found is not None
    assert sorted(found.names) == ["x0=x3", "x2", "x4", "x5"]
    held = dict(zip(found.names, found.columns, strict=True))
    assert held["x0=x3"].tolist() == [0, 3]
    tokens = torch.tensor([[5, 6, 7], [5, 6, 8], [9, 9, 7], [9, 9, 8]])
    present = variables_of(tokens, np.random.default_rng(0))
    assert present is not None
    assert sorted(present.names) == ["token 5=token 6=token 9", "token 7=token 8"]
    constant = variables_of(torch.ones(300, 2), np.random.default_rng(0))
    assert constant is not None
    assert constant.names == ()
    assert variables_of(torch.arange(200).reshape(100, 2), np.random.default_rng(0)) is None


def test_sparse_codes_of_orthonormal_directions_are_the_shrunk_projections():
    h = np.array([[1.0, 0.5, -0.3], [0.2, 0.0, 0.9]])
    codes = sparse_codes(h, np.eye(3), 0.1)
    assert codes == pytest.approx(np.maximum(h - 0.1 * h.max(1, keepdims=True), 0), abs=1e-6)


def test_independent_sources_and_overcomplete_atoms_are_found():
    rng = np.random.default_rng(0)
    s = rng.uniform(size=(3000, 3)) * (rng.uniform(size=(3000, 3)) < 0.3)
    mixing = rng.standard_normal((3, 4))
    found = independent_sources(s @ mixing, np.arange(3000), rng)
    correlation = np.abs(np.corrcoef(s.T, found.values.T)[:3, 3:])
    assert correlation.max(1).min() > 0.98
    one_hot = np.eye(5)[rng.integers(0, 5, 2000)] * rng.uniform(0.5, 1, (2000, 1))
    atoms = sparse_dictionary(one_hot @ PENTAGON, 10, 1, rng)
    assert np.abs(PENTAGON @ atoms.T).max(1).min() > 0.99


@pytest.mark.parametrize("alpha", [0.01, 0.013, 0.02, 0.5])
@pytest.mark.parametrize("tests", [1, 2])
def test_a_null_has_the_draws_that_let_its_test_be_passed(alpha: float, tests: int) -> None:
    config = DiagnosisConfig(alpha=alpha, n_null=200)
    for wanted in (50, 100, 5000):
        draws = config.draws(wanted, tests=tests)
        assert draws >= wanted
        assert tests * p_value(1.0, np.zeros(draws), larger=True) <= alpha
    assert DiagnosisConfig().draws(100, tests=2) == 100  # as before at the default level
