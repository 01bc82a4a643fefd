"""Saved toys come back, results are kept, and every outcome is told apart."""

import json
import math
from pathlib import Path

import pytest
import torch

from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.core.records import Interval
from polyseme.zoo import Experiment
from polyseme.zoo.running import (
    Result,
    chosen,
    load_toy,
    markdown,
    run_experiment,
    save_toy,
    saved_inputs,
    toy_named,
)
from polyseme.zoo.superposition.toy import SuperpositionToy
from polyseme.zoo.tools.checks import Check, Line, Value, fill, mean, share, share_interval
from polyseme.zoo.tools.stack import Draws, Grid, OptimiserConfig, Stack, train_stack

TINY = SuperpositionToy(seeds=(0, 1), optimiser=OptimiserConfig(steps=20, lr=1e-2), batch=16)


LINE = Line("x of {what}", "1 ± 0.1", 0.9, 1.1, source="derived")


def a_check(value: float) -> Check:
    return LINE.fill(Value(value, 3), what="y")


@pytest.mark.parametrize(
    ("value", "outcome"), [(1.0, "pass"), (0.9, "pass"), (0.8, "fail"), (math.nan, "not_measured")]
)
def test_outcomes(value: float, outcome: str) -> None:
    assert a_check(value).outcome == outcome


def test_nothing_measured_never_passes() -> None:
    for found in (Value(1.0, 3), Value(math.nan, 3)):
        check = LINE.fill(found, "did not train", what="y")
        assert (check.outcome, check.note, check.n) == ("not_measured", "did not train", 0)
    assert [c.outcome for c in fill((LINE, LINE), (), "no data", what="y")] == ["not_measured"] * 2


def test_a_line_names_what_it_is_filled_with() -> None:
    assert (a_check(1.0).name, a_check(1.0).reference, a_check(1.0).n) == ("x of y", "1 ± 0.1", 3)
    near = Line("x", "{target:.1f} ± 10%", relative=0.1)
    assert [near.fill(Value(v), target=-2.0).outcome for v in (-2.21, -2.19, -1.81, -1.79)] == [
        "fail",
        "pass",
        "pass",
        "fail",
    ]
    assert near.fill(Value(3.0), target=3.0).reference == "3.0 ± 10%"
    assert Line("x", "1", target=1.0, within=0.5).fill(Value(1.4)).outcome == "pass"


def test_a_claim_about_every_network_fails_by_one_of_them_and_an_interval_counts_where_it_has_to() -> None:
    assert LINE.fill(Value(1.0, 3, holds=False), what="y").outcome == "fail"
    beyond = Line("x", "> 0", at_least=0.0, beyond=True)
    assert [beyond.fill(mean([v, 1.0])).outcome for v in (0.99, -0.9)] == ["pass", "fail"]
    assert beyond.fill(mean([1.0])).outcome == "fail", "one network has no interval"


def test_every_line_needs_its_value() -> None:
    with pytest.raises(ValueError, match="zip"):
        fill((LINE, LINE), (Value(1.0),), what="y")


def test_shares_and_means_count_what_they_are_given() -> None:
    assert share(torch.tensor([[True, False], [True, True]])).n == 4
    assert share([True, False, False, False]).value == share(1, 4).value == 0.25
    assert mean(torch.tensor([1.0, 2.0, 3.0])).shown(".1f") == "2.0 [-0.5, 4.5]"


def test_wilson_interval_of_all_and_none() -> None:
    # Wilson with all of n: the lower bound is n / (n + z²).
    share, interval = share_interval(24, 24)
    assert share == 1
    assert interval.low == pytest.approx(24 / (24 + 1.959964**2), abs=1e-6)
    assert share_interval(0, 24)[1].high == pytest.approx(1 - interval.low)
    assert math.isnan(share_interval(0, 0)[0])


def test_t_interval_of_a_known_sample() -> None:
    found = mean([1.0, 2.0, 3.0, math.nan])
    assert found.value == pytest.approx(2)
    assert found.interval.high - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-5)


def test_an_instance_does_not_know_what_it_is_batched_with() -> None:
    pair = TINY.train(Silent())
    alone = TINY.model_copy(update={"seeds": (1,)}).train(Silent())
    assert torch.allclose(pair[1].module.W, alone[0].module.W, atol=1e-6)
    assert not torch.allclose(pair[0].module.W, pair[1].module.W, atol=1e-2)


def test_draws_are_a_function_of_their_own_seed() -> None:
    assert torch.equal(Draws([3, 4]).uniform(5)[1], Draws([4]).uniform(5)[0])
    x = Draws([0]).sparse_uniform(torch.tensor([0.1]), 100_000)[0]
    assert (x > 0).float().mean() == pytest.approx(0.1, abs=0.005)
    assert x[x > 0].mean() == pytest.approx(0.5, abs=0.01)


def test_a_stack_finds_the_minimum_of_each_instance() -> None:
    target = torch.tensor([[1.0], [-2.0]])
    w = torch.zeros(2, 1)
    config = OptimiserConfig(steps=2000, lr=1e-2, weight_decay=0.0, schedule="cosine")
    history = train_stack({"w": w}, lambda _: (w - target).square().sum(-1), config, reporter=Silent())
    assert torch.allclose(w, target, atol=1e-3)
    assert history.loss.shape == (10, 2)


