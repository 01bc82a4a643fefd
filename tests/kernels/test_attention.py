"""Attention by the compiled loop: against the definition in double precision, at every level of instructions."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyseme.kernels import attention
from polyseme.kernels import library as native
from polyseme.kernels.attention import Attending, attend
from polyseme.networks import load_network
from tests.networks.test_families import CASES, inputs_of

OWN = torch.backends.cpu.get_cpu_capability()
sdpa = torch.nn.functional.scaled_dot_product_attention


@pytest.fixture(
    params=[level for level in native.LEVELS if OWN == "AVX512" or level == OWN], autouse=True, scope="module"
)
def level(request: Any) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
        if not attention.available():
            assert shutil.which("cc") is None, "there is a C compiler, and yet it was not built at installation"
            pytest.skip("not built: no C compiler was found at installation")
        yield request.param


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Vectors `[batch, head, position, d]` as networks hand them over: heads side by side in memory."""
    batch, heads, n, d = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n, heads, d, generator=generator).to(dtype).transpose(1, 2)


def defined(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> Tensor:
    """softmax(q kᵀ · scale) v in double precision."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    return scores.softmax(-1) @ v


def found(*args: Any, **kwargs: Any) -> Tensor:
    out = attend(*args, **kwargs)
    assert out is not None
    return out


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    queries=st.integers(1, 150),
    keys=st.integers(1, 150),
    d=st.integers(1, 100),
    causal=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    sharp=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_is_attention_as_defined(batch, kv_heads, group, queries, keys, d, causal, dtype, sharp, seed):
    keys = queries if causal else keys
    q = drawn(seed, batch, kv_heads * group, queries, d, dtype=dtype)
    k, v = (drawn(seed + i, batch, kv_heads, keys, d, dtype=dtype) for i in (100, 200))
    scale = sharp * d**-0.5
    got = found(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
    want = defined(q, k, v, scale, causal=causal)
    assert got.dtype == dtype
    # A score s is off by some eps s, and its exponential by as much relatively; bfloat16 results are rounded once.
    slack = 1e-6 * (1 + 10 * sharp) + (2.0**-8 if dtype == torch.bfloat16 else 0)
    assert float((got - want).norm()) <= slack * float(want.norm())
    assert torch.allclose(got.double(), want, rtol=10 * slack, atol=10 * slack)


@pytest.mark.parametrize("shape", [(8, 6, 256, 64), (1, 2, 600, 40)])
@pytest.mark.parametrize("causal", [True, False])
def test_is_as_near_to_the_definition_as_torch_is(shape, causal):
    q, k, v = (drawn(seed, *shape) for seed in range(3))
    want = defined(q, k, v, shape[-1] ** -0.5, causal=causal)
    own, torchs = (
        float((out - want).norm()) for out in (found(q, k, v, is_causal=causal), sdpa(q, k, v, is_causal=causal))
    )
    assert own < 2 * torchs


def test_bfloat16_is_float32_rounded_once():
    q, k, v = (drawn(seed, 2, 3, 70, 20, dtype=torch.bfloat16) for seed in range(3))
    v[:, :, :2] = torch.arange(128, 130).view(-1, 1)  # neighbours: their mean is a tie
    k[:, :, :2] = 1
    for causal in (True, False):
        wide = found(q.float(), k.float(), v.float(), is_causal=causal)
        assert torch.equal(found(q, k, v, is_causal=causal), wide.bfloat16())
    v[:, :, :2] += 1
    wide = found(q.float(), k.float(), v.float(), is_causal=True)
    assert torch.equal(wide[:, :, 1], torch.full_like(wide[:, :, 1], 129.5))
    assert torch.equal(found(q, k, v, is_causal=True)[:, :, 1], wide[:, :, 1].bfloat16())


def test_equal_keys_give_the_mean_of_the_values_seen():
    q, v = drawn(0, 2, 3, 70, 20), drawn(1, 2, 3, 70, 20)
    k = torch.ones(2, 3, 70, 20)
    so_far = v.cumsum(2) / torch.arange(1, 71).view(-1, 1)
    torch.testing.assert_close(found(q, k, v, is_causal=True), so_far, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found(q, k, v), v.mean(2, keepdim=True).expand_as(v), rtol=1e-5, atol=1e-6)


def test_what_all_keys_share_changes_nothing():
    q, k, v = (drawn(seed, 2, 3, 70, 20) for seed in range(3))
    shared = 3 * drawn(3, 1, 1, 1, 20)
    torch.testing.assert_close(found(q, k + shared, v), found(q, k, v), rtol=1e-4, atol=1e-5)


def test_a_query_sees_nothing_later_not_even_in_its_last_bit():
    q, k, v = (drawn(seed, 2, 3, 90, 24) for seed in range(3))
    before = found(q, k, v, is_causal=True)
    for n in (1, 37, 89):
        later_k, later_v = k.clone(), v.clone()
        later_k[:, :, n:] *= 100
        later_v[:, :, n:] = 1e30
        after = found(q, later_k, later_v, is_causal=True)
        assert torch.equal(after[:, :, :n], before[:, :, :n])
        assert not torch.equal(after[:, :, n:], before[:, :, n:])


def test_neither_threads_nor_the_rest_of_the_batch_change_a_bit(monkeypatch, threads):
    q, k, v = (drawn(seed, 3, 4, 130, 24) for seed in range(3))
    whole = found(q, k, v, is_causal=True)
    for parts in (1, 7, 200):
        monkeypatch.setattr(attention, "UNITS_A_THREAD", parts)
        assert torch.equal(found(q, k, v, is_causal=True), whole)
        assert torch.equal(found(q[1:2, 2:3], k[1:2, 2:3], v[1:2, 2:3], is_causal=True), whole[1:2, 2:3])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", range(3))
def test_what_is_not_finite_stays_so_in_the_queries_that_see_it(bad, which):
    tensors = [drawn(seed, 1, 2, 40, 16) for seed in range(3)]
    tensors[which][0, 1, 21, 3] = bad
    out = found(*tensors, is_causal=True)
    assert torch.isfinite(out[:, 0]).all()
    assert torch.isfinite(out[0, 1, :18]).all()  # a tile holds at most 6 queries
    if which == 0:
        assert not torch.isfinite(out[0, 1, 21]).all()
        assert torch.isfinite(out[0, 1, 22:]).all()
    elif bad != bad or which == 2:
        assert not torch.isfinite(out[0, 1, 21:]).all(-1).any()


def test_a_key_far_below_the_best_has_no_weight_at_all():
    q, k, v = torch.ones(1, 1, 1, 8), torch.zeros(1, 1, 33, 8), torch.full((1, 1, 33, 8), 1e38)
    k[..., 5, :], v[..., 5, :] = 100.0, 0.5
    assert torch.equal(found(q, k, v, scale=1.0), torch.full((1, 1, 1, 8), 0.5))


def test_what_it_does_not_do_is_left_to_torch():
    q, k, v = (drawn(seed, 2, 4, 9, 8) for seed in range(3))
    few = k[:, :2], v[:, :2]
    assert attend(q, k, v) is not None
    refused: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = [
        ((q, k, v), {"attn_mask": torch.zeros(9, 9)}),
        ((q, k, v), {"dropout_p": 0.5}),
        ((q[:, :, :5], k, v), {"is_causal": True}),
        ((q, *few), {}),
        ((q[:, :3], *few), {"enable_gqa": True}),
        ((q.double(), k.double(), v.double()), {}),
        ((q.half(), k.half(), v.half()), {}),
        ((q.bfloat16(), k, v), {}),
        ((q, k, v[..., :4]), {}),
        ((q, k, v[:, :, :8]), {}),
        ((q[0], k[0], v[0]), {}),
        ((q[:, :, :0], k, v), {}),
        ((q, k.transpose(-1, -2).contiguous().transpose(-1, -2), v), {}),
        ((q.to("meta"), k.to("meta"), v.to("meta")), {}),
        ((q, k, v.clone().requires_grad_()), {}),
    ]
    assert [attend(*tensors, **options) for tensors, options in refused] == [None] * len(refused)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(q, k, v) is None
    with torch.no_grad():
        assert attend(q, k, v.clone().requires_grad_()) is not None


def test_only_while_entered_and_only_where_it_can():
    q, k, v = (drawn(seed, 2, 4, 9, 8) for seed in range(3))
    mask = torch.randn(9, 9)
    plain, masked = sdpa(q, k, v, is_causal=True), sdpa(q, k, v, mask)
    with Attending():
        assert torch.equal(sdpa(q, k, v, is_causal=True), found(q, k, v, is_causal=True))
        assert torch.equal(sdpa(q, k, v, mask), masked)
        assert torch.equal(q + k, torch.add(q, k))
    assert torch.equal(sdpa(q, k, v, is_causal=True), plain)


@pytest.mark.parametrize("family", [family for family in CASES if family != "mamba"])
def test_every_block_of_a_fused_network_goes_by_it(family, monkeypatch):
    done: list[bool] = []

    def counting(*args: Any, **kwargs: Any) -> Tensor | None:
        out = attend(*args, **kwargs)
        done.append(out is not None)
        return out

    monkeypatch.setattr(attention, "attend", counting)
    plain, fused = (load_network(CASES[family][0](), linear=how) for how in ("plain", "fused"))
    plain.logits(inputs_of(family))
    assert not done
    fused.logits(inputs_of(family))
    assert done == [True] * fused.n_blocks


def test_without_the_build_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(native, "usable", lambda *_: False)
    q = drawn(0, 1, 1, 3, 4)
    assert attend(q, q, q) is None
    fused = load_network(CASES["gpt2"][0](), linear="fused")
    assert "forward" not in vars(fused.module.transformer.h[0].attn)
