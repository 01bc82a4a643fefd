"""Revival in training: when it happens, that it is resumed bit for bit, and how few latents are dead after it."""

import pytest
import torch

from polyseme.core.binding import Binding
from polyseme.dictionaries import ARCHITECTURES, SparseDictionary
from polyseme.training import Job, TrainingConfig, fit
from polyseme.training.preflight import plan_of
from tests.training.planted import Planted, same_weights

N_STEPS, BATCH = 60, 64
CONFIG = TrainingConfig(n_tokens=N_STEPS * BATCH, batch_size=BATCH, dead_after=4 * BATCH, lr=5e-3, checkpoint_seconds=0)
HAS_K = {name: "k" in kind.model_fields for name, kind in ARCHITECTURES.items()}


def job(name="batch_topk", *, n_latents=256, k=2, target=4.0, seed=0, d_out=None, frozen=()):
    kind = ARCHITECTURES[name]
    config = kind.model_validate({"n_latents": n_latents, **({"k": k} if HAS_K[name] else {})})
    dictionary = SparseDictionary(config, 16, d_out, seed=seed, frozen=frozen)
    binding = Binding.at("a") if d_out is None else Binding(("a",), ("b",))
    return Job(name, dictionary, binding, seed, None if HAS_K[name] else target)


@pytest.fixture
def calls(monkeypatch):
    """(dictionary, latents revived) of every revival."""
    found, revive = [], SparseDictionary.revive

    def counting(self, *args, **kwargs):
        latents = revive(self, *args, **kwargs)
        found.append((self, latents.tolist()))
        return latents

    monkeypatch.setattr(SparseDictionary, "revive", counting)
    return found


def test_latents_are_revived_every_tenth_step_between_the_warm_ups_and_the_decay(calls):
    plan = plan_of([job()], Planted(), CONFIG)
    assert [step for step in range(N_STEPS) if plan.revives(step)] == [9, 19, 29, 39, 49]
    # warm-up 3, sparsity warm-up 6; decay 12, of which the last half is left alone
    assert plan.revived == (6, 54)
    assert not any(plan_of([job()], Planted(), CONFIG.model_copy(update={"revive": 0.0})).revives(s) for s in range(60))
    no_decay = plan_of([job()], Planted(), CONFIG.model_copy(update={"decay": 0.0}))
    assert no_decay.revived == (6, 56)  # a latent has `dead_after` tokens to show that it lives
    fit([job()], Planted(), CONFIG)
    assert len(calls) == 5
    assert all(0 < len(latents) <= 5 for _, latents in calls)  # 2% of 256


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka"])
def test_an_interrupted_training_goes_through_a_revival_to_the_same_bits(name, tmp_path, calls):
    class Stopping(Planted):
        def batch(self, batch_size, index):
            if index == self.at:
                raise KeyboardInterrupt
            return super().batch(batch_size, index)

    (clean,) = fit([job(name)], Planted(), CONFIG)
    n_calls = len(calls)
    assert n_calls > 2
    for at in (19, 20, 21):  # before a revival, right after it, and a step later
        source = Stopping()
        source.at = at
        folder = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            fit([job(name)], source, CONFIG, spreads={}, checkpoints=folder)
        (resumed,) = fit([job(name)], Planted(), CONFIG, checkpoints=folder)
        assert same_weights(clean.dictionary, resumed.dictionary)
        assert clean.history == resumed.history
    assert len(calls) == 4 * n_calls


def test_nothing_changes_where_no_latent_is_dead(calls):
    config = CONFIG.model_copy(update={"dead_after": 10**6})
    (with_it,) = fit([job()], Planted(), config)
    (without,) = fit([job()], Planted(), config.model_copy(update={"revive": 0.0}))
    assert same_weights(with_it.dictionary, without.dictionary)
    assert calls == []


def test_a_revived_latent_has_no_momentum_and_the_squares_of_the_live(monkeypatch):
    from polyseme.training.jobs import Trainee

    seen, revive = [], Trainee._revive

    def looking(self, batch, step):
        live = self.idle < self.plan.dead_after
        revive(self, batch, step)
        new = ~live & (self.idle == 0)
        for name, parameter in self.job.dictionary.parameters().items():
            if name != "b_dec" and bool(new.any()):
                moments = self.optimiser.state[parameter]
                assert not moments["exp_avg"][new].any()
                squares = moments["exp_avg_sq"]
                want = squares[live].double().mean().float()
                torch.testing.assert_close(squares[new], want.expand_as(squares[new]), rtol=1e-4, atol=0)
                assert float(want) > 0
                seen.append(name)

    monkeypatch.setattr(Trainee, "_revive", looking)
    fit([job()], Planted(), CONFIG)
    assert set(seen) == {"W_enc", "W_dec", "b_enc"}


@pytest.mark.parametrize(("frozen", "name"), [("read", "W_enc"), ("write", "W_dec")])
def test_frozen_directions_are_trained_through_a_revival(frozen, name, calls):
    (trained,) = fit([job(frozen=(frozen,))], Planted(), CONFIG)
    assert any(latents for _, latents in calls)
    assert torch.equal(trained.dictionary.tensors()[name], job(frozen=(frozen,)).dictionary.tensors()[name])


def test_a_transcoder_is_trained_through_a_revival(calls):
    source = Planted(sites=("a", "b"))
    (trained,) = fit([job(d_out=16)], source, CONFIG)
    assert any(latents for _, latents in calls)
    (without,) = fit([job(d_out=16)], source, CONFIG.model_copy(update={"revive": 0.0}))
    assert trained.final.fvu < without.final.fvu


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_few_latents_are_dead_where_features_outnumber_them(name):
    """Three features a latent. Dead: active on none of 8,192 held-out vectors; of JumpReLU's latents without revival a
    seventh."""
    source = Planted(n_features=144, active=3.0)
    config = TrainingConfig(n_tokens=128 * 1000, batch_size=128, dead_after=6400, lr=5e-3)
    (trained,) = fit([job(name, n_latents=48)], source, config)
    active = torch.bincount(trained.dictionary.encode(source.batch(8192, 9999).acts["a"]).indices, minlength=48) > 0
    assert float(active.float().mean()) >= 0.95
