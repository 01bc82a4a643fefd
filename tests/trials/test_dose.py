"""Dose and response: what each knob does to the weights, exactly; kept curves; and one small curve by the command."""

import math
from pathlib import Path

import pytest
import torch

from polyseme.cli.main import run
from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.diagnosis import DiagnosisConfig
from polyseme.trials.dose import DOSES, Curve, DoseConfig, Point, as_markdown, dose_figure, dose_response, turned
from polyseme.zoo.superposition.toy import ReluOutput, SuperpositionToy
from polyseme.zoo.tools.stack import OptimiserConfig

SMALL = DiagnosisConfig(n_resamples=20, n_null=200, max_rows=512)


@pytest.mark.parametrize("degrees", [0.0, 10.0, 18.0, 19.0, 45.0])
def test_a_turn_moves_every_direction_by_its_angle_and_no_output(degrees: float) -> None:
    toy = SuperpositionToy(
        n_features=6,
        n_hidden=4,
        density=(1.0,),
        importance=(0.5,),
        basis="aligned",
        seeds=(0,),
        optimiser=OptimiserConfig(steps=1500, lr=1e-2),
    ).train(Silent())[0]
    assert toy.truth.cause == "aligned"
    after = turned(toy, math.radians(degrees))
    before, now = toy.truth.directions, after.truth.directions
    assert before is not None
    assert now is not None
    kept = before.norm(dim=1) > 0.5
    cosines = torch.cosine_similarity(before[kept], now[kept])
    torch.testing.assert_close(cosines, torch.full_like(cosines, math.cos(math.radians(degrees))), atol=1e-5, rtol=0)
    torch.testing.assert_close(now[kept] @ now[kept].T, before[kept] @ before[kept].T, atol=1e-5, rtol=0)
    x = toy.draw(50, torch.Generator().manual_seed(0)).inputs
    assert isinstance(after.module, ReluOutput)
    torch.testing.assert_close(after.module(x), toy.module(x), atol=1e-5, rtol=0)
    # A direction has cos² θ on its own neuron: .9 at 18.4°, where a network stops being called aligned.
    assert after.truth.cause == ("aligned" if degrees < 18.4 else "rotated")


def test_points_count_answers_and_truths() -> None:
    points = (
        Point(dose=0.1, answers=("superposition", "abstain"), reasons=("so", "so"), holds=(True, True)),
        Point(dose=0.9, answers=("abstain", "abstain"), reasons=("so", "so"), holds=(False, True)),
    )
    curve = Curve(name="density", points=points, n_seeds=2)
    assert points[0].share("superposition")[0] == 0.5
    assert curve.answers == ("superposition", "abstain")
    text = as_markdown([curve])
    assert "0.571" in text
    assert "| 0.9 | 2 | 1 | abstain 2 | 0% [0%, 66%] |" in text
    lines = dose_figure([curve]).axes[0].lines
    assert [list(line.get_ydata()) for line in lines[:3]] == [[0.5, 0.0], [0.5, 1.0], [1.0, 0.5]]


def test_an_unknown_dose_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="mixing"):
        dose_response(DoseConfig(doses=("mixin",)))
    assert "mixing" in DOSES


def test_the_command_keeps_a_curve_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyseme.trials.dose.ANGLES", (0.0, 45.0))
    monkeypatch.setattr("polyseme.trials.dose._FAST", OptimiserConfig(steps=800, lr=2e-2))
    flags = ["--doses", "angle", "--n-seeds", "2", "--diagnosis.max-rows", "512", "--diagnosis.n-null", "200"]
    args = ["zoo", "dose", *flags, "--out", str(tmp_path / "o"), "--root", str(tmp_path)]
    assert run(args) == 0
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"dose.json", "dose.md", "dose.svg"}
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("curve.json")}
    assert len(kept) == 1
    assert run(args) == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert "superposition" not in (tmp_path / "o" / "dose.md").read_text()
