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


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("authority", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("start", [0.1, 1.0, 10.0])
def test_the_controller_settles_with_the_coefficient_that_holds_l0_by_itself(slope, authority, start):
    """log L0 = log 500 − slope × log threshold; beside the shares, the coefficient c drives log threshold by at most
    `authority` × pace a step, up where c > 2 and down where c < 2: Adam."""
    controller, threshold, lowest = L0Controller(start, target=24.0, approach=200), 0.0, math.inf
    for _ in range(3000):
        l0 = 500.0 * math.exp(-slope * threshold)
        lowest = min(lowest, l0)
        share = controller.observe(l0, act=True)
        threshold += share + controller.pace * authority * math.tanh(math.log(controller.coefficient / 2.0))
    assert l0 == pytest.approx(24.0, rel=0.02)
    assert lowest > 0.8 * 24.0
    assert controller.coefficient == pytest.approx(2.0, rel=0.05)


def test_thresholds_hold_l0_where_the_coefficient_cannot():
    """Nothing that the coefficient does reaches L0, which falls by itself."""
    controller, threshold = L0Controller(1.0, target=24.0, approach=200), 0.0
    for step in range(1500):
        rate = min(1.0, (1500 - step) / 300)
        l0 = 500.0 * math.exp(-threshold)
        threshold += controller.observe(l0, act=True, rate=rate) + 0.01 * rate
    assert l0 == pytest.approx(24.0, rel=0.02)


def test_a_share_by_hand():
    controller = L0Controller(2.0, target=10.0, pace=0.1)
    assert controller.observe(20.0, act=True) == 0.0  # the reference starts where L0 is
    running = 0.6 * 20.0 + 0.4 * 15.0
    share = controller.observe(15.0, act=True, rate=0.25)
    assert share == pytest.approx(0.2 * 0.5 * math.log(running / 10.0))
    assert controller.coefficient == pytest.approx(2.0 * math.exp(0.05 * share / 0.1))
    assert controller.observe(1e9, act=True) == 0.1
    assert controller.misses
    assert not L0Controller(2.0, target=10.0, l0=10.5).misses
    assert L0Controller(2.0, target=10.0).misses
    assert not L0Controller(2.0, target=None).misses


def test_the_controller_leaves_the_coefficient_alone_without_a_target_or_when_held():
    free, held = L0Controller(2.0, target=None), L0Controller(2.0, target=5.0)
    for l0 in (1.0, 100.0, 0.0):
        assert free.observe(l0, act=True) == held.observe(l0, act=False) == 0.0
    assert free.coefficient == held.coefficient == 2.0


def test_an_l0_of_zero_lowers_the_coefficient_without_breaking_it():
    controller = L0Controller(2.0, target=5.0)
    for _ in range(10):
        share = controller.observe(0.0, act=True)
    assert share <= 0
    assert 0 < controller.coefficient < 2.0


def test_a_restored_controller_goes_on_alike():
    one = L0Controller(1.0, target=5.0)
    one.observe(9.0, act=True)
    other = L0Controller(7.0, target=5.0).restored(one.state())
    one.observe(8.0, act=True)
    other.observe(8.0, act=True)
    assert one == other
