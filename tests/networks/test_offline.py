"""Compiled kernels, where their package is installed: none is looked for unless a download was asked for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers.utils.import_utils import KERNELS_MIN_VERSION

from tests import tiny
from tests.networks.architectures import made

FAKE = r'''
"""Stands in for the package that fetches compiled kernels: writes down what it is asked for."""
import os

def get_kernel(*args, **kwargs):
    with open(os.environ["ASKED"], "a") as file:
        file.write("get_kernel\n")
    raise RuntimeError("nothing is fetched here")

class _Other:
    def __init__(self, *args, **kwargs): self.args = args
    def load(self): return get_kernel("load", *self.args)
    def __getattr__(self, name): return _Other()
    def __call__(self, *args, **kwargs): return args[0] if args and isinstance(args[0], type) else self

class Mode:
    TRAINING = INFERENCE = TORCH_COMPILE = 1

def use_kernel_forward_from_hub(name): return lambda kind: kind
def use_kernelized_func(*names): return lambda kind: kind
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    return _Other
'''

PROGRAM = """
import os, sys, torch
import transformers
from transformers.integrations import hub_kernels
from transformers.utils import import_utils
assert import_utils.is_kernels_available()
from polyseme.networks import load_network
import transformers.models.rwkv.modeling_rwkv as rwkv
rwkv.is_ninja_available = rwkv.is_torch_cuda_available = lambda: True
from huggingface_hub import constants
tokens = torch.arange(8)[None]
for folder in sys.argv[1:]:
    network = load_network(folder, device="cpu")
    found = []
    part = next(part for name, part in network.module.named_modules() if name)
    def ask(*_):
        # What a model does that fetches kernels when it is first run.
        try:
            found.append(hub_kernels.lazy_load_kernel("deep-gemm"))
        except RuntimeError as error:
            found.append(error)
    part.register_forward_pre_hook(ask)
    assert network.reads_tokens and network.causal is not None
    network.logits(tokens)
    network.read(tokens, network.site_names(modules=True)[:1])
    assert found and all(x is None for x in found), found
    assert not os.path.exists(os.environ["ASKED"])
    assert constants.HF_HUB_OFFLINE is False
network.module(tokens)  # outside polyseme's passes transformers is as it was
assert isinstance(found[-1], RuntimeError)
"""


def _rwkv() -> Any:
    from transformers import RwkvConfig, RwkvForCausalLM

    return RwkvForCausalLM(RwkvConfig(vocab_size=300, context_length=32, hidden_size=16, num_hidden_layers=2))


def test_no_kernel_is_fetched_while_a_network_is_loaded_or_run(tmp_path: Path) -> None:
    site, asked = tmp_path / "site", tmp_path / "asked"
    (site / "kernels").mkdir(parents=True)
    (site / "kernels" / "__init__.py").write_text(FAKE)
    info = site / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n")
    with torch.random.fork_rng():
        for name, model in {"mamba": tiny.tiny_mamba(), "rwkv": _rwkv(), "mixtral": made("mixtral")}.items():
            model.save_pretrained(tmp_path / name)
    paths = os.pathsep.join([str(site), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "ASKED": str(asked), "HF_HUB_OFFLINE": "0"}
    folders = [str(tmp_path / name) for name in ("mamba", "rwkv", "mixtral")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert asked.read_text().splitlines() == ["get_kernel"]  # by the last line alone
