"""The benchmark of recovery: a small run, its table, and the comparison of two generators."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from polyseme.core.seeds import make_generator
from polyseme.zoo.synth_sae_bench.toy import SynthSaeBenchToy


def test_a_small_run_is_scored_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recovery.json"
    sizes = "--features 40 --d 12 --trees 1 --latents 16 --l0 2 --samples 12800 --heldout 500 --batch 64 --threads 1"
    monkeypatch.setattr(sys, "argv", ["recovery.py", *sizes.split(), "--only", "topk", "relu", "--out", str(out)])
    import_module("recovery").main()
    found = json.loads(out.read_text())
    assert [row["architecture"] for row in found["rows"]] == ["topk", "relu"]
    row = found["rows"][0]
    assert row["l0"]["value"] <= 2
    assert row["mcc"]["value"] > row["mcc"]["chance"]
    assert np.mean(row["fvu"]["seeds"]) == pytest.approx(row["fvu"]["value"])
    assert f"| topk | {row['mcc']['value']:.3f} | {row['nearest_f1']['value']:.3f} |" in capsys.readouterr().out
    page = "\n".join(import_module("report").recovery_table(found))
    assert "40 features in 12 dimensions, 16 latents, L0 2, 12,800 vectors, 2 seeds" in page
    assert f"{row['absorption']['value']:.3f}" in page


def test_two_draws_of_one_world_do_not_differ_and_of_two_do() -> None:
    recovery = import_module("recovery")
    config = SynthSaeBenchToy(n_features=100, d=8, trees=4, seeds=(0,))
    drawn = [config.world(0).draw(20_000, make_generator(i)) for i in (0, 1)]
    other = config.model_copy(update={"frequencies": (0.4, 0.006)}).world(0).draw(20_000, make_generator(2))
    first, second, third = map(recovery.statistics, (*drawn, other))
    parents = config.world(0).forest.parents.numpy()
    same, apart = recovery.differences(first, second, parents), recovery.differences(first, third, parents)
    for part in ("frequencies, roots and free", "frequencies, children", "pairs", "sizes"):
        assert 0.4 < same[f"{part}: mean z²"] < 1.8, part
    assert apart["frequencies, roots and free: mean z²"] > 3
