"""Massive vectors are found where they are planted, and nowhere else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.activations.massive import CENTRE_ROWS, Massive, Ordinary, Spread, SpreadSums, distances


def gaussian(n: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def spread_of(x: torch.Tensor, position: torch.Tensor | None = None, batch: int = 10**9) -> Spread:
    position = torch.zeros(len(x), dtype=torch.int64) if position is None else position
    sums = SpreadSums()
    for rows in torch.arange(len(x)).split(batch):
        sums.see(x[rows], position[rows])
    return sums.finish()


def planted(n: int, every: int, factor: float, *, shift: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Gaussian vectors of which every so many-th is `factor` times as large."""
    x, at = gaussian(n, seed=seed), np.arange(0, n, every)
    x[torch.from_numpy(at)] *= factor
    return x + shift, at


def test_a_case_worked_by_hand():
    x = torch.tensor([[0.0], [1.0], [-1.0], [2.0], [-2.0], [100.0]]).repeat(1, 1)
    x = torch.cat([x[:5].repeat(20, 1), x[5:]])  # centre 0; distances 0, 1, 1, 2, 2, twenty times, and 100
    found = spread_of(x)
    assert found.centre.tolist() == [0.0]
    assert found.median == 2.0  # of 80 that are not at the centre, forty 1 and forty 2, and one 100
    assert found.limit(10) == 20.0
    massive = found.massive(10)
    assert (massive.n, massive.n_massive, massive.largest, massive.positions) == (101, 1, 100.0, ((0, 1),))
    assert massive.share == pytest.approx(100**2 / (100**2 + 40 * 1 + 40 * 4))
    assert massive.telling
    assert found.ordinary().mask(x, torch.zeros(101, dtype=torch.int64)).tolist() == [True] * 100 + [False]


@pytest.mark.parametrize(("n", "every", "factor"), [(50_000, 10_000, 100), (20_039, 5_000, 100), (6_000, 500, 1000)])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_rare_massive_vectors_are_found_and_told(n: int, every: int, factor: float, shift: float):
    x, at = planted(n, every, factor, shift=shift)
    found = spread_of(x)
    massive = found.massive()
    assert massive.n_massive == len(at)
    assert massive.telling
    assert (~found.ordinary().mask(x, torch.zeros(n, dtype=torch.int64))).nonzero().view(-1).tolist() == at.tolist()


def test_where_they_stand_is_told():
    x, at = planted(4000, 400, 200)
    position = torch.arange(4000) % 32
    position[torch.from_numpy(at)] = torch.tensor([0] * 6 + [1] * 3 + [7])
    massive = spread_of(x, position).massive(most_positions=2)
    assert massive.positions == ((0, 6), (1, 3))
    assert "10 of 4,000 train vectors are massive" in massive.sentence
    assert "at position 0 (6), 1 (3), …" in massive.sentence


def relu_sparse(n: int, share: float) -> torch.Tensor:
    """Neurons that are on at a small share of the vectors, sizes exponential."""
    generator = torch.Generator().manual_seed(1)
    on = torch.rand(n, 64, generator=generator) < share
    return on * -torch.rand(n, 64, generator=generator).log()


def power_law(n: int, exponent: float, seed: int) -> torch.Tensor:
    size = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) ** (-1 / exponent)
    return torch.nn.functional.normalize(gaussian(n, seed=seed + 1), dim=1) * size


@pytest.mark.parametrize(
    "x",
    [
        gaussian(20_000),
        gaussian(20_000, d=1),
        gaussian(20_000) + 1e4,
        gaussian(20_000).relu(),
        gaussian(20_000, d=1).exp(),
        relu_sparse(20_000, 0.05),
        relu_sparse(20_000, 0.0005),
        *(gaussian(20_000) * (gaussian(20_000, d=1, seed=s) * 0.8).exp() for s in (2, 3)),
        *(power_law(20_000, exponent, s) for exponent in (3.0, 4.0) for s in (0, 1, 2)),
        torch.zeros(100, 4),
        torch.ones(100, 4),
        gaussian(1),
        gaussian(2),
        gaussian(3) * torch.tensor([[1e-6], [1.0], [1e6]]),
    ],
)
def test_what_has_no_massive_vectors_raises_no_alarm(x: torch.Tensor):
    assert not spread_of(x).massive().telling


