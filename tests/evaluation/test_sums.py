"""Saved sums give the same records back; ratios and resampling do what they say."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyseme.core.errors import DamagedArtifact
from polyseme.core.stats import resampled_totals
from polyseme.evaluation import METRICS
from polyseme.evaluation.reconstruction import ReconstructionSums
from polyseme.evaluation.splice import splice_sums
from polyseme.evaluation.sums import DocumentSums, load_sums, save_sums
from polyseme.evaluation.sweep import sweep
from tests.evaluation.fakes import AT_FIRST, AT_SECOND, FakeNetwork, Linear, fluent_windows
from tests.evaluation.test_splice import MEANS

MEAN = DocumentSums(
    METRICS["kl"],
    ("n", "kl"),
    np.array([[2.0, 1.0], [4.0, 8.0], [2.0, 3.0]]),
    np.array([0, 1, 3]),
    n=8,
    parameters={"numerator": {"kl": 1.0}, "denominator": {"n": 1.0}},
)


def measured() -> list[DocumentSums]:
    network, windows = FakeNetwork(), fluent_windows()
    dictionaries = {AT_FIRST: Linear(), AT_SECOND: Linear(seed=1)}
    sums = ReconstructionSums({"d": (AT_SECOND, Linear())}, windows)
    sweep(network, windows, {"d": (AT_SECOND, Linear())}, [sums.see])
    return [*sums.finish()["d"], *splice_sums(network, windows, {"s": dictionaries}, MEANS)["s"]]


def test_a_mean_is_the_ratio_of_totals_and_its_interval_that_of_the_documents():
    twice = replace(MEAN, sums=np.tile(MEAN.sums, (2, 1)), documents=np.arange(6))
    record = twice.record(seed=3, n_resamples=400)
    assert record.value == 12 / 8
    totals = resampled_totals(twice.sums, seed=3, n_resamples=400)
    low, high = np.quantile(totals[:, 1] / totals[:, 0], [0.025, 0.975])
    assert (record.interval.low, record.interval.high) == pytest.approx((low, high))
    assert record.details == {"kl": 1.5, "n_documents": 6}
    # Three documents have a mean and no interval.
    few = MEAN.record()
    assert few.value == 12 / 8
    assert math.isnan(few.interval.low)


def test_saved_sums_give_the_same_records(tmp_path: Path):
    entries, names = measured(), fluent_windows().names
    save_sums(tmp_path, entries, names)
    loaded = load_sums(tmp_path)
    assert [e.record(n_resamples=50) for e in loaded] == [e.record(n_resamples=50) for e in entries]
    # The tests' own recomputation, from the two files alone.
    index, sums = json.loads((tmp_path / "sums.json").read_text()), np.load(tmp_path / "sums.npy")
    assert index["names"] == list(names)
    by_name = {metric["name"]: metric for metric in index["metrics"]}
    total = sums[:, by_name["fvu"]["start"] : by_name["fvu"]["stop"]].sum(0)
    fvu = total[1] / (total[2] - (total[3:] ** 2).sum() / total[0])
    assert entries[0].record(n_resamples=2).value == pytest.approx(fvu)
    # Metrics of one table are stored once: 8 of each of 3 places share 6 columns.
    assert sums.shape[1] < sum(entry.sums.shape[1] for entry in entries)


def test_damaged_sums_are_told(tmp_path: Path):
    save_sums(tmp_path, [MEAN], ["a", "b", "c", "d"])
    index = json.loads((tmp_path / "sums.json").read_text())
    assert index["names"] == ["a", "b", "d"]
    (tmp_path / "sums.json").write_text(json.dumps({**index, "documents": [0, 1]}))
    with pytest.raises(DamagedArtifact, match="cannot be read"):
        load_sums(tmp_path)
    (tmp_path / "sums.json").write_text(json.dumps({"documents": [0, 1, 3]}))
    with pytest.raises(DamagedArtifact, match="cannot be read"):
        load_sums(tmp_path)
    (tmp_path / "sums.npy").unlink()
    with pytest.raises(DamagedArtifact):
        load_sums(tmp_path)


def test_sums_measured_before_the_table_changed_are_refused(tmp_path: Path):
    """A metric that was added or redefined is measured again without a version of any stage being raised."""
    entries = [entry for entry in measured() if entry.metric.measured == "reconstruction"]
    names = fluent_windows().names
    save_sums(tmp_path, entries, names)
    assert len(load_sums(tmp_path, of="reconstruction")) == len(entries)
    save_sums(tmp_path, entries[:-1], names)
    assert len(load_sums(tmp_path)) == len(entries) - 1
    with pytest.raises(DamagedArtifact, match=f"older than the current definition of {entries[-1].name}"):
        load_sums(tmp_path, of="reconstruction")
    older = replace(entries[0], metric=replace(entries[0].metric, version=0))
    save_sums(tmp_path, [older, *entries[1:]], names)
    with pytest.raises(DamagedArtifact, match="older than the current definition of fvu"):
        load_sums(tmp_path)


def test_nothing_to_divide_by_is_not_measured():
    record = replace(MEAN, sums=np.zeros((3, 2)), n=0).record(n_resamples=20)
    assert math.isnan(record.value)
    assert math.isnan(record.interval.low)
    assert math.isnan(replace(MEAN, sums=np.zeros((0, 2)), documents=np.zeros(0, int), n=0).record().value)


def test_records_do_not_depend_on_the_order_of_documents():
    turned = replace(MEAN, sums=MEAN.sums[::-1].copy())
    assert turned.record().value == MEAN.record().value
