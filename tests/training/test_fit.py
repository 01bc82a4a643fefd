import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.core.batch import SiteBatch
from polyseme.core.binding import Binding
from polyseme.core.errors import Diverged, InputError
from polyseme.core.progress import Silent
from polyseme.dictionaries import ARCHITECTURES
from polyseme.store import latest_checkpoint
from polyseme.training import Job, TrainingConfig, fit
from polyseme.training.schedules import learning_rate
from tests.store.listener import Listener
from tests.training.planted import Planted, mcc, same_weights

TOPK = ARCHITECTURES["topk"]
SHORT = TrainingConfig(n_tokens=64 * 20, batch_size=64, lr=1e-3, dead_after=200)


def job(name="one", *, seed=0, site="a", config=None, d=16, **kwargs):
    config = config or TOPK(n_latents=32, k=4)
    return Job(name, config.build(d, seed=seed), site, seed, **kwargs)


def test_a_planted_truth_is_recovered():
    source = Planted(n_tokens=256 * 200)
    (trained,) = fit([job()], source, TrainingConfig(batch_size=256, lr=1e-2, dead_after=20_000))
    assert mcc(trained.dictionary.write_directions(), source.truth["a"]) > 0.9
    assert trained.final.fvu < 0.15
    assert trained.final.l0 <= 4


def test_the_loop_is_adam_with_the_schedule_and_clipping():
    """The same updates by torch's plain Adam and clip_grad_norm_, written out."""
    source, config = Planted(), SHORT.model_copy(update={"clip": 0.01})
    (trained,) = fit([job()], source, config)
    dictionary = job().dictionary
    parameters = list(dictionary.parameters().values())
    # The latents' biases move √d_in = 4 times as fast.
    factors = [4.0 if parameter is dictionary.parameters()["b_enc"] else 1.0 for parameter in parameters]
    groups = [{"params": [parameter]} for parameter in parameters]
    optimiser = torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.999), foreach=False)
    idle = torch.zeros(32, dtype=torch.int64)
    clipped = 0
    for t, batch in enumerate(source.batches(64, stop=20)):
        own = batch.at(Binding.at("a"))
        if t == 0:
            dictionary.initialise(own)
        dead = idle >= 200
        stats = dictionary.accumulate(own, progress=t / 20, dead=dead if dead.any() else None, coefficient=0.0)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.01, foreach=False)
        clipped += bool(norm > 0.01)
        for group, factor in zip(optimiser.param_groups, factors, strict=True):
            group["lr"] = factor * learning_rate(t, 20, peak=1e-3, warmup=1, decay=4)
        optimiser.step()
        dictionary.after_step()
        idle = torch.where(stats.fired > 0, 0, idle + 64)
    assert clipped > 0
    for name, value in dictionary.parameters().items():
        torch.testing.assert_close(trained.dictionary.parameters()[name], value, rtol=1e-4, atol=1e-6)


def test_clipping_changes_the_result_only_where_gradients_are_large():
    results = {}
    for clip in (None, 1e9, 1e-3):
        (trained,) = fit([job()], Planted(), SHORT.model_copy(update={"clip": clip}))
        results[clip] = trained.dictionary
    assert same_weights(results[None], results[1e9])
    assert not same_weights(results[None], results[1e-3])


def test_jobs_in_one_pass_equal_each_alone():
    source = Planted(sites=("a", "b"))

    def jobs():
        wide = TOPK(n_latents=48, k=2)
        return [
            job("first"),
            job("other seed", seed=1),
            job("other site", site="b"),
            job("other size", config=wide),
            Job("transcoder", TOPK(n_latents=32, k=4).build(16, 16, seed=0), Binding(("a",), ("b",)), 0),
        ]

    together = fit(jobs(), source, SHORT)
    assert not same_weights(together[0].dictionary, together[1].dictionary)
    assert not same_weights(together[0].dictionary, together[2].dictionary)
    for one, alone in zip(together, jobs(), strict=True):
        (single,) = fit([alone], source, SHORT)
        assert one.name == single.name
        assert same_weights(one.dictionary, single.dictionary)
        assert one.history == single.history


def test_every_architecture_learns():
    """One pass trains the whole family; the history's first point is after 1% of the steps."""
    jobs = [job(name, config=config(n_latents=32)) for name, config in ARCHITECTURES.items()]
    for trained in fit(jobs, Planted(), TrainingConfig(n_tokens=128 * 100, batch_size=128, lr=5e-3)):
        assert trained.final.fvu < 0.7, trained.name
        assert trained.final.fvu < 0.8 * trained.history[0].fvu, trained.name


PENALISED = [name for name, config in ARCHITECTURES.items() if config(n_latents=32).has_coefficient]


