"""Learning curves of recurrence: closed forms, a null, planted truths, and attacks on what they say."""

from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy.stats import t

from polyseme.core.errors import InputError
from polyseme.core.records import Interval, MetricRecord
from polyseme.dictionaries import SparseDictionary, TopKConfig, load_dictionary, save_dictionary
from polyseme.evaluation.learning import LEAST_CHANGE, LearningCurve, estimate, matches_of, outcome_of
from polyseme.evaluation.matches import Sides
from polyseme.store import Store
from polyseme.training import Job, TrainingConfig, fit
from tests.evaluation.firing import fired, text
from tests.training.planted import Planted

RNG = np.random.default_rng(0)
PAIRS = list(permutations(range(3), 2))


def curve(match: ArrayLike, bar: float = 0.7, spread: float = 0.0, groups: int = 5) -> LearningCurve:
    """A curve of given matches by moment; each group of documents moves all of them alike."""
    match = np.asarray(match, dtype=np.float32)
    shift = spread * np.linspace(-1, 1, groups)
    without = (match[:, :, None, :] + shift[:, None]).astype(np.float32)
    return LearningCurve(tuple(100 * 2**i for i in range(len(match))), match, without, bar)


def of(records: Iterable[MetricRecord], name: str) -> list[MetricRecord]:
    return [record for record in records if record.name == name]


def test_shares_and_means_in_closed_form():
    # By moment the matches of two latents; the second is dead at first, and matches nothing then.
    matches = [[0.6, np.nan], [0.8, 0.4], [0.9, 0.75]]
    records = list(curve(np.repeat(np.array(matches)[:, None], 6, axis=1)).records({"site": "a"}))
    assert [r.scope["tokens"] for r in of(records, "recurring")] == [100, 200, 400]
    assert [r.value for r in of(records, "recurring")] == [0, 0.5, 1]
    assert [r.value for r in of(records, "recurring_match")] == pytest.approx([0.3, 0.6, 0.825])
    [share], [match] = of(records, "recurring_change"), of(records, "recurring_match_change")
    assert (share.value, match.value) == (0.5, pytest.approx(0.225))
    assert share.interval is not None
    assert (share.interval.low, share.interval.high) == (0.5, 0.5)  # nothing differs over seeds or documents
    assert share.details == {"outcome": "rising", "from": 200, "to": 400}
    assert [r.n for r in records] == [2] * 8


def test_the_bar_belongs_to_what_is_read_and_not_to_what_is_kept(tmp_path: Path):
    made = curve(RNG.random((2, 6, 40)), bar=0.7)
    artifact, again = Store(tmp_path).stage(
        "learning", {}, {}, lambda folder: made.save(folder, "a"), lambda a: LearningCurve.load(a, "a", bar=0.2)
    )
    assert np.array_equal(again.match, made.match)
    assert np.array_equal(again.without, made.without)
    assert again.tokens == made.tokens
    shares = [of(one.records({}), "recurring")[-1].value for one in (made, again)]
    assert shares == pytest.approx([(made.match[-1] > bar).mean() for bar in (0.7, 0.2)])
    assert artifact.stage == "learning"


def test_the_interval_over_seeds_leaves_each_out_with_its_pairs():
    by_pair = RNG.normal(size=6)
    value, interval = estimate(by_pair, np.zeros((6, 20)))
    left_out = [np.mean([x for x, pair in zip(by_pair, PAIRS, strict=True) if seed not in pair]) for seed in range(3)]
    error = np.sqrt(2 / 3 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    assert value == pytest.approx(by_pair.mean())
    assert interval.high - value == pytest.approx(error * t.ppf(0.975, 2.5))  # two degrees count as 2.5 (`combined`)


def test_the_interval_over_documents_is_that_of_the_mean_over_pairs():
    without = RNG.normal(size=(6, 20))
    value, interval = estimate(np.full(6, 0.4), without)
    left_out = without.mean(axis=0)
    error = np.sqrt(19 / 20 * np.square(left_out - left_out.mean()).sum())
    assert (value, interval.high - value) == (pytest.approx(0.4), pytest.approx(error * t.ppf(0.975, 19)))


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.03, 0.05, "rising"), (0.001, 0.03, "rising"), (0.001, 0.02, "flat"), (-0.02, 0.02, "flat"),
        (-0.01, 0.03, "open"), (-0.3, 0.3, "open"), (-0.03, -0.001, "falling"), (np.nan, np.nan, "open"),
    ],
)  # fmt: skip
def test_what_an_interval_says(low: float, high: float, says: str):
    assert outcome_of(Interval(low=low, high=high)) == says


