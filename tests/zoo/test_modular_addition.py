"""The transformer against a plain one written out, and Fourier measures against waves whose answer is known."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.networks import load_network
from polyseme.store.checkpoints import latest_checkpoint
from polyseme.zoo.modular_addition.checks import grokking, neuron_to_logit, progress, whole_table
from polyseme.zoo.modular_addition.toy import SITE, ModularAdditionToy, Transformer, all_pairs, initial, train
from polyseme.zoo.tools import fourier
from polyseme.zoo.tools.stack import OptimiserConfig

P = 7
TINY = ModularAdditionToy(
    p=P,
    d_model=16,
    n_heads=2,
    d_mlp=24,
    seeds=(0, 1),
    record_every=5,
    optimiser=OptimiserConfig(steps=10, lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)),
)


def test_the_forward_pass_is_a_transformers() -> None:
    """Against attention over all three positions, row by row and head by head."""
    w = {name: tensor[0].double() for name, tensor in initial(TINY, (3,)).items()}
    tokens = torch.tensor([[0, 1, P], [4, 4, P], [6, 2, P]])
    got = Transformer(w)(tokens)
    for row, logits in zip(tokens, got, strict=True):
        x = w["W_E"][row] + w["W_pos"]
        out = x[2].clone()
        for h in range(2):
            q, k, v = x[2] @ w["W_Q"][h], x @ w["W_K"][h], x @ w["W_V"][h]
            out += ((k @ q) / 8**0.5).softmax(0) @ v @ w["W_O"][h]
        hidden = torch.relu(out @ w["W_in"] + w["b_in"])
        expected = (out + hidden @ w["W_out"] + w["b_out"]) @ w["W_U"]
        assert torch.allclose(logits, expected)


def test_the_neurons_are_a_site() -> None:
    toy = TINY.train(Silent())[0]
    assert toy.module(torch.tensor([[1, 2, P]])).shape == (1, P)
    vectors, sample = toy.activations(5, torch.Generator().manual_seed(0))
    assert vectors.shape == (5, 24)
    assert (vectors >= 0).all()
    assert torch.equal(sample.features.argmax(-1), sample.inputs[:, :2].sum(1) % P)
    assert load_network(toy.module, example_inputs=sample.inputs).width(SITE) == 24
    assert not toy.trained  # ten steps


def test_an_instance_does_not_know_what_it_is_batched_with() -> None:
    both, alone = train(TINY), train(TINY.model_copy(update={"seeds": (1,)}))
    assert torch.equal(both.train_pairs[1], alone.train_pairs[0])
    assert torch.allclose(both.last["W_E"][1], alone.last["W_E"][0], atol=1e-5)
    assert both.train_pairs.sum(1).tolist() == [round(0.5 * P * P)] * 2


def test_a_killed_training_goes_on_to_the_same_end(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Kills(Silent):
        """Reports nothing, and ends the work at its third record."""

        def task(self, *_: object) -> "Kills":
            return self

        def update(self, done: float, note: str = "") -> None:
            if done == 15:
                raise KilledError

    config = TINY.model_copy(update={"optimiser": TINY.optimiser.model_copy(update={"steps": 20})})
    whole = train(config)
    with pytest.raises(KilledError):
        train(config, Kills(), tmp_path)
    saved = latest_checkpoint(tmp_path)
    assert saved is not None
    assert saved.step == 10
    again = train(config, Silent(), tmp_path)
    assert again.history.steps == whole.history.steps == [5, 10, 15, 20]
    assert torch.equal(again.history.loss, whole.history.loss)
    assert torch.equal(again.test_loss, whole.test_loss)
    for before, after in zip(whole.weights, again.weights, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_untrained_networks_are_not_measured() -> None:
    checks = grokking(TINY, Silent())
    assert {c.outcome for c in checks[3:]} == {"not_measured"}
    assert all(c.outcome != "pass" for c in checks)


def test_bad_settings_are_refused() -> None:
    for bad in ({"p": 8}, {"d_model": 10, "n_heads": 4}, {"train_share": 1.0}, {"seeds": ()}):
        with pytest.raises(ValidationError):
            ModularAdditionToy(**bad)


def test_the_basis_is_orthonormal() -> None:
    F = fourier.basis(P)
    assert torch.allclose(F @ F.T, torch.eye(P, dtype=torch.float64))


def test_power_finds_the_frequency_whatever_the_phase() -> None:
    x = torch.arange(11)
    table = torch.cos(2 * torch.pi * 3 * x / 11 + 0.7)[:, None] + 5
    found = fourier.power(table)
    assert found.argmax() == 2
    assert found[2] == pytest.approx(5.5)
    assert found.sum() == pytest.approx(5.5)  # the constant is left out
    assert fourier.key_frequencies(table.T).tolist() == [3]
    assert fourier.residual((table - 5).T, torch.tensor([3])) == pytest.approx(0, abs=1e-9)


def test_gini_of_equal_and_of_one() -> None:
    assert fourier.gini(torch.ones(10)) == pytest.approx(0)
    assert fourier.gini(torch.eye(10)[0]) == pytest.approx(0.9)


def ideal_logits(k: int) -> torch.Tensor:
    """5 cos(2π k (a + b − c) / P): the algorithm itself."""
    a, b = torch.arange(P * P) // P, torch.arange(P * P) % P
    return 5 * torch.cos(2 * torch.pi * k * ((a + b)[:, None] - torch.arange(P)).double() / P)


def test_restricted_keeps_the_algorithm_and_excluded_removes_it() -> None:
    logits, keys = ideal_logits(2), torch.tensor([2])
    every = torch.ones(P * P, dtype=torch.bool)
    noise = torch.randn(P * P, P, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(fourier.restricted_logits(logits, keys), logits)
    assert torch.allclose(fourier.excluded_logits(logits, keys), torch.zeros_like(logits), atol=1e-12)
    assert fourier.loss_on(torch.zeros(P * P, P), every) == pytest.approx(math.log(P))
    expected = math.log(sum(math.exp(5 * math.cos(2 * math.pi * j / P)) for j in range(P))) - 5
    assert fourier.loss_on(logits, every) == pytest.approx(expected)
    other = torch.tensor([1])
    assert torch.allclose(fourier.restricted_logits(logits, other), torch.zeros_like(logits), atol=1e-12)
    parts = fourier.restricted_logits(noise, keys) + fourier.excluded_logits(noise, keys)
    assert torch.allclose(parts, noise + noise.mean(0))  # both keep the constant


def test_neurons_of_one_frequency_and_of_two() -> None:
    a, b = all_pairs(TINY)
    one = torch.cos(2 * torch.pi * 2 * (a + b) / P + 0.3)
    two = one + torch.cos(2 * torch.pi * 3 * a / P) * 2**0.5
    silent = torch.ones(P * P)
    found = fourier.single_frequency(torch.stack([one, two, silent], dim=1), P)
    assert found[0, 1] == pytest.approx(1)
    # Variances ½ and 1: cos² over pairs, and 2 cos² over a.
    assert found[1, 1] == pytest.approx(1 / 3, abs=1e-6)
    assert found[1, 2] == pytest.approx(2 / 3, abs=1e-6)
    assert found[2].sum() == 0


def test_neurons_that_carry_the_waves_explain_them() -> None:
    a, b = all_pairs(TINY)
    angle = 2 * torch.pi * 2 * (a + b).double() / P
    neurons = torch.stack([angle.cos(), angle.sin()], dim=1)
    W_L = fourier.basis(P)[3:5]  # cos and sin of frequency 2 over c
    assert fourier.wave_explained(neurons, W_L, 2) == pytest.approx(1)
    shuffled = neurons[torch.randperm(P * P, generator=torch.Generator().manual_seed(0))]
    assert fourier.wave_explained(shuffled, W_L, 2) < 0.5


def test_progress_measures_follow_the_records() -> None:
    run = train(TINY)
    found = progress(run, 1)
    assert len(found.gini) == len(run.history.steps) == 2
    logits, _ = whole_table(run, -1, 1)
    assert fourier.loss_on(logits, ~run.train_pairs[1]) == pytest.approx(float(run.test_loss[-1, 1]), abs=1e-5)
    assert neuron_to_logit(run, -1, 1).shape == (24, P)