@pytest.mark.slow
@pytest.mark.parametrize(("n_latents", "seed", "target"), [(32, 0, 6.0), (64, 7, 3.0)])
def test_the_target_l0_is_got_and_no_latent_lost(n_latents: int, seed: int, target: float):
    """Within 3% on fresh vectors, below and above the truth's own 4, for each architecture that has a coefficient.

    An L0 penalty pays for duplicates of a feature, which TopK does not: JumpReLU may lose a third of those.
    """
    jobs = [
        job(name, config=ARCHITECTURES[name](n_latents=n_latents), target_l0=target, seed=seed) for name in PENALISED
    ]
    source = Planted(active=4.0, n_tokens=10**9, seed=seed)
    fresh = source.batch(16_384, 100_000).acts["a"]
    counted = job("topk", config=TOPK(n_latents=n_latents, k=int(target)), seed=seed)
    config = TrainingConfig(n_tokens=256 * 400, batch_size=256)
    *trained, of_topk = fit([*jobs, counted], source, config, spreads={})
    for one in trained:
        l0 = float(one.dictionary.encode(fresh).l0.mean())
        assert l0 == pytest.approx(target, rel=0.03), one.name
        surplus = 1 - source.n_features / n_latents if one.name == "jumprelu" else 0.0
        assert one.final.dead <= of_topk.final.dead + surplus / 3, one.name


def test_a_target_that_is_out_of_reach_is_told():
    """Planted vectors of width 16 have no 31 of 32 latents above their thresholds at once."""
    config = ARCHITECTURES["jumprelu"](n_latents=32)
    told = Listener()
    fit([job(config=config, target_l0=31.0)], Planted(), SHORT, spreads={}, reporter=told)
    assert any("and the target is 31: train longer, or set another target" in text for text in told.messages)
    told = Listener()
    fit([job()], Planted(), SHORT, spreads={}, reporter=told)
    assert told.messages == []


def test_the_history_tells_what_happened():
    source = Planted()
    (trained,) = fit([job()], source, TrainingConfig(n_tokens=64 * 250, batch_size=64, lr=1e-3))
    history = trained.history
    assert 100 <= len(history) <= 130
    assert [point.tokens for point in history] == [64 * point.step for point in history]
    assert history[-1].step == 250
    assert trained.n_tokens == 64 * 250
    assert history[-1].lr == pytest.approx(1e-3 / 50)
    assert history[-1].fvu < history[0].fvu
    assert all(0 <= point.dead <= 1 for point in history)
    assert all(point.coefficient == 0 for point in history)


def test_dead_latents_are_those_that_have_not_fired_for_long():
    dictionary = job(config=TOPK(n_latents=32, k=4, k_aux=0))
    dictionary.dictionary.parameters()["b_enc"][:8] = -1e3
    (trained,) = fit([dictionary], Planted(), SHORT.model_copy(update={"revive": 0.0}))
    dead_at = {point.step: point.dead for point in trained.history}
    assert dead_at[4] == 0  # 3 × 64 < 200 tokens before the batch
    assert dead_at[5] >= 0.25
    assert dead_at[20] >= 0.25


def test_the_learning_rate_of_the_config_wins():
    (trained,) = fit([job()], Planted(), SHORT.model_copy(update={"lr": 0.5, "warmup": 0.0, "decay": 0.0}))
    assert {point.lr for point in trained.history} == {0.5}


def test_more_tokens_than_the_source_has_go_round():
    (trained,) = fit([job()], Planted(n_tokens=640), SHORT)
    assert trained.n_tokens == 1280


@settings(deadline=None, max_examples=5)
@given(st.floats(1e-3, 1e3))
def test_training_is_blind_to_the_scale_of_the_data(scale):
    class Scaled(Planted):
        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            return dataclasses.replace(batch, acts={site: x * scale for site, x in batch.acts.items()})

    config = SHORT.model_copy(update={"n_tokens": 64 * 5})
    (plain,), (scaled,) = fit([job()], Planted(), config), fit([job()], Scaled(), config)
    assert scaled.final.fvu == pytest.approx(plain.final.fvu, rel=1e-3)


class Spoiled(Planted):
    """Good batches up to the tenth, which `spoil` changes."""

    spoil = staticmethod(lambda x: x)

    def batch(self, batch_size, index):
        batch = super().batch(batch_size, index)
        if index != 10:
            return batch
        return dataclasses.replace(batch, acts={site: self.spoil(x.clone()) for site, x in batch.acts.items()})


def test_nan_in_the_data_stops_with_step_batch_and_place(tmp_path):
    class Holed(Spoiled):
        @staticmethod
        def spoil(x):
            x[5, 3] = math.nan
            return x

    config = SHORT.model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(
        Diverged, match=r"1 vectors of a hold NaN.*document 5.*job one, step 11 of 20, tokens 640 to 704"
    ):
        fit([job()], Holed(), config, checkpoints=tmp_path)
    assert latest_checkpoint(tmp_path).step == 10
    (resumed,), (clean,) = fit([job()], Planted(), config, checkpoints=tmp_path), fit([job()], Planted(), config)
    assert same_weights(resumed.dictionary, clean.dictionary)


