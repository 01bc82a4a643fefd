"""The moments of a training at which copies are kept: where they lie, that they change nothing, and resuming."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.dictionaries import SparseDictionary, TopKConfig, load_dictionary, save_dictionary
from polyseme.training import Job, TrainingConfig, fit
from polyseme.training.jobs import Plan
from polyseme.training.schedules import learning_rate
from tests.training.planted import Planted, same_weights

PLAN = Plan(
    n_steps=100,
    batch_size=8,
    warmup=5,
    decay=20,
    sparsity_warmup=10,
    dead_after=100,
    betas=(0.9, 0.999),
    clip=None,
    revive=0.0,
    revived=(0, 0),
)
CONFIG = TrainingConfig(n_tokens=64 * 40, batch_size=64, checkpoint_seconds=0.0)


def test_moments_double_up_to_the_end_of_the_plateau():
    assert PLAN.doublings == (20, 40, 80)
    assert replace(PLAN, decay=0).doublings == (25, 50, 100)
    assert replace(PLAN, sparsity_warmup=30).doublings == (40, 80)
    assert replace(PLAN, warmup=41).doublings == ()  # one moment alone says nothing of a doubling
    assert replace(PLAN, warmup=0, decay=100).doublings == ()
    assert replace(PLAN, n_steps=1, warmup=0, decay=0, sparsity_warmup=0).doublings == ()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_was_at_its_peak_before_each_moment(n: int, warmup: float, decay: float):
    plan = replace(PLAN, n_steps=n, warmup=round(warmup * n), decay=round(min(decay, 1 - warmup) * n))
    rates = [learning_rate(t, n, peak=1.0, warmup=plan.warmup, decay=plan.decay) for t in range(n)]
    steps = plan.doublings
    assert len(steps) in (0, 2, 3)
    assert all(rates[step - 1] == 1 for step in steps)
    assert all(2 * a <= b <= 2 * a + 1 for a, b in pairwise(steps))


def jobs() -> list[Job]:
    return [Job(str(seed), TopKConfig(n_latents=32, k=2).build(16, seed=seed), "a", seed) for seed in range(2)]


class Kept:
    """Copies of the dictionaries at the moments of one training."""

    def __init__(self, folder: Path):
        self.folder, self.jobs, self.moments = folder, jobs(), list[int]()

    def __call__(self, n_tokens: int) -> None:
        self.moments.append(n_tokens)
        for job in self.jobs:
            assert isinstance(job.dictionary, SparseDictionary)
            save_dictionary(self.folder / str(n_tokens) / job.name, job.dictionary, {})

    def fit(self, source: Planted, checkpoints: Path | None = None) -> None:
        fit(self.jobs, source, CONFIG, spreads={}, checkpoints=checkpoints, at_doubling=self)


def same(one: Path, other: Path) -> bool:
    return same_weights(load_dictionary(one), load_dictionary(other))


def test_copies_change_nothing_in_what_is_trained(tmp_path: Path):
    kept, alone = Kept(tmp_path), jobs()
    kept.fit(Planted())
    fit(alone, Planted(), CONFIG, spreads={})
    assert all(same_weights(a.dictionary, b.dictionary) for a, b in zip(kept.jobs, alone, strict=True))
    assert kept.moments == [8 * 64, 16 * 64, 32 * 64]


def test_a_copy_is_the_dictionary_of_a_training_that_stopped_there(tmp_path: Path):
    """Up to a moment the schedule is that of a training without an end."""
    kept, stopped = Kept(tmp_path / "kept"), jobs()
    kept.fit(Planted())

    class Stopping(Planted):
        def batch(self, batch_size: int, index: int):
            if index == 16:
                raise KeyboardInterrupt
            return super().batch(batch_size, index)

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, Stopping(), CONFIG, spreads={})
    for job in stopped:
        assert isinstance(job.dictionary, SparseDictionary)
        save_dictionary(tmp_path / "stopped" / job.name, job.dictionary, {})
        assert same(tmp_path / "kept" / str(16 * 64) / job.name, tmp_path / "stopped" / job.name)


@pytest.mark.parametrize("stop", [3, 8, 9, 16, 17, 32, 33])
def test_a_training_stopped_anywhere_resumes_with_the_same_copies(tmp_path: Path, stop: int):
    clean = Kept(tmp_path / "clean")
    clean.fit(Planted())

    class Stopping(Planted):
        def batch(self, batch_size: int, index: int):
            if index == stop:
                raise KeyboardInterrupt
            return super().batch(batch_size, index)

    for source in (Stopping(), Planted()):
        again = Kept(tmp_path / "again")
        try:
            again.fit(source, tmp_path / "checkpoints")
        except KeyboardInterrupt:
            assert type(source) is Stopping
    for path in (tmp_path / "clean").glob("*/*"):
        assert same(path, tmp_path / "again" / path.relative_to(tmp_path / "clean"))


def test_a_copy_that_could_not_be_written_is_written_when_the_training_resumes(tmp_path: Path):
    """A full disk at the moment itself: the checkpoint of that step is saved on the way out, the copy is not."""
    kept = Kept(tmp_path / "kept")

    def full(n_tokens: int) -> None:
        if n_tokens == 16 * 64:
            raise OSError("no space left")
        kept(n_tokens)

    with pytest.raises(OSError, match="no space"):
        fit(kept.jobs, Planted(), CONFIG, spreads={}, checkpoints=tmp_path / "checkpoints", at_doubling=full)
    again = Kept(tmp_path / "kept")
    again.fit(Planted(), tmp_path / "checkpoints")
    assert again.moments == [16 * 64, 32 * 64]
    assert len(list((tmp_path / "kept").glob("*/*"))) == 6
