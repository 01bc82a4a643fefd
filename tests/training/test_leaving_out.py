"""Left-out vectors are in no gradient, no normalisation and no counter, and resuming does not notice."""

import warnings
from dataclasses import dataclass

import pytest
import torch

from polyseme.activations import TensorSource
from polyseme.activations.massive import Ordinary
from polyseme.core.batch import SiteBatch
from polyseme.core.binding import Binding
from polyseme.core.errors import Diverged, InputError
from polyseme.dictionaries import ARCHITECTURES
from polyseme.training import Job, LeaveOutConfig, TrainingConfig, fit
from polyseme.training.leaving_out import LeavingOut
from tests.store.listener import Listener
from tests.training.planted import Planted, same_weights

BY_NORM = LeaveOutConfig(norm=10)
TARGETS = dict.fromkeys(("relu", "jumprelu", "gated"), 4.0)
WIDTHS = {"n_latents": 32}


def job_of(name: str, d: int = 16, *, site: str = "a", seed: int = 0) -> Job:
    k = {} if name in TARGETS else {"k": 4}
    dictionary = ARCHITECTURES[name](**WIDTHS, **k).build(d, seed=seed)
    return Job(f"{name} {site} {seed}", dictionary, Binding.at(site), seed, target_l0=TARGETS.get(name))


def config(steps: int = 30, batch: int = 64, **changes: object) -> TrainingConfig:
    return TrainingConfig(n_tokens=steps * batch, batch_size=batch, dead_after=500, **changes)


@dataclass
class Spiked(Planted):
    """Every 23rd vector is a thousand times as long, at other rows in each batch; all of batch `empty` are."""

    every: int = 23
    empty: int = -1

    @property
    def fingerprint(self):
        return f"spiked {self.every} {self.empty} {super().fingerprint}"

    def batch(self, batch_size: int, index: int) -> SiteBatch:
        plain = super().batch(batch_size, index)
        massive = (torch.arange(batch_size) + index * batch_size) % self.every == 0
        if index == self.empty:
            massive[:] = True
        factor = torch.where(massive, 1000.0, 1.0)[:, None]
        acts = {site: (x - 3.0) * factor + 3.0 for site, x in plain.acts.items()}
        return SiteBatch(acts, plain.token, plain.document, plain.position)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_training_is_that_of_the_same_batches_without_them(name: str):
    """Against a source that never made the rows: the same bits, so nothing of them is anywhere."""

    class Without(Spiked):
        def batch(self, batch_size, index):
            full = super().batch(batch_size, index)
            keep = (full.acts["a"] - 3.0).norm(dim=1) < 50
            ids = (full.token, full.document, full.position)
            return SiteBatch({"a": full.acts["a"][keep]}, *(t[keep] for t in ids))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = fit([job_of(name)], Spiked(), config(leave_out=BY_NORM))[0]
    never = fit([job_of(name)], Without(), config(), spreads={})[0]
    assert same_weights(left.dictionary, never.dictionary)
    assert [p.loss for p in left.history] == [p.loss for p in never.history]


@pytest.mark.parametrize("name", ["topk", "relu"])
def test_ordinary_vectors_are_reconstructed_as_if_there_were_no_others(name: str):
    """One vector in 500 a thousand times as long, as a few attention sinks are."""
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(40, 20, generator=g)
    on = torch.rand(6000, 40, generator=g) < 0.08
    x = (torch.rand(6000, 40, generator=g) * on) @ directions + 0.01 * torch.randn(6000, 20, generator=g)
    spiked, ordinary = x.clone(), torch.ones(6000, dtype=torch.bool)
    spiked[::500] *= 1000
    ordinary[::500] = False

    def fvu(data: torch.Tensor, leave_out: LeaveOutConfig) -> tuple[float, list[str]]:
        settings, listener = ARCHITECTURES[name](n_latents=64, **({"k": 4} if name == "topk" else {})), Listener()
        job = Job("j", settings.build(20, seed=0), Binding.at("x"), 0, TARGETS.get(name))
        plan = TrainingConfig(n_tokens=30_000, batch_size=250, leave_out=leave_out)
        fit([job], TensorSource({"x": data}), plan, reporter=listener)
        y = data[ordinary].double()
        error = job.dictionary.reconstruct(data[ordinary]).double() - y
        return float(error.square().sum() / (y - y.mean(0)).square().sum()), listener.messages

    clean, nothing = fvu(x, LeaveOutConfig())
    ruined, said = fvu(spiked, LeaveOutConfig())
    mended, also = fvu(spiked, BY_NORM)
    assert nothing == []
    assert len(said) == len(also) == 1
    assert "12 of 6,000 train vectors are massive" in said[0]
    assert "training.leave_out.norm = 10" in said[0]
    assert "training leaves them out" in also[0]
    assert ruined > 1.2 * clean
    assert mended == pytest.approx(clean, rel=0.02)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_interrupted_and_resumed_it_ends_in_the_same_bits(name: str, tmp_path):
    class Interrupting(Spiked):
        armed = True

        def batch(self, batch_size, index):
            if self.armed and index == 17 and len(list(tmp_path.iterdir())):
                raise KeyboardInterrupt
            return super().batch(batch_size, index)

    settings = config(leave_out=BY_NORM, checkpoint_seconds=0.0)
    listener = Listener()
    clean = fit([job_of(name)], Spiked(every=101, empty=12), settings, reporter=listener)[0]
    with pytest.raises(KeyboardInterrupt):
        fit([job_of(name)], Interrupting(every=101, empty=12), settings, checkpoints=tmp_path, reporter=listener)
    resumed = fit([job_of(name)], Spiked(every=101, empty=12), settings, checkpoints=tmp_path, reporter=listener)[0]
    assert any("resumes from step 17" in text for text in listener.messages)
    assert "training leaves them out" in listener.messages[0]
    assert same_weights(clean.dictionary, resumed.dictionary)
    assert clean.history == resumed.history


