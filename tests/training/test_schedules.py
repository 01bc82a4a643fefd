import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.training.controller import L0Controller
from polyseme.training.schedules import auto_learning_rate, learning_rate, ramp


def test_the_learning_rate_by_hand():
    rates = [learning_rate(t, 10, peak=2.0, warmup=4, decay=5) for t in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 1.6, 1.2, 0.8, 0.4])
    assert [learning_rate(t, 3, peak=2.0, warmup=0, decay=0) for t in range(3)] == [2.0] * 3


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1))
def test_the_learning_rate_is_positive_and_at_most_its_peak(n, warmup, decay):
    warm, down = round(warmup * n), round(min(decay, 1 - warmup) * n)
    rates = [learning_rate(t, n, peak=1.0, warmup=warm, decay=down) for t in range(n)]
    assert all(0 < rate <= 1 for rate in rates)
    if warm + down <= n - 1:
        assert max(rates) == 1


def test_the_ramp_by_hand():
    assert [ramp(t, 4) for t in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert ramp(0, 0) == 1


def test_the_default_rate_follows_width_and_length():
    assert auto_learning_rate(2**14, 10**6) == pytest.approx(2e-4)
    assert auto_learning_rate(2**14, 10**4) == pytest.approx(2e-4)
    assert auto_learning_rate(2**14, 10**2) == pytest.approx(2e-3)
    assert auto_learning_rate(2**10, 400) == pytest.approx(4e-3)
    assert auto_learning_rate(32, 400) == 5e-3


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("lag", [1, 30, 100])
@pytest.mark.parametrize("start", [0.1, 1.0, 10.0])
def test_the_controller_settles_on_a_plant_with_a_lag(slope, lag, start):
    """log L0 follows −slope × log coefficient through a first-order lag: an idealised dictionary."""
    controller = L0Controller(start, target=24.0, approach=200)
    log_l0 = math.log(500.0)
    for _ in range(1500):
        log_l0 += (math.log(60.0) - slope * math.log(controller.coefficient) - log_l0) / lag
        controller.observe(math.exp(log_l0), act=True)
    assert math.exp(log_l0) == pytest.approx(24.0, rel=0.03)


def test_the_controller_does_not_wind_up_on_a_plant_that_moves_at_its_own_pace():
    """log L0 moves by at most 0.01 a step, whatever the coefficient: Adam."""
    controller = L0Controller(1.0, target=24.0, approach=200)
    log_l0, lowest, highest = math.log(500.0), math.inf, 0.0
    for _ in range(1500):
        pull = math.log(60.0) - math.log(controller.coefficient) - log_l0
        log_l0 += max(-0.01, min(0.01, pull / 10))
        lowest, highest = min(lowest, log_l0), max(highest, controller.coefficient)
        controller.observe(math.exp(log_l0), act=True)
    assert math.exp(log_l0) == pytest.approx(24.0, rel=0.03)
    assert math.exp(lowest) > 0.5 * 24.0
    assert highest < 100 * 60.0 / 24.0


def test_the_controller_leaves_the_coefficient_alone_without_a_target_or_when_held():
    free, held = L0Controller(2.0, target=None), L0Controller(2.0, target=5.0)
    for l0 in (1.0, 100.0, 0.0):
        free.observe(l0, act=True)
        held.observe(l0, act=False)
    assert free.coefficient == held.coefficient == 2.0


def test_an_l0_of_zero_lowers_the_coefficient_without_breaking_it():
    controller = L0Controller(2.0, target=5.0)
    for _ in range(10):
        controller.observe(0.0, act=True)
    assert 0 < controller.coefficient < 2.0


def test_a_restored_controller_goes_on_alike():
    one = L0Controller(1.0, target=5.0)
    one.observe(9.0, act=True)
    other = L0Controller(7.0, target=5.0).restored(one.state())
    one.observe(8.0, act=True)
    other.observe(8.0, act=True)
    assert one == other
