"""Probe and steering directions: closed forms at every size, and effects against every next token counted out."""

import pytest
import torch
from pydantic import ValidationError

from polyseme.causal.directions import duals, optimal_probe
from polyseme.core.progress import Silent
from polyseme.zoo.probe_steering.checks import analytic, effects, read_and_written, sampled
from polyseme.zoo.probe_steering.toy import (
    NextState,
    ProbeSteeringToy,
    all_states,
    coupled,
    exact_ce,
    expected_kl,
    features,
    predicted_windows,
    true_firings,
)
from polyseme.zoo.tools.exact import ShortTraining


@pytest.mark.parametrize(("angle", "k"), [(60, 5), (90, 4), (20, 3), (135, 8)])
def test_closed_forms_at_other_sizes(angle: float, k: int):
    config = ProbeSteeringToy(angle=angle, n_features=k, seeds=(3,))
    assert {c.outcome for c in analytic(config, Silent())} == {"pass"}


def test_the_documented_numbers():
    found = {c.name: c.value for c in analytic(ProbeSteeringToy(), Silent())}
    assert found["leak of steering along the probe, 60° pair"] == pytest.approx(-0.5)
    assert found["cos(probe, feature), 60° pair"] == pytest.approx(0.866, abs=1e-3)
    assert found["R² of a probe, regular 5-gon"] == pytest.approx(0.4)
    assert found["leak to the corner 1 further, regular 5-gon"] == pytest.approx(0.309, abs=1e-3)
    assert found["leak to the corner 2 further, regular 5-gon"] == pytest.approx(-0.809, abs=1e-3)


@pytest.mark.parametrize("shape", ["pair", "polygon"])
def test_effects_are_those_of_every_next_token_counted_out(shape: str):
    rows = features(ProbeSteeringToy(), shape)
    readers = optimal_probe(rows).directions
    module, bits = NextState(rows, readers), all_states(len(rows))
    hidden = bits @ rows
    clean = (hidden @ module.unembed.T).log_softmax(-1)
    edited = ((hidden - rows[0]) @ module.unembed.T).log_softmax(-1)
    change = rows @ readers.T
    kl = expected_kl(bits, change, change[0])
    torch.testing.assert_close(kl, (clean.exp() * (clean - edited)).sum(-1))
    following = torch.randint(len(bits), (len(bits),), generator=torch.Generator().manual_seed(0))
    ce = exact_ce(bits, bits[following], change, change[0])
    rows_of = torch.arange(len(bits))
    torch.testing.assert_close(ce, (clean - edited)[rows_of, following])
    torch.testing.assert_close(module(torch.arange(len(bits))[None])[0].log_softmax(-1), clean)


def test_removing_a_feature_along_its_probe_does_more_than_removing_it():
    rows = features(ProbeSteeringToy(), "pair")
    dual, bits = duals(rows), all_states(2)
    clean = expected_kl(bits, rows @ dual.T, (rows @ dual.T)[0])
    leaky = expected_kl(bits, rows @ dual.T, (dual @ dual.T)[0])
    assert (leaky > clean).all()


def test_polyseme_measures_the_effects_of_the_closed_form():
    config = ProbeSteeringToy(n_windows=4, n_features=4, seeds=(1,))
    found = [c for c in effects(config, Silent()) if "largest difference" in c.name]
    assert len(found) == 6
    assert {c.outcome for c in found} == {"pass"}


def test_windows_follow_their_predictions():
    config = ProbeSteeringToy(n_windows=400)
    windows = predicted_windows(config, torch.eye(2, dtype=torch.float64), torch.Generator().manual_seed(0))
    bits = all_states(2)[torch.from_numpy(windows.tokens).long()]
    before, after = bits[:, :-1].reshape(-1, 2), bits[:, 1:].reshape(-1, 2)
    for i in range(2):
        on = before[:, i] == 1
        assert float(after[on, i].mean()) == pytest.approx(float(torch.sigmoid(torch.tensor(0.5))), abs=0.02)
        assert float(after[~on, i].mean()) == pytest.approx(0.5, abs=0.02)
    firings = true_firings(windows, 2)
    assert firings.n_tokens == windows.n_tokens
    torch.testing.assert_close(torch.from_numpy(firings.matrix.toarray()).double(), bits.reshape(-1, 2))


def test_coupled_features_correlate_by_half_and_are_as_dense():
    z = coupled(ProbeSteeringToy(density=0.2), 200_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), torch.full((2,), 0.2, dtype=torch.float64), atol=0.01, rtol=0)
    assert float(torch.corrcoef(z.T)[0, 1]) == pytest.approx(0.5, abs=0.01)


def test_samples_too_few_for_the_tolerance_fail():
    config = ProbeSteeringToy(n_samples=200, seeds=(0,))
    found = {c.name: c.outcome for c in sampled(config, Silent())}
    assert found["differences of means from features, 5-gon, largest difference"] == "fail"
    # Without noise, and with as many dimensions as features, a fitted probe is exact whatever the sample.
    assert found["least-squares probes, pair, largest difference"] == "pass"
    assert found["read-offs of the steered network from the leaks, polygon"] == "pass"


def test_a_dictionary_that_did_not_train_is_not_measured():
    checks = read_and_written(
        ProbeSteeringToy(seeds=(0,)), ShortTraining(steps=1, batch=64, rows=256, lr=1e-9), 1e-2, Silent()
    )
    assert {c.outcome for c in checks} == {"not_measured"}


def test_toys_hold_their_features():
    for toy in ProbeSteeringToy(seeds=(0,)).train(Silent()):
        assert toy.trained
        assert toy.truth.directions is not None
        n = len(toy.truth.features)
        read = toy.network().read(torch.eye(n, dtype=torch.float64), [toy.truth.site])[toy.truth.site]
        torch.testing.assert_close(read.float(), toy.truth.directions)
        _, sample = toy.activations(10, torch.Generator().manual_seed(0))
        assert torch.equal(sample.inputs, sample.features)


@pytest.mark.parametrize(
    "bad", [{"angle": 0.0}, {"angle": 180.0}, {"n_features": 2}, {"density": 1.0}, {"seeds": ()}, {"n_samples": 0}]
)
def test_what_cannot_be_is_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        ProbeSteeringToy.model_validate(bad)