def test_jobs_of_other_sites_do_not_share_what_is_left_out():
    """Each site has massive vectors at other rows; a job among others sees what it sees alone."""

    class Two(Spiked):
        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            batch.acts["b"] = batch.acts["b"].roll(5, 0)
            return batch

    source, plan = Two(sites=("a", "b")), config(leave_out=BY_NORM)
    together = fit([job_of("topk"), job_of("topk", site="b")], source, plan, reporter=Listener())
    for one, site in zip(together, "ab", strict=True):
        alone = fit([job_of("topk", site=site)], source, plan, reporter=Listener())[0]
        assert same_weights(one.dictionary, alone.dictionary)


def test_a_transcoder_leaves_out_what_is_massive_on_either_side():
    source = Spiked(sites=("a", "b"))
    batch = source.batch(64, 0)
    batch.acts["b"] = batch.acts["b"].roll(5, 0)
    ordinary = Ordinary(torch.full((16,), 3.0), 50.0)
    kept = LeavingOut({"a": ordinary, "b": ordinary}).kept(Binding(("a",), ("b",)), batch)
    gone = {i for i in range(64) if i % 23 == 0} | {(i + 5) % 64 for i in range(64) if i % 23 == 0}
    assert kept.token.tolist() == [i for i in range(64) if i not in gone]
    assert torch.equal(kept.x, batch.acts["a"][kept.token])
    assert torch.equal(kept.y, batch.acts["b"][kept.token])


def test_nothing_left_out_is_the_training_of_before_bit_for_bit():
    plain = fit([job_of("topk")], Planted(), config(), spreads={})[0]
    with_search = fit([job_of("topk")], Planted(), config())[0]
    none_found = fit([job_of("topk")], Planted(), config(leave_out=BY_NORM))[0]
    assert same_weights(plain.dictionary, with_search.dictionary)
    assert same_weights(plain.dictionary, none_found.dictionary)
    assert plain.history == none_found.history


def test_the_first_positions_of_windows_can_be_left_out():
    class Windowed(Planted):
        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            position = torch.arange(batch_size) % 16
            batch.acts["a"][position < 2] += 1e4
            return SiteBatch(batch.acts, batch.token, batch.document, position)

    class Without(Windowed):
        def batch(self, batch_size, index):
            full = super().batch(batch_size, index)
            keep = full.position >= 2
            return SiteBatch({"a": full.acts["a"][keep]}, full.token[keep], full.document[keep], full.position[keep])

    settings = config(leave_out=LeaveOutConfig(positions=2))
    left = fit([job_of("topk")], Windowed(), settings, reporter=Listener())[0]
    assert same_weights(left.dictionary, fit([job_of("topk")], Without(), config(), spreads={})[0].dictionary)
    with pytest.raises(InputError, match=r"none is left to train on.*leave out fewer positions"):
        fit([job_of("topk")], Windowed(), config(leave_out=LeaveOutConfig(positions=16)), reporter=Listener())


def test_a_first_batch_without_ordinary_vectors_is_refused():
    with pytest.raises(InputError, match="leaves 0 of the 64 vectors of the first batch"):
        fit([job_of("topk")], Spiked(every=101, empty=0), config(leave_out=BY_NORM), reporter=Listener())


def test_a_training_that_ends_in_a_batch_without_ordinary_vectors_has_its_last_point():
    left = fit([job_of("relu")], Spiked(every=101, empty=29), config(leave_out=BY_NORM), reporter=Listener())[0]
    assert left.final.step == 30
    assert left.final.loss != left.final.loss
    assert left.final.fvu == left.history[-2].fvu


def test_checkpoints_that_left_out_other_vectors_are_refused(tmp_path):
    listener = Listener()
    fit([job_of("topk")], Spiked(), config(leave_out=BY_NORM), checkpoints=tmp_path, reporter=listener)
    for other in (LeaveOutConfig(), LeaveOutConfig(norm=12), LeaveOutConfig(norm=10, positions=1)):
        with pytest.raises(InputError, match="another training"):
            fit([job_of("topk")], Spiked(), config(leave_out=other), checkpoints=tmp_path, reporter=listener)


def test_vectors_that_are_not_finite_are_not_left_out_in_silence():
    class Broken(Spiked):
        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            if index == 20:
                batch.acts["a"][3, 0] = float("inf")
            return batch

    with pytest.raises(Diverged, match="NaN or infinities"):
        fit([job_of("topk")], Broken(), config(leave_out=BY_NORM), reporter=Listener())


def test_without_a_reporter_massive_vectors_are_a_warning():
    with pytest.warns(UserWarning, match=r"^a: \d+ of 1,920 train vectors are massive"):
        fit([job_of("topk")], Spiked(), config())


def test_a_norm_that_leaves_out_a_tenth_leaves_out_none_and_says_so():
    listener = Listener()
    left = fit([job_of("topk")], Spiked(every=10), config(leave_out=BY_NORM), reporter=listener)[0]
    assert "none is left out by norm" in listener.messages[0]
    assert same_weights(left.dictionary, fit([job_of("topk")], Spiked(every=10), config(), spreads={})[0].dictionary)
