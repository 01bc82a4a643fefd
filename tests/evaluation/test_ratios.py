"""No ratio without something to divide by: it is not measured, and says why; where it is measured, it is bounded."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.evaluation.finishes import NEGLIGIBLE, predicts_nothing
from polyseme.evaluation.gap import gap
from polyseme.evaluation.metrics import METRICS
from polyseme.evaluation.sums import DocumentSums
from polyseme.evaluation.token_share import token_share

UNIFORM = math.log(1000)


def recovered(clean, patched, ablated, *, uniform=UNIFORM) -> DocumentSums:
    """CE recovered from the three losses of each document, ten tokens each."""
    rows = np.stack([np.ones(len(clean)), clean, patched, ablated], axis=1) * 10
    return DocumentSums(
        METRICS["ce_recovered"],
        ("n", "ce_clean", "ce_patched", "ce_zero"),
        rows,
        np.arange(len(clean)),
        n=10 * len(clean),
        parameters={
            "uniform": uniform,
            "numerator": {"ce_zero": 1.0, "ce_patched": -1.0},
            "denominator": {"ce_zero": 1.0, "ce_clean": -1.0},
        },
    )


losses = st.floats(0, 30)


@given(losses, losses, losses, st.floats(0, 5), st.integers(1, 30), st.integers(0, 10))
@settings(deadline=None, max_examples=150)
def test_ce_recovered_is_measured_where_there_is_a_loss_to_recover_and_only_there(
    clean: float, patched: float, ablated: float, spread: float, n: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [np.abs(mean + spread * rng.standard_normal(n)) for mean in (clean, patched, ablated)]
    entry = recovered(*parts)
    record = entry.record(n_resamples=100)
    cost = float(parts[2].mean() - parts[0].mean())
    if math.isnan(record.value):
        assert record.details["note"].startswith("not measured: ")
        assert record.interval is None or math.isnan(record.interval.low)
        # Clear cases are measured.
        small = cost <= max(1e-6, NEGLIGIBLE * parts[0].mean() if n < 6 else 0)
        assert parts[0].mean() > UNIFORM - 5 or cost < 8 * spread + 1e-9 or small
        return
    assert cost > 0
    assert parts[0].mean() < UNIFORM
    assert math.isfinite(record.value)
    if n >= 6:
        assert record.interval is not None
        assert math.isfinite(record.interval.low)
        assert math.isfinite(record.interval.high)


def test_the_case_that_was_printed() -> None:
    """Clean CE of 24.6 nats where ln V is 10.8: the share was 5.30 [−18, 23]."""
    rng = np.random.default_rng(0)
    clean, patched, ablated = (m + 3 * rng.standard_normal(40) for m in (24.6, 22.0, 24.9))
    broken = recovered(clean, patched, ablated, uniform=10.8)
    note = broken.record().details["note"]
    assert "no better than a uniform guess (ln V = 10.80 nats), so there is no loss to recover" in note
    good = recovered(clean - 22, patched - 19, ablated - 15)
    assert good.record().value > 0
    for one, other in ((good, broken), (broken, good)):
        record = gap(one, other)
        assert math.isnan(record.value)
        assert record.interval is not None
        assert math.isnan(record.interval.low)
        assert "no loss to recover" in record.details["note"]


COUNTS = pytest.mark.parametrize("n", [1, 3, 5, 6])


def note_of(clean: list[float], ablated: list[float], *, uniform: float = 6.0) -> str:
    """Why CE recovered is not measured with patched losses halfway between the others; empty where it is ½."""
    middle = [(one + other) / 2 for one, other in zip(clean, ablated, strict=True)]
    record = recovered(*map(np.array, (clean, middle, ablated)), uniform=uniform).record(n_resamples=100)
    if math.isnan(record.value):
        assert record.interval is not None
        assert math.isnan(record.interval.low)
        return record.details["note"]
    assert record.value == pytest.approx(0.5)
    assert "note" not in record.details
    return ""


def too_few(n: int) -> str:
    return f" ({n} document{'s' if n > 1 else ''}, too few for an interval)" if n < 6 else ""


@COUNTS
@pytest.mark.parametrize(
    ("loss", "better"), [(24.6, "no better"), (6.0, "no better"), (5.96, "not shown to be better")]
)
def test_a_network_no_better_than_a_guess_is_said_to_be_so_with_any_number_of_documents(
    n: int, loss: float, better: str
) -> None:
    """With six documents of one loss the interval has no width, so just below ln V is better than a guess."""
    note = note_of([loss] * n, [loss + 5] * n)
    if n == 6 and loss < 6:
        assert note == ""
        return
    bounds = f" [{loss:.2f}, {loss:.2f}]" if n == 6 else ""
    own = f"the network's own loss of {loss:.2f}{bounds} nats/token{too_few(n)} is {better} than a uniform guess"
    assert note == f"not measured: {own} (ln V = 6.00 nats), so there is no loss to recover"


@COUNTS
@pytest.mark.parametrize(("cost", "written"), [(-3.0, "−3.00"), (-0.004, "−0.004"), (0.0, "0.00")])
def test_an_ablation_that_costs_nothing_is_said_to_with_any_number_of_documents(
    n: int, cost: float, written: str
) -> None:
    bounds = f" [{written}, {written}]" if n == 6 else ""
    costs = f"the ablation costs {written}{bounds} nats/token{too_few(n)}"
    assert note_of([4.0] * n, [4.0 + cost] * n) == f"not measured: {costs}, so there is no loss to recover"


@COUNTS
def test_without_an_interval_a_cost_within_a_hundredth_of_the_loss_is_not_shown(n: int) -> None:
    note = note_of([4.0] * n, [4.03] * n)
    small = f"the ablation costs 0.03 nats/token{too_few(n)}, at most 1% of the network's own 4.00"
    assert note == ("" if n == 6 else f"not measured: {small}, so no loss to recover is shown")
    assert note_of([4.0] * n, [4.05] * n) == ""


@pytest.mark.parametrize("n", [3, 5])
def test_without_an_interval_the_ablation_must_cost_something_in_every_document(n: int) -> None:
    note = note_of([3.0] * n, [5.0] * (n - 1) + [2.5])
    cost = (2 * (n - 1) - 0.5) / n
    start = f"not measured: the ablation costs {cost:.2f} nats/token{too_few(n)}"
    assert note == f"{start}, and nothing in 1 of them, so no loss to recover is shown"


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_loss_whose_interval_reaches_a_uniform_guess_is_not_called_worse_than_it(spread: float) -> None:
    clean = 5.9 + spread * np.array([-1, 1] * 4)
    reason = predicts_nothing(recovered(clean, clean, clean + 1, uniform=6.0), n_resamples=200)
    if not spread:
        assert reason == ""
        return
    assert reason.startswith("the network's own loss of 5.90 [")
    assert reason.endswith("nats/token is not shown to be better than a uniform guess (ln V = 6.00 nats)")


@given(st.floats(1e-6, 1e6), st.floats(-1e6, 1e6))
@settings(deadline=None, max_examples=50)
def test_fvu_of_what_does_not_vary_is_not_measured(scale: float, at: float) -> None:
    """Ten documents of one constant vector, its squares taken about another point."""
    y = np.full((10, 3), at)
    offset = y - (at - scale)
    rows = np.concatenate([np.ones((10, 2)), (offset**2).sum(1, keepdims=True), offset], axis=1)
    entry = DocumentSums(METRICS["fvu"], ("n", "error", "square", "mean"), rows, np.arange(10), n=10)
    record = entry.record(n_resamples=100)
    assert math.isnan(record.value)
    assert record.interval is not None
    assert math.isnan(record.interval.low)


@given(st.integers(0, 50), st.sampled_from([0.0, 1.0, 1e-20, 1e20]))
@settings(deadline=None, max_examples=30)
def test_the_token_share_of_a_latent_that_does_not_vary_is_not_measured(seed: int, value: float) -> None:
    n = 120
    rng = np.random.default_rng(seed)
    ids = (rng.integers(0, 5, n), np.arange(n) // 6, np.arange(n) // 6, np.arange(n) % 6)
    varies = np.where(rng.random(n) < 0.5, rng.random(n), 0)
    z = np.stack([np.full(n, value), np.zeros(n), varies], axis=1)
    found = token_share(Firings(csr_array(z.astype(np.float32)), *(x.astype(np.int32) for x in ids)))
    for column in (found.value, found.low, found.high, found.raw):
        assert np.isnan(column[:2]).all()
    assert np.isfinite(found.value[2])
    assert 0 <= found.raw[2] <= 1
