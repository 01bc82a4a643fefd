"""Gaps: paired by document, and honest where they cannot be."""

import math
from dataclasses import replace

import numpy as np
import pytest

from polyseme.core.errors import InputError
from polyseme.core.records import Interval, MetricRecord
from polyseme.evaluation import METRICS
from polyseme.evaluation.gap import gap, gap_of_records
from tests.evaluation.test_sums import MEAN, measured


def noisy(offset: float, seed: int = 0, n: int = 40) -> tuple:
    rng = np.random.default_rng(seed)
    hardness = rng.normal(5, 3, n)
    sums = np.stack([np.full(n, 10.0), 10 * hardness], axis=1)
    control = sums + np.stack([np.zeros(n), 10 * (offset + rng.normal(0, 0.1, n))], axis=1)
    return tuple(replace(MEAN, documents=np.arange(n), n=400, sums=part) for part in (sums, control))


def test_no_gap_to_itself():
    for entry in measured():
        record = gap(entry, entry, n_resamples=50)
        assert record.value == 0
        assert (record.interval.low, record.interval.high) == (0, 0)


def test_pairing_finds_a_gap_that_the_two_intervals_hide():
    trained, control = noisy(offset=0.5)
    paired = gap(trained, control)
    assert paired.value == pytest.approx(-0.5, abs=0.05)
    assert paired.interval.high < 0
    assert paired.interval.method == "paired bootstrap over documents"
    alone = [entry.record() for entry in (trained, control)]
    assert alone[0].interval.high > alone[1].interval.low
    assert not gap_of_records(*alone).interval.excludes(0)
    assert paired.details["trained"] - paired.details["control"] == pytest.approx(paired.value)


def test_dead_latents_are_paired_by_the_jackknife():
    trained = next(entry for entry in measured() if entry.name == "dead_latents")
    control = replace(trained, parameters={**trained.parameters, "shared": trained.parameters["shared"] - 3})
    record = gap(trained, control)
    assert record.value == pytest.approx(-3 / 12)
    assert record.interval.method == "paired jackknife over documents"


def test_what_does_not_belong_together_is_refused():
    trained, control = noisy(0.5)
    with pytest.raises(InputError, match="one metric"):
        gap(trained, replace(control, metric=METRICS["fvu"]))
    with pytest.raises(InputError, match="one metric"):
        gap(trained, replace(control, metric=replace(control.metric, version=2)))
    with pytest.raises(InputError, match="not on the same"):
        gap(trained, replace(control, documents=np.arange(1, 41)))
    with pytest.raises(InputError, match="one metric"):
        gap_of_records(MetricRecord(name="a", value=0, n=1), MetricRecord(name="b", value=0, n=1))


def test_independent_records_combine_by_squares():
    a = MetricRecord(name="stability_cosine", value=0.6, interval=Interval(low=0.5, high=0.7), n=10)
    b = MetricRecord(name="stability_cosine", value=0.2, interval=Interval(low=-0.1, high=0.3), n=10)
    record = gap_of_records(a, b, scope={"control": "spectrum"})
    assert record.value == pytest.approx(0.4)
    assert record.interval.low == pytest.approx(0.4 - math.hypot(0.1, 0.1))
    assert record.interval.high == pytest.approx(0.4 + math.hypot(0.1, 0.3))
    assert record.scope == {"gap": "trained − control", "control": "spectrum"}
    unmeasured = gap_of_records(a.model_copy(update={"value": math.nan, "interval": None}), b)
    assert math.isnan(unmeasured.value)
    assert math.isnan(unmeasured.interval.low)