def test_a_diverged_instance_leaves_the_others_alone() -> None:
    w = torch.ones(2, 1)
    config = OptimiserConfig(steps=50, lr=1e-1)

    def loss(_: int) -> torch.Tensor:
        return (w * torch.tensor([[1.0], [math.nan]])).square().sum(-1)

    history = train_stack({"w": w}, loss, config, reporter=Silent())
    assert history.final[0].isfinite()
    assert history.final[1].isnan()
    assert not TINY.train(Silent())[0].module.W.isnan().any()


def test_a_stack_says_which_of_its_instances_trained() -> None:
    grid = Grid((0, 1), density=(0.1, 0.5))
    stack = Stack({"weight": torch.rand(4, 2, 3)}, torch.tensor([0.1, 0.6, math.nan, 0.5]), grid, 0.5)
    assert stack.trained.tolist() == [True, False, False, True]
    assert stack.untrained == "2 of 4 networks did not train"
    assert Stack(stack.parameters, torch.zeros(4), grid, 0.5).untrained == ""
    assert stack.where(density=0.5) == [2, 3]
    truth, sample = TINY.train(Silent())[0].truth, TINY.train(Silent())[0].draw
    toys = stack.toys(lambda: torch.nn.Linear(3, 2, bias=False), lambda _: truth, lambda _: sample)
    assert [toy.trained for toy in toys] == [True, False, False, True]
    assert [(toy.seed, toy.setting) for toy in toys] == list(zip(grid.seeds, grid.settings, strict=True))
    assert all(torch.equal(toy.module.weight, w) for toy, w in zip(toys, stack.parameters["weight"], strict=True))


def test_a_saved_toy_comes_back(tmp_path: Path) -> None:
    toy = TINY.train(Silent())[1]
    save_toy(tmp_path, "superposition", TINY, toy)
    module, config = load_toy(tmp_path)
    assert config == TINY
    x = torch.rand(3, 5)
    assert torch.equal(module(x), toy.module(x))
    (tmp_path / "toy.json").write_text('{"toy": "nonesuch"}')
    with pytest.raises(InputError, match="nonesuch"):
        load_toy(tmp_path)


def test_results_are_kept_until_the_settings_change(tmp_path: Path) -> None:
    runs = []

    def run(config: SuperpositionToy, reporter: object) -> list[object]:
        runs.append(config)
        return [a_check(1.0)]

    experiment = Experiment("counted", "fast", "how often it runs", run)
    first = run_experiment("superposition", TINY, experiment, root=tmp_path)
    assert run_experiment("superposition", TINY, experiment, root=tmp_path) == first
    assert len(runs) == 1
    run_experiment("superposition", TINY.model_copy(update={"batch": 17}), experiment, root=tmp_path)
    run_experiment("superposition", TINY, experiment, root=tmp_path, resume=False)
    assert len(runs) == 3


def test_unknown_names_are_told_with_the_nearest() -> None:
    with pytest.raises(InputError, match="superpos") as error:
        toy_named("superpositon")
    assert "superposition" in str(error.value.fix)
    with pytest.raises(InputError, match="hexagon"):
        chosen("superposition", ("hexagon",))


def test_the_table_shows_what_failed_and_why() -> None:
    checks = (
        a_check(1.0).model_copy(update={"interval": Interval(low=0.95, high=1.05)}),
        a_check(2.0).model_copy(update={"name": "y", "note": "twice as much"}),
    )
    result = Result(toy="superposition", experiment="e", about="", cost="fast", seconds=1.0, config={}, checks=checks)
    text = markdown([result])
    assert "| x of y | 1 ± 0.1 | derived | 1 [0.95, 1.05] | 3 networks | pass |" in text
    assert "**superposition, y**: twice as much" in text


def test_a_saved_toy_with_weights_that_are_not_finite_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    config = toy_named("probe_steering").config()
    save_toy(tmp_path, "probe_steering", config, config.train(Silent())[0])
    load_toy(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    about = json.loads((tmp_path / "toy.json").read_text())
    earlier = {key: value for key, value in about.items() if key not in ("files", "sha256")}  # without checksums
    (tmp_path / "toy.json").write_text(json.dumps(earlier))
    with pytest.raises(InputError, match="holds NaN or infinities"):
        load_toy(tmp_path)


@pytest.mark.parametrize("name", ["toy.json", "model.safetensors", "data.safetensors"])
def test_no_bit_of_a_saved_toy_can_change_without_a_word(name: str, tmp_path: Path) -> None:
    (toy,) = TINY.model_copy(update={"seeds": (0,)}).train(Silent())
    save_toy(tmp_path, "superposition", TINY, toy)
    read = saved_inputs if name == "data.safetensors" else load_toy
    read(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for i in range(1, len(whole), max(1, len(whole) // 200)):
        (tmp_path / name).write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        if name == "toy.json" and any(key in whole[i - 8 : i + 8] for key in (b'"sha256"', b"\n")):
            continue  # the checksum's own name, without which it is an earlier version's; or white space
        with pytest.raises(InputError):
            read(tmp_path)
