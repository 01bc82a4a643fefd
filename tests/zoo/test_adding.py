"""What a new toy costs: one file and one line, and every command has it."""

from pathlib import Path

import pytest
import torch

from polyseme.cli.main import run
from polyseme.core.progress import Silent
from polyseme.zoo import TOYS
from polyseme.zoo.running import load_toy, saved_inputs
from tests.zoo import added


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOYS, "autoencoder", added.ENTRY)


def test_it_is_listed_checked_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo", "list"]) == 0
    assert "every feature comes back" in capsys.readouterr().out
    assert run(["zoo", "check", "autoencoder", "--root", str(tmp_path), "--n-features", "3"]) == 0
    assert "1 passed" in capsys.readouterr().out
    assert run(["zoo", "figures", "autoencoder", "--out", str(tmp_path / "weights.svg")]) == 0
    assert (tmp_path / "weights.svg").read_text().startswith("<?xml")


def test_its_networks_are_saved_and_read_as_any_network(tmp_path: Path) -> None:
    assert run(["zoo", "train", "autoencoder", "--out", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("autoencoder-*/2")
    module, config = load_toy(folder)
    assert config == added.AutoencoderToy()
    x = saved_inputs(folder)
    torch.testing.assert_close(module(x), x, atol=0.05, rtol=0.05)
    toy = config.train(Silent())[2]
    assert (toy.seed, toy.trained, toy.truth.cause) == (2, True, "rotated")
    read, sample = toy.activations(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(read, sample.features @ toy.truth.directions)


def test_one_that_did_not_train_is_not_measured() -> None:
    config = added.AutoencoderToy(optimiser=added.OptimiserConfig(steps=1, lr=0.0))
    (check,) = added.recovered(config, Silent())
    assert (check.outcome, check.note) == ("not_measured", "3 of 3 networks did not train")