def simulated(rng: np.random.Generator, truth: float, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Figures of pairs whose seeds each have a part, with a part of the documents that all pairs share."""
    seeds, documents = size * rng.normal(size=3), size * rng.normal(size=20)
    by_pair = truth + np.array([seeds[a] + seeds[b] for a, b in PAIRS]) + documents.mean()
    return by_pair, by_pair[:, None] + (documents.mean() - documents) / 19


@pytest.mark.parametrize(("change", "says"), [(0.0, "flat"), (0.1, "rising"), (-0.1, "falling")])
def test_what_is_said_of_a_known_change_is_rarely_wrong(change: float, says: str):
    rng = np.random.default_rng(1)
    said = [outcome_of(estimate(*simulated(rng, change, 0.002))[1]) for _ in range(400)]
    assert said.count(says) > 380
    assert said.count("rising") + said.count("falling") <= (400 if change else 4)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    intervals = [estimate(*simulated(rng, 0.0, 1.0))[1] for _ in range(2000)]
    assert 0.92 <= np.mean([one.low <= 0 <= one.high for one in intervals]) <= 0.98


def test_a_match_stands_in_the_order_of_pairs():
    windows = [text(RNG.integers(0, 9, (60, 10))) for _ in range(2)]
    same = [(RNG.random((600, 1)) < 0.3) * RNG.random((600, 1)) for _ in range(2)]
    noise = [[(RNG.random((600, 1)) < 0.3) * RNG.random((600, 1)) for _ in range(2)] for _ in range(3)]

    def sides(activations: list[np.ndarray]) -> Sides:
        return Sides(*(fired(w, a) for w, a in zip(windows, activations, strict=True)))

    found = matches_of([sides(same), sides(same), sides(noise[2])])
    assert found.without.shape == (6, 20, 1)
    best = dict(zip(PAIRS, found.value[:, 0], strict=True))
    assert best[0, 1] == best[1, 0] == pytest.approx(1)
    assert all(abs(value) < 0.3 for pair, value in best.items() if 2 in pair)


def test_two_seeds_are_refused():
    windows = text(RNG.integers(0, 9, (60, 10)))
    one = Sides(*(fired(windows, RNG.random((600, 2))) for _ in range(2)))
    with pytest.raises(InputError, match="three dictionaries"):
        matches_of([one, one])


def test_a_curve_without_moments_has_no_records():
    assert list(LearningCurve((), np.empty((1, 0, 0)), np.empty((1, 0, 0, 0)), 0.7).records({})) == []


# ------------------------------------------------------------------------------------------------------- attacks


def trained(folder: Path, n_tokens: int) -> list[MetricRecord]:
    """The curve of dictionaries of three seeds, trained for so many tokens on 128 planted features."""
    source = Planted(d=128, n_features=128, active=4.0, n_tokens=10**9)
    jobs = [Job(str(seed), TopKConfig(n_latents=256, k=6).build(128, seed=seed), "a", seed) for seed in range(3)]
    moments: list[int] = []

    def copy(done: int) -> None:
        moments.append(done)
        for job in jobs:
            assert isinstance(job.dictionary, SparseDictionary)
            save_dictionary(folder / str(done) / job.name, job.dictionary, {})

    # A revived latent for which no feature is left stands for other noise than before, and its match moves.
    fit(jobs, source, TrainingConfig(n_tokens=n_tokens, batch_size=512, revive=0.0), at_doubling=copy)
    sides = [torch.cat([source.batch(500, 10**6 + 20 * i + j).acts["a"] for j in range(20)]) for i in range(2)]
    windows = [text(np.zeros((500, 20), dtype=np.int64), windows_of_a_document=5) for _ in range(2)]

    def firings(done: int, job: Job) -> Sides:
        copied = load_dictionary(folder / str(done) / job.name)
        return Sides(*(fired(w, copied.encode(x).dense().numpy()) for w, x in zip(windows, sides, strict=True)))

    found = [matches_of([firings(done, job) for job in jobs]) for done in moments]
    match, without = (np.stack([getattr(one, part) for one in found]) for part in ("value", "without"))
    return list(LearningCurve(tuple(moments), match, without, bar=0.7).records({}))


def test_a_short_training_is_said_to_rise(tmp_path: Path):
    records = trained(tmp_path, 60_000)
    assert [r.scope["tokens"] for r in of(records, "recurring")] == [11_776, 24_064, 48_128]
    assert [r.details["outcome"] for r in records if r.details] == ["rising", "rising"]


def test_a_training_before_anything_recurs_is_not_said_to_be_flat(tmp_path: Path):
    """No latent is above the bar at any moment: the mean match tells that the training goes on."""
    records = trained(tmp_path, 14_000)
    assert of(records, "recurring_change")[0].value < LEAST_CHANGE
    assert of(records, "recurring_match_change")[0].details["outcome"] == "rising"


def test_a_long_training_is_said_to_be_flat(tmp_path: Path):
    """Half of the latents stand for the features, and the others for what is left of their noise."""
    records = trained(tmp_path, 160_000)
    assert [r.details["outcome"] for r in records if r.details] == ["flat", "flat"]
    assert of(records, "recurring")[-1].value == pytest.approx(0.5, abs=0.01)
