"""The ladder: read between its rungs, never beyond them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.core.errors import InputError
from polyseme.core.records import Interval, MetricRecord
from polyseme.evaluation.compute_equivalent import Rung, compute_equivalent

LADDER = [Rung(n_parameters=n, ce=ce) for n, ce in ((100_000, 5.0), (1_000_000, 4.0), (10_000_000, 3.0))]


def patched(value: float, low: float | None = None, high: float | None = None) -> MetricRecord:
    interval = None if low is None or high is None else Interval(low=low, high=high)
    return MetricRecord(name="ce_patched", value=value, interval=interval, n=100, scope={"set": "s", "site": "joint"})


def test_on_and_between_the_rungs():
    assert compute_equivalent(LADDER, patched(4.0)).value == pytest.approx(1e6)
    assert compute_equivalent(LADDER, patched(5.0)).value == pytest.approx(1e5)
    assert compute_equivalent(LADDER, patched(3.0)).value == pytest.approx(1e7)
    assert compute_equivalent(LADDER, patched(4.5)).value == pytest.approx(10**5.5)
    assert compute_equivalent(LADDER[::-1], patched(4.5)).value == pytest.approx(10**5.5)


def test_the_interval_is_that_of_the_ce_turned_round():
    record = compute_equivalent(LADDER, patched(4.5, 4.25, 5.5))
    assert math.isnan(record.interval.low)  # the ladder ends at 5.0
    assert record.interval.high == pytest.approx(10**5.75)
    assert compute_equivalent(LADDER, patched(4.5, 4.4, 4.6)).interval.low == pytest.approx(10**5.4)


def test_never_extrapolated():
    below = compute_equivalent(LADDER, patched(5.1), n_parameters=10_000_000)
    assert math.isnan(below.value)
    assert below.details["bound"] == "below the smallest"
    assert below.details["sentence"] == (
        "with every site patched the 10 M model predicts worse than the smallest plain model measured (0.1 M)"
    )
    above = compute_equivalent(LADDER, patched(2.9))
    assert above.details["bound"] == "above the largest"
    unmeasured = compute_equivalent(LADDER, patched(math.nan))
    assert math.isnan(unmeasured.value)
    assert unmeasured.details["sentence"] == "not measured"


def test_the_sentence():
    ladder = [
        Rung(n_parameters=60_000, ce=5.0),
        Rung(n_parameters=600_000, ce=4.0),
        Rung(n_parameters=3_400_000, ce=3.0),
    ]
    sentence = compute_equivalent(ladder, patched(4.0), n_parameters=3_400_000).details["sentence"]
    assert sentence == "with every site patched the 3.4 M model predicts like a 0.6 M one"


def test_a_ladder_that_is_not_monotone_is_pooled_and_said():
    ladder = [*LADDER[:2], Rung(n_parameters=2_000_000, ce=4.2), LADDER[2]]
    record = compute_equivalent(ladder, patched(4.1))
    assert record.details["isotonic"] is True
    assert record.value == pytest.approx(1e6)  # both hold (4.0 + 4.2) / 2 now: the smaller one is taken
    assert compute_equivalent(LADDER, patched(4.1)).details["isotonic"] is False


def test_a_harder_sample_is_allowed_for():
    clean = MetricRecord(name="ce_clean", value=3.3, n=100)
    record = compute_equivalent(LADDER, patched(4.3, 4.2, 4.4), clean=clean, n_parameters=10_000_000)
    assert record.details["shift"] == pytest.approx(-0.3)
    assert record.value == pytest.approx(1e6)
    assert record.interval.high == pytest.approx(10**6.1)


@settings(deadline=None, max_examples=30)
@given(ce=st.floats(3.0, 5.0), more=st.floats(0.0, 2.0))
def test_a_worse_ce_is_never_a_larger_model(ce: float, more: float):
    better = compute_equivalent(LADDER, patched(ce)).value
    worse = compute_equivalent(LADDER, patched(min(5.0, ce + more))).value
    assert worse <= better * (1 + 1e-9)


@pytest.mark.parametrize(
    "ladder",
    [
        LADDER[:1],
        [LADDER[0], LADDER[0]],
        [LADDER[0], Rung(n_parameters=0, ce=1.0)],
        [LADDER[0], Rung(n_parameters=5, ce=math.nan)],
    ],
)
def test_a_useless_ladder_is_refused(ladder: list[Rung]):
    with pytest.raises(InputError):
        compute_equivalent(ladder, patched(4.0))


def test_a_shift_needs_the_networks_own_rung():
    with pytest.raises(InputError, match="own size"):
        compute_equivalent(LADDER, patched(4.0), clean=patched(3.0), n_parameters=50_000_000)


@pytest.mark.parametrize(("clean", "word"), [(5.1, "harder"), (0.9, "easier")])
def test_text_unlike_the_ladders_own_has_no_equivalent(clean: float, word: str):
    """The ladder spans 2 nats; text on which the 10 M model has 5.1 in place of 3.0 is another kind of text."""
    record = compute_equivalent(
        LADDER, patched(clean + 0.5, clean + 0.4, clean + 0.6), clean=patched(clean), n_parameters=10_000_000
    )
    assert math.isnan(record.value)
    assert record.interval is None
    assert record.details["bound"] == "other text"
    assert record.details["sentence"] == (
        f"no compute-equivalent with every site patched: this text is {word} than the ladder's by 2.1 nats/token"
    )
    near = compute_equivalent(LADDER, patched(5.4), clean=patched(4.9), n_parameters=10_000_000)
    assert near.value == pytest.approx(10**6.5)
