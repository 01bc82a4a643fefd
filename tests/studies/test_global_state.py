"""A whole study, keys and bits, in processes where everything is set otherwise."""

import json
import os
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest

import polyseme
from tests.kernels.test_shield import STATES
from tests.studies.small import small_config

MIXES = {
    "narrow": (
        *("default dtype bfloat16", "autocast", "matmul precision medium", "no gradients"),
        *("default device, as a context", "attention by its formula", "numpy raises", "other seeds"),
    ),
    "wide": (
        *("default dtype float64", "inference mode", "deterministic", "anomalies are looked for", "denormals are 0"),
        *("default device", "every backend bf16", "no mkldnn", "no fast path of attention", "numpy's buffers"),
    ),
}
OTHER_PROCESS = {
    "PYTHONHASHSEED": "77",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "TZ": "Asia/Tokyo",
}


def made(root: Path) -> dict[str, dict[str, str]]:
    """Key of every artifact to the checksums of its files."""
    manifests = [json.loads(path.read_text()) for path in sorted(root.glob("objects/*/manifest.json"))]
    assert manifests
    return {m["stage"] + m["key"]: {name: file["sha256"] for name, file in m["files"].items()} for m in manifests}


def run(config: dict, root: Path, mix: str) -> None:
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for state in MIXES[mix]:
            stack.enter_context(STATES[state]())
        polyseme.study(config, root=root)


@pytest.fixture(scope="module")
def config(small_network, small_corpus):
    return small_config(
        small_network, small_corpus, sites=["blocks.1.resid_post"], controls=[{"kind": "gaussian_reinit"}]
    )


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    polyseme.study(config, root=root)
    return made(root)


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_a_study_has_the_same_keys_and_bits_whatever_is_set(mix, config, plain, tmp_path):
    run(config, tmp_path, mix)
    assert made(tmp_path) == plain


@pytest.mark.slow
def test_a_study_has_the_same_keys_and_bits_in_a_process_of_another_locale_and_hash_seed(config, plain, tmp_path):
    code = (
        "import json, sys, torch; torch.set_num_threads(1); from pathlib import Path; "
        "from tests.studies.test_global_state import run; run(json.loads(sys.argv[1]), Path(sys.argv[2]), 'wide')"
    )
    command = [sys.executable, "-c", code, json.dumps(config), str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], env={**os.environ, **OTHER_PROCESS}, check=True)
    assert made(tmp_path) == plain
