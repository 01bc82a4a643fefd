"""The selection by a bfloat16 product chooses what float32 chooses, by proof or by doing it again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.dictionaries import TopKConfig
from polyseme.dictionaries.engine import selection
from polyseme.dictionaries.engine.selection import Encoder, Rough
from polyseme.kernels import tiles as kernels
from tests.dictionaries.reference import make_batch, scramble


def encoder(rows: int, d: int, n: int, seed: int, apart: float = 1.0) -> Encoder:
    """Latents `apart` from one shared direction, float32."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, d, generator=generator)
    weight = shared + apart * torch.randn(n, d, generator=generator)
    return Encoder(torch.randn(rows, d, generator=generator), weight, apart * torch.randn(n, generator=generator))


def found(rough: Rough, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(rough.top_k(k))
    return torch.cat([v for v, _ in parts]), torch.cat([latents for _, latents in parts])


def check(of: Encoder, k: int) -> Rough:
    rough = Rough(of)
    values, latents = found(rough, k)
    pre = of.x.double() @ of.weight.double().T + of.bias.double()
    scale = float(of.x.norm(dim=1).max() * of.weight.norm(dim=1).max() + of.bias.abs().max())  # of what is summed
    torch.testing.assert_close(values.double(), pre.gather(1, latents), rtol=0, atol=1e-5 * scale)
    assert all(len(set(row)) == len(row) for row in latents.tolist())
    best = pre.topk(latents.shape[1], dim=1).values
    torch.testing.assert_close(values.double().sort(1, descending=True).values, best, rtol=0, atol=1e-5 * scale)
    return rough


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    d=st.sampled_from([1, 3, 32, 100]),
    n=st.sampled_from([1, 5, 40, 700]),
    k=st.sampled_from([1, 4, 33, 900]),
    apart=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
    seed=st.integers(0, 1000),
)
def test_chooses_what_float32_chooses(rows, d, n, k, apart, seed):
    check(encoder(rows, d, n, seed, apart), k)


def test_latents_that_bfloat16_cannot_tell_apart_are_encoded_again():
    assert check(encoder(20, 64, 500, 0, apart=1e-4), 5).n_unproven == 20


def test_clear_cases_are_proven():
    of = encoder(50, 64, 2000, 0)
    assert check(of, 5).n_unproven < 5


def test_what_is_left_out_is_really_below_the_bound(monkeypatch):
    """With hardly a candidate to spare most rows cannot be proven, and none may be proven wrongly."""
    monkeypatch.setattr(Rough, "MARGIN", 1)
    unproven = sum(check(encoder(100, 64, 3000, seed), 1).n_unproven for seed in range(5))
    assert 100 < unproven < 500


def test_vectors_that_are_not_finite_stay_so():
    of = encoder(3, 8, 400, 0)
    of.x[1] = float("nan")
    values, _ = found(Rough(of), 3)
    assert values[1].isnan().all()
    assert values[[0, 2]].isfinite().all()


def test_a_step_is_the_float32_step(monkeypatch):
    steps = {}
    asked = []
    monkeypatch.setattr(selection, "adds_bf16_in_fp32", lambda device: asked.append(device) or True)
    for chosen_in in ("fp32", "bf16"):
        dictionary = TopKConfig(n_latents=300, k=4, selection=chosen_in).build(16, seed=0)
        scramble(dictionary, 1)
        x = torch.randn(64, 16, generator=torch.Generator().manual_seed(2)).to(dictionary.parameters()["b_dec"])
        stats = dictionary.accumulate(make_batch(x), progress=0.0, dead=None, coefficient=0.0)
        steps[chosen_in] = stats, {name: p.grad.clone() for name, p in dictionary.parameters().items()}
    assert asked
    (exact, exact_grads), (rough, rough_grads) = steps["fp32"], steps["bf16"]
    assert torch.equal(exact.fired, rough.fired)
    for name, gradient in exact_grads.items():
        torch.testing.assert_close(rough_grads[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("supported", [True, False])
def test_only_where_products_are_summed_in_float32(supported, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    kernels.adds_bf16_in_fp32.cache_clear()
    try:
        assert kernels.adds_bf16_in_fp32(torch.device("cpu")) is supported
        assert not kernels.adds_bf16_in_fp32(torch.device("cuda"))
    finally:
        kernels.adds_bf16_in_fp32.cache_clear()
