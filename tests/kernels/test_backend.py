"""What carries out a dictionary's operations, and why not the faster one."""

import json

import pytest
import torch

from polyseme.core.records import Backend
from polyseme.dictionaries import TopKConfig
from polyseme.kernels import backend as module
from polyseme.kernels import library as native
from polyseme.kernels.backend import backend_in_use
from polyseme.kernels.tuning import Tuning


def test_a_dictionary_says_what_carries_it_out(monkeypatch):
    config = TopKConfig(n_latents=16, k=2)
    without = config.build(4, seed=0, tuning=Tuning(loops=False)).backend
    assert (without.name, without.why_not) == ("torch", "the dictionary was built with loops=False")
    double = config.build(4, seed=0, dtype=torch.float64).backend
    assert (double.name, double.why_not) == ("torch", "the compiled loops take float32, not float64")
    if native.usable():
        found = config.build(4, seed=0).backend
        assert (found.name, found.why_not) == ("loops", None)
    monkeypatch.setattr(native, "_loaded", lambda _: None)
    found = config.build(4, seed=0).backend
    assert (found.name, found.loops) == ("torch", None)
    assert found.why_not is not None
    assert "_kernels_" in found.why_not


@pytest.mark.parametrize(
    ("device", "dtype", "triton", "name", "why_not"),
    [
        ("meta", torch.float32, True, "torch", "there are no kernels for meta"),
        ("cuda", torch.float32, True, "triton", None),
        ("cuda", torch.float32, False, "torch", "Triton is not installed"),
        ("cuda", torch.bfloat16, True, "torch", "the Triton kernels take float32 and float64, not bfloat16"),
    ],
)
def test_elsewhere_than_on_a_cpu(device, dtype, triton, name, why_not, monkeypatch):
    monkeypatch.setattr(module, "triton_kernels", lambda: object() if triton else None)
    found = backend_in_use(device, dtype)
    assert (found.name, found.why_not) == (name, why_not)


def test_a_record_of_what_computes_holds_the_loops_and_the_threads_and_survives_json(threads):
    found = backend_in_use()
    assert found.threads == threads == torch.get_num_threads()
    assert (found.loops is not None) == native.usable() == (found.why_not is None)
    assert Backend.model_validate(json.loads(json.dumps(found.model_dump(mode="json")))) == found


def test_a_folded_dictionary_is_tuned_as_the_first():
    tuning = Tuning(loops=False, block=(8, 8))
    dictionary = TopKConfig(n_latents=16, k=2).build(4, seed=0, tuning=tuning)
    assert dictionary.folded().tuning == tuning
