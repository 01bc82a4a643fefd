"""The examples run as they are, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(path: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_something(path):
    assert len(run(path).splitlines()) > 3
    assert len(path.read_text().splitlines()) <= 40


def test_activations_of_a_hugging_face_folder_are_read(small_network):
    out = run(ROOT / "examples" / "read_activations.py", str(small_network), "the cat")
    assert "blocks.1.mlp_out: float32 [1, " in out