def test_half_a_site_at_one_point_sets_no_scale():
    """All zeros behind a ReLU for nine vectors in ten: the others are measured by their own median."""
    x = gaussian(10_000).abs() * (torch.arange(10_000) % 10 == 0)[:, None]
    assert spread_of(x).massive().n_massive == 0
    x[::1000] *= 300
    assert spread_of(x).massive().n_massive == 10


def test_where_many_lie_far_out_none_is_an_exception():
    x = gaussian(10_000) * torch.where(torch.arange(10_000) % 10 == 0, 100.0, 1.0)[:, None]
    found = spread_of(x)
    assert found.limit() == float("inf")
    assert found.ordinary().keeps_all
    assert found.massive().n_massive == 0


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    shift=st.sampled_from([0.0, 50.0]),
    batch=st.sampled_from([1, 7, 1000, 10**9]),
)
def test_scale_shift_order_and_batches_change_nothing(seed: int, scale: float, shift: float, batch: int):
    x, _ = planted(1500, 100, 50, seed=seed)
    plain = spread_of(x)
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(seed))
    moved = (x[order] + shift) * scale
    other = spread_of(moved, batch=batch)
    zeros = torch.zeros(1500, dtype=torch.int64)
    assert torch.equal(other.ordinary().mask(moved, zeros), plain.ordinary().mask(x, zeros)[order])
    one, two = plain.massive(), other.massive()
    assert (one.n_massive, one.apart, one.positions) == (two.n_massive, two.apart, two.positions)
    assert two.share == pytest.approx(one.share, rel=1e-4)
    assert two.median == pytest.approx(one.median * scale, rel=1e-4)


def test_batches_across_the_rows_of_the_centre_change_no_bit():
    x, _ = planted(CENTRE_ROWS + 700, 300, 40)
    whole = spread_of(x)
    for batch in (1, CENTRE_ROWS - 1, CENTRE_ROWS, CENTRE_ROWS + 1):
        other = spread_of(x, batch=batch)
        assert torch.equal(other.centre, whole.centre)
        assert np.array_equal(other.distances, whole.distances)
        assert np.array_equal(other.positions, whole.positions)


def test_a_vector_that_is_not_finite_is_left_to_those_who_refuse_it():
    x, at = planted(4000, 400, 200)
    x[1], x[2, 3] = float("nan"), float("inf")
    found = spread_of(x)
    assert found.massive().n_massive == len(at)
    mask = found.ordinary().mask(x, torch.zeros(4000, dtype=torch.int64))
    assert mask[1]
    assert mask[2]
    assert int((~mask).sum()) == len(at)


def test_a_norm_that_overflows_float32_is_massive():
    x = gaussian(1000)
    x[5] = 3e38
    assert spread_of(x).massive().n_massive == 1
    assert distances(x[5:6], torch.zeros(16)).isfinite().all()


def test_positions_are_left_out_with_and_without_a_limit():
    x, position = gaussian(6), torch.arange(6)
    only = Ordinary(torch.zeros(16), float("inf"), positions=2)
    assert not only.keeps_all
    assert only.mask(x, position).tolist() == [False, False, True, True, True, True]
    assert Ordinary(torch.zeros(16), 1e-9, positions=2).mask(x, position).sum() == 0


def test_a_spread_is_the_same_when_it_is_read_back():
    found = spread_of(*(lambda x: (x, torch.arange(len(x))))(planted(3000, 300, 30)[0]))
    again = Spread.of_tensors(found.tensors())
    assert again.massive() == found.massive()
    assert torch.equal(again.centre, found.centre)
    assert Massive.model_validate_json(found.massive().model_dump_json()) == found.massive()
