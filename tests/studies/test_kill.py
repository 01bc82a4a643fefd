"""A study that is killed at any moment goes on, and ends in the same bits."""

import hashlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studies.small import small_config

SCRIPT = """
import json, os, signal, sys, torch
torch.set_num_threads(1)
import polyseme
moments = 0

def counted(rename):
    def do(*args, **kwargs):
        for call in (lambda: None, lambda: rename(*args, **kwargs)):  # a moment before it, and a moment after it
            call()
            globals()["moments"] += 1
            if moments == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
    return do

os.replace, os.rename = counted(os.replace), counted(os.rename)
polyseme.study(json.loads(sys.argv[1]), root=sys.argv[2])
print(moments)
"""
"""Whatever is written becomes visible by a rename, so these moments are all the states a kill can leave on disk but for
torn temporary files, which come before a rename too."""


def _weights(root: Path) -> dict[str, str]:
    files = [*root.glob("objects/dictionaries-*/*/dictionary.safetensors"), *root.glob("small-*/metrics.jsonl")]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.slow
def test_kill_9_at_random_moments_then_resume_gives_the_same_bits(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    training = {"n_tokens": 4096, "batch_size": 256, "checkpoint_seconds": 0}
    config = small_config(small_network, small_corpus, controls=[{"kind": "gaussian_reinit"}], training=training)

    def run(root: Path, dies_at: int) -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-c", SCRIPT, json.dumps(config), str(root), str(dies_at)]
        return subprocess.run(command, stdout=subprocess.PIPE, check=False)

    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0
    moments = int(whole.stdout.split()[-1])
    rng = random.Random(0)
    kills = 0
    while (code := run(tmp_path / "killed", rng.randint(moments // 8, moments // 3)).returncode) == -signal.SIGKILL:
        kills += 1
        assert kills < 30, "a killed study does not get on"
    assert code == 0
    assert kills >= 2
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "objects").glob("*.partial"))
