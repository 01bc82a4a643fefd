"""What carries out a dictionary's operations, and why not the faster one."""

import pytest
import torch

from polyseme.dictionaries import TopKConfig
from polyseme.kernels import library as native
from polyseme.kernels.tuning import Backend, Tuning, backend_of


def test_a_dictionary_says_what_carries_it_out(monkeypatch):
    config = TopKConfig(n_latents=16, k=2)
    without = config.build(4, seed=0, tuning=Tuning(loops=False)).backend
    assert without == Backend("torch", "the dictionary was built with loops=False")
    double = config.build(4, seed=0, dtype=torch.float64).backend
    assert double == Backend("torch", "the compiled loops take float32, not float64")
    if native.usable():
        assert config.build(4, seed=0).backend == Backend("loops", None)
    monkeypatch.setattr(native, "_loaded", lambda _: None)
    found = config.build(4, seed=0).backend
    assert found.name == "torch"
    assert found.why_not is not None
    assert "_kernels_" in found.why_not


@pytest.mark.parametrize(
    ("device", "dtype", "triton", "expected"),
    [
        ("meta", torch.float32, True, Backend("torch", "there are no kernels for meta")),
        ("cuda", torch.float32, True, Backend("triton", None)),
        ("cuda", torch.float32, False, Backend("torch", "Triton is not installed")),
        ("cuda", torch.bfloat16, True, Backend("torch", "the Triton kernels take float32 and float64, not bfloat16")),
    ],
)
def test_elsewhere_than_on_a_cpu(device, dtype, triton, expected):
    with torch._subclasses.FakeTensorMode():  # pyright: ignore[reportPrivateUsage]
        weight = torch.empty(2, device=device, dtype=dtype)
    assert backend_of(weight, Tuning(), triton=triton) == expected


def test_a_folded_dictionary_is_tuned_as_the_first():
    tuning = Tuning(loops=False, block=(8, 8))
    dictionary = TopKConfig(n_latents=16, k=2).build(4, seed=0, tuning=tuning)
    assert dictionary.folded().tuning == tuning
