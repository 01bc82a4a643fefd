"""A study that is killed at any moment goes on, and ends in the same bits."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.studies.small import small_config

SCRIPT = """
import json, sys, torch
torch.set_num_threads(1)
import polyseme
polyseme.study(json.loads(sys.argv[1]), root=sys.argv[2])
"""


def _weights(root: Path) -> dict[str, str]:
    files = [*root.glob("objects/dictionaries-*/*/dictionary.safetensors"), *root.glob("small-*/metrics.jsonl")]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.slow
def test_kill_9_at_random_moments_then_resume_gives_the_same_bits(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    training = {"n_tokens": 65536, "batch_size": 256, "checkpoint_seconds": 0.05}
    config = small_config(small_network, small_corpus, controls=[{"kind": "gaussian_reinit"}], training=training)

    def start(root: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(config), str(root)])

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    whole = time.monotonic() - began
    rng = random.Random(0)
    kills = 0
    for _ in range(30):
        process = start(tmp_path / "killed")
        try:
            # Later and later: the first kills fall into the imports, the last ones close to the end.
            code = process.wait(timeout=whole * rng.uniform(0.3, 0.6 + 0.1 * kills))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert code == 0
        break
    assert kills >= 2
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "objects").glob("*.partial"))
