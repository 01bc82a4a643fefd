"""Matching of directions: known answers, the null, and what must not matter."""

import itertools
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.core.errors import InputError
from polyseme.evaluation.stability import matched_cosines, mcc, random_matched_cosines, stability


def directions(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def by_name(*args, **options):
    return {record.name: record for record in stability(*args, n_resamples=200, **options)}


def test_a_permuted_rescaled_copy_is_stable():
    a = directions(30, 8)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    found = by_name(a, 3 * a[order])
    assert found["stability_cosine"].value == pytest.approx(1, abs=1e-6)
    assert found["stability_shared"].value == 1
    assert found["stability_cosine"].details["curve"] == [1.0] * 19
    assert found["stability_cosine"].interval.method.startswith("bootstrap over latents")


def test_the_opposite_direction_is_another_latent():
    assert by_name(torch.eye(4), -torch.eye(4))["stability_shared"].value == 0
    assert mcc(-torch.eye(4), torch.eye(4)).value == pytest.approx(1)


def test_half_shared_is_half_stable():
    eye = torch.eye(8)
    found = by_name(eye[:4], torch.cat([eye[:2], eye[4:6]]))
    assert found["stability_cosine"].value == pytest.approx(0.5)
    assert found["stability_shared"].value == pytest.approx(0.5)
    assert found["stability_shared"].interval.low < 0.5 < found["stability_shared"].interval.high


def test_dead_latents_are_misses():
    a = directions(10, 16)
    alive = np.arange(10) >= 3
    found = by_name(a, a, alive_a=alive)
    assert found["stability_cosine"].value == pytest.approx(0.7, abs=1e-6)
    assert found["stability_cosine"].details["alive"] == [7, 10]
    assert mcc(a, a, alive=alive).value == pytest.approx(0.7, abs=0.1)
    assert mcc(torch.eye(10), torch.eye(10), alive=alive).value == pytest.approx(0.7)
    assert mcc(torch.zeros(10, 4), torch.eye(4)).value == 0


def test_random_directions_are_at_chance_and_the_null_says_so():
    found = by_name(directions(200, 16, 1), directions(200, 16, 2))
    record = found["stability_cosine"]
    assert record.value == pytest.approx(record.details["chance"], abs=0.02)
    assert np.allclose(record.details["curve"], record.details["null_curve"], atol=0.12)


def test_the_published_chance_level_of_mcc():
    """Random 256 × 64 against 1024 × 64 scores .41."""
    record = mcc(directions(1024, 64), directions(256, 64, 5), n_resamples=50)
    assert record.details["chance"] == pytest.approx(0.41, abs=0.01)
    assert record.value == pytest.approx(record.details["chance"], abs=0.01)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 4), m=st.integers(1, 4))
def test_the_matching_is_the_best_of_all(seed: int, n: int, m: int):
    a, b = directions(n, 3, seed), directions(m, 3, seed + 1)
    cosines = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1).numpy()
    cosines = cosines if n <= m else cosines.T
    best = max(sum(cosines[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(max(n, m)), min(n, m)))
    assert matched_cosines(a, b)[0].sum() == pytest.approx(best, abs=1e-5)


def test_rotating_both_and_permuting_either_changes_nothing():
    a, b = directions(20, 6, 1), directions(25, 6, 2)
    rotation = torch.linalg.qr(directions(6, 6, 3))[0]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    plain = np.sort(matched_cosines(a, b)[0])
    assert np.allclose(np.sort(matched_cosines(a @ rotation, b @ rotation)[0]), plain, atol=1e-5)
    assert np.allclose(np.sort(matched_cosines(a[order], b)[0]), plain, atol=1e-6)
    assert np.allclose(np.sort(matched_cosines(b, a)[0]), plain, atol=1e-6)


def test_many_directions_are_matched_greedily_and_it_is_said(monkeypatch: pytest.MonkeyPatch):
    a = directions(120, 32)
    noisy = a + 0.2 * directions(120, 32, 9)
    exact, name = matched_cosines(a, noisy[torch.randperm(120)])
    assert name == "hungarian"
    monkeypatch.setattr(import_module("polyseme.evaluation.stability"), "EXACT", 50)
    greedy, name = matched_cosines(a, noisy)
    assert name == "greedy over the 32 nearest"
    assert np.allclose(np.sort(greedy), np.sort(exact), atol=1e-5)
    loose, _ = matched_cosines(directions(120, 4, 1), directions(90, 4, 2))
    monkeypatch.undo()
    assert loose.sum() <= matched_cosines(directions(120, 4, 1), directions(90, 4, 2))[0].sum() + 1e-6
    assert len(loose) == 90


@pytest.mark.parametrize(("one", "other"), [(0.1, 1.0), (0.1, 0.1), (0.6, 0.9)])
def test_independent_dictionaries_are_at_chance_however_many_latents_are_dead(one: float, other: float):
    """A null without dead latents is .46 here, where 0.04 is observed with nine of ten dead on one side."""
    n, d = 256, 32
    within: list[bool] = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        alive_a, alive_b = rng.random(n) < one, rng.random(n) < other
        a, b = directions(n, d, 100 + seed), directions(n, d, 200 + seed)
        found = by_name(a, b, alive_a=alive_a, alive_b=alive_b, seed=seed)
        scored = mcc(a, b, alive=alive_a, seed=seed, n_resamples=200)
        for record in (found["stability_cosine"], scored):
            assert record.interval is not None
            within.append(record.interval.low <= record.details["chance"] <= record.interval.high)
            assert record.value == pytest.approx(record.details["chance"], abs=0.02)
        details = found["stability_cosine"].details
        assert details["null_curve"][0] == pytest.approx(details["curve"][0], abs=0.1)
        fewest = min(alive_a.sum(), alive_b.sum()) / n
        assert max(details["curve"][0], details["null_curve"][0]) <= fewest
    assert np.mean(within) >= 0.9


def test_the_null_is_drawn_once_and_by_its_seed():
    assert random_matched_cosines(20, 20, 8, seed=1) is random_matched_cosines(20, 20, 8, seed=1)
    assert not np.array_equal(random_matched_cosines(20, 20, 8, seed=1), random_matched_cosines(20, 20, 8, seed=2))
    few = random_matched_cosines(20, 20, 8, alive=(5, 20), seed=1)
    assert (few > 0).sum() == 5
    assert len(few) == 20


def test_directions_of_two_widths_are_refused():
    with pytest.raises(InputError, match="width 4 with 3 of width 5"):
        matched_cosines(torch.eye(4), torch.ones(3, 5))