@pytest.mark.parametrize("what", ["overflow", "hopeless"])
def test_divergence_names_the_last_good_checkpoint(tmp_path, what):
    factor = 1e30 if what == "overflow" else 1e4

    class Exploding(Spoiled):
        @staticmethod
        def spoil(x):
            return torch.cat([x[:1] * factor, -x[1:2] * factor, x[2:]])

    class Hopeless(Planted):
        """From the tenth batch on, other data: tiny spread far from the mean."""

        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            return batch if index < 10 else dataclasses.replace(batch, acts={"a": 50 + 0.01 * batch.acts["a"]})

    source = Exploding() if what == "overflow" else Hopeless()
    config = SHORT.model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(Diverged, match=r"training diverged.*lower training.lr.*last good checkpoint is .*00000000\d\d"):
        fit([job()], source, config, checkpoints=tmp_path, reporter=Silent())
    for tensor in latest_checkpoint(tmp_path).tensors.values():
        assert bool(torch.isfinite(tensor.double()).all())


@pytest.mark.parametrize(
    ("jobs", "change", "message"),
    [
        (list, {}, "no dictionary"),
        (lambda: [job(), job()], {}, "two jobs are called 'one'"),
        (lambda: [job(site="aa")], {}, r"no site 'aa'.*nearest: a"),
        (lambda: [job(d=17)], {}, r"d_in is 17.*width 16"),
        (lambda: [Job("t", TOPK(n_latents=8, k=2).build(16, 5, seed=0), Binding.at("a"), 0)], {}, "d_out is 5"),
        (lambda: [job()], {"batch_size": 65_000, "n_tokens": None}, "a batch of 65000 tokens is more than the 64000"),
        (lambda: [job()], {"n_tokens": 63}, "more than the 63"),
        (lambda: [job()], {"warmup": 0.7, "decay": 0.7}, "longer than the training"),
        (lambda: [job()], {"target_l0": 33.0}, "target L0 of 33 cannot be reached"),
        (lambda: [job()], {"target_l0": 5.0}, r"k=4 latents.*set k to 5"),
        (lambda: [job(target_l0=7.0)], {}, "the target L0 is 7"),
    ],
)
def test_what_cannot_work_is_told_before_any_batch(jobs, change, message):
    class Untouched(Planted):
        def batches(self, batch_size, *, start=0, stop=None):
            pytest.fail("work was done")

    config = TrainingConfig.model_validate({**SHORT.model_dump(), **change})
    with pytest.raises(InputError, match=message):
        fit(jobs(), Untouched(), config)


def test_one_dictionary_object_is_not_trained_twice():
    one = job("one")
    with pytest.raises(InputError, match="same dictionary object"):
        fit([one, dataclasses.replace(one, name="two")], Planted(), SHORT)


def test_a_target_that_agrees_with_k_is_fine():
    fit([job()], Planted(), SHORT.model_copy(update={"target_l0": 4.0}))


def test_progress_is_shown_in_tokens_with_a_note():
    class Shown:
        def __init__(self):
            self.tasks, self.updates = [], []

        def task(self, name, total, unit=""):
            self.tasks.append((name, total, unit))
            return self

        def update(self, done, total=None, note=""):
            self.updates.append((done, note))

        def message(self, text):
            pytest.fail(text)

    reporter = Shown()
    fit([job()], Planted(), SHORT, spreads={}, reporter=reporter)
    assert reporter.tasks == [("training", 1280, "tokens")]
    done, note = reporter.updates[-1]
    assert done == 1280
    assert note.startswith("fvu 0.")
    assert "L0" in note
    assert "dead" in note


def test_a_source_that_ends_early_is_not_taken_for_finished():
    class Short(Planted):
        def batches(self, batch_size, *, start=0, stop=None):
            yield from super().batches(batch_size, start=start, stop=5)

    with pytest.raises(AssertionError, match="gave 5 batches"):
        fit([job()], Short(), SHORT)


def test_batches_of_half_precision_are_widened():
    class Half(Planted):
        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            return SiteBatch({"a": batch.acts["a"].half()}, batch.token, batch.document, batch.position)

    class Rounded(Planted):
        def batch(self, batch_size, index):
            batch = super().batch(batch_size, index)
            return SiteBatch({"a": batch.acts["a"].half().float()}, batch.token, batch.document, batch.position)

    (half,), (rounded,) = fit([job()], Half(), SHORT), fit([job()], Rounded(), SHORT)
    assert same_weights(half.dictionary, rounded.dictionary)
