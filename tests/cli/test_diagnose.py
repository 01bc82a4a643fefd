"""`polyseme diagnose`: saved toys, toys by name, a real network, and what it refuses."""

import json
from pathlib import Path

import pytest

from polyseme.cli.main import run
from polyseme.core.progress import Silent
from polyseme.zoo.product.toy import ProductToy
from polyseme.zoo.running import save_toy
from polyseme.zoo.tools.stack import OptimiserConfig
from tests import tiny

STEPS = ["--toy.optimiser.steps", "300"]
LESS = ["--n-resamples", "20", "--n-null", "200", "--max-rows", "512"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    config = ProductToy(seeds=(0, 1, 2), optimiser=OptimiserConfig(steps=800, lr=1e-2, schedule="cosine"))
    for i, toy in enumerate(config.train(Silent())):
        (folder / str(i)).mkdir()
        save_toy(folder / str(i), "product", config, toy)
    return folder


def trained(saved: Path) -> Path:
    return next(f for f in sorted(saved.iterdir()) if json.loads((f / "toy.json").read_text())["trained"])


def test_a_saved_toy_is_diagnosed_with_the_networks_beside_it_as_siblings(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["diagnose", str(trained(saved)), "--site", "read", "--out", str(tmp_path), *LESS]) == 0
    written = json.loads((tmp_path / "diagnosis.json").read_text())
    others = [json.loads((f / "toy.json").read_text())["trained"] for f in saved.iterdir()].count(True) - 1
    assert written["siblings"] == others
    assert written["answer"] in ("rotated", "abstain")
    assert {"additivity", "rotation", "gating"} <= {line["name"] for line in written["evidence"]}
    assert "neuron purity" in capsys.readouterr().out


def test_a_toy_by_name_takes_its_own_settings(tmp_path: Path) -> None:
    flags = ["--toy.n-neurons", "12", "--toy.seeds", "0", "1", "--toy.optimiser.steps", "800"]
    args = ["diagnose", "toy:product", "--site", "read", "--out", str(tmp_path), *flags, *LESS]
    assert run(args) == 0
    assert json.loads((tmp_path / "diagnosis.json").read_text())["n_neurons"] == 12


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["toy:superpositon", "--site", "hidden"], "superposition"),
        (["toy:product", "--site", "reed"], "read"),
        (["toy:product"], "--site"),
        (["toy:product", "--site", "read", *STEPS, "--index", "99"], "0 to 4"),
        (["toy:product", "--site", "read", "--toy.optimiser.steps", "1"], "did not train"),
        (["toy:superposition", "--site", "hidden", *STEPS, "--max-rows", "100"], "256 rows"),
        (["toy:superposition", "--site", "hidden", "--toy.n-hidden", "9"], "error: toy: 9 dimensions for 5 features"),
        (
            ["toy:superposition", "--site", "hidden", "--toy.density", "2"],
            "error: toy.density.0: must be less than or equal to 1 (given: 2)\n",
        ),
        (["toy:superposition", "--site", "hidden", "--alpha", "3"], "error: alpha:"),
        (
            ["toy:superposition", "--site", "hidden", "--toy.n-hidden", "x"],
            "error: toy.n_hidden: must be a valid integer",
        ),
        (["toy:superposition", "--site", "hidden", "--text", "x"], "--toy"),
        (["/no/such/network", "--site", "x"], "/no/such/network"),
        (["--site", "x"], "NETWORK"),
    ],
)
def test_bad_input_says_what_is_missing(args: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagnose", *args]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_a_saved_toy_without_its_data_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(saved)
    data = folder / "data.safetensors"
    kept = data.read_bytes()
    data.unlink()
    try:
        assert run(["diagnose", str(folder), "--site", "read"]) == 2
    finally:
        data.write_bytes(kept)
    assert "train it again" in capsys.readouterr().err


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    tiny.tiny_gpt2().save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def text(folder: Path, n_documents: int) -> Path:
    folder.mkdir()
    for i in range(n_documents):
        lines = (tiny.LINES[(i * j + j) % len(tiny.LINES)].replace("add", f"add{i * j}") for j in range(20))
        (folder / f"{i}.txt").write_text("".join(lines))
    return folder


def test_a_language_model_is_diagnosed_on_a_folder_of_text(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--text", str(text(tmp_path / "text", 60)), "--context", "16", "--out", str(tmp_path / "out"), *LESS]
    assert run(["diagnose", str(language_model), "--site", "blocks.1.mlp_out", *flags]) == 0
    written = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    lines = {line["name"]: line for line in written["evidence"]}
    assert written["n_neurons"] == 16
    assert written["n_rows"] >= 320
    assert written["features"] == []
    # Three re-initialised networks stand beside the surrogates, and the whole of the text was there to read.
    assert "3 re-initialised networks" in lines["overcomplete_gain"]["note"]
    assert lines["scaling"]["n"] == written["n_rows"]
    assert written["answer"] != "superposition"  # its weights are random
    captured = capsys.readouterr()
    assert "overcomplete gain" in captured.out
    assert "all there are" not in captured.err
    for kind in ("gaussian", "spectrum", "permuted"):
        assert f"random weights ({kind})" in captured.err


def test_too_little_text_is_told_before_the_diagnosis(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--text", str(text(tmp_path / "text", 4)), "--context", "16"]
    assert run(["diagnose", str(language_model), "--site", "blocks.1.mlp_out", *flags]) == 2
    error = capsys.readouterr().err
    assert "windows of 16 tokens" in error
    assert "--document-tokens" in error


def test_too_few_windows_are_refused_before_the_network_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "no network is here"
    assert run(["diagnose", str(folder), "--site", "blocks.1.mlp_out", "--windows", "40"]) == 2
    assert "40 windows are fewer than the 256 rows" in capsys.readouterr().err
