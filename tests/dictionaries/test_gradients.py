"""The engine's step against plain dense autograd, over shapes, layouts and the awkward cases."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.dictionaries.engine import selection
from polyseme.dictionaries.engine.entries import SparseEntries
from polyseme.kernels import onednn
from polyseme.kernels import tiles as kernels
from polyseme.kernels.tuning import Tuning
from tests.dictionaries.reference import (
    AUTOENCODERS,
    SMALL,
    Expected,
    chosen_in_training,
    make_batch,
    reference,
    roundings,
    scramble,
)

LAYOUTS = [{}, *({"max_density": share, "max_dead_density": share} for share in (1.0, -1.0))]
"""Entries or tiles by what was measured, entries always, tiles always."""


@st.composite
def cases(draw):
    d_in = draw(st.integers(1, 9))
    n = draw(st.sampled_from([1, 2, 3, 7, 16, 40, 64]))
    return {
        "d_in": d_in,
        "d_out": draw(st.one_of(st.none(), st.integers(1, 9))),
        "n": n,
        "k": min(n, draw(st.sampled_from([1, 2, 4, 70]))),
        "rows": draw(st.sampled_from([1, 2, 9, 24])),
        "seed": draw(st.integers(0, 10**6)),
        "coefficient": draw(st.sampled_from([0.0, 0.7])),
        "progress": draw(st.sampled_from([0.0, 0.6, 1.0])),
        "dead_share": draw(st.sampled_from([None, 0.0, 0.3, 1.0])),
        "b_enc": draw(st.sampled_from([0.0, -1.5, -50.0])),
        "twins": draw(st.booleans()),
        "zeros": draw(st.booleans()),
        "normalised": draw(st.booleans()),
        "tuning": Tuning(
            tile_bytes=draw(st.sampled_from([64, 1000, 2**24])),
            least_rows=draw(st.sampled_from([1, 3, 256])),
            block=(draw(st.sampled_from([1, 5, 1024])), draw(st.sampled_from([1, 6, 512]))),
            most_entries=draw(st.sampled_from([1, 11, 2**19])),
            cached_bytes=draw(st.sampled_from([100, 600, 2**20])),
            **draw(st.sampled_from(LAYOUTS)),
        ),
    }


def run(case, dtype, tuning=None):
    """The engine's step, the reference's on the same case in double precision, and what roundings do to the latter."""
    config = SMALL[case["architecture"]](case["n"], case["k"])
    d_out = None if case["architecture"] in AUTOENCODERS else case["d_out"]
    generator = torch.Generator().manual_seed(case["seed"])
    tuning = tuning or case["tuning"]
    dictionary = config.build(case["d_in"], d_out, seed=case["seed"], dtype=dtype, tuning=tuning)
    scramble(dictionary, case["seed"])
    x = torch.randn(case["rows"], case["d_in"], generator=generator, dtype=torch.float64).to(dtype)
    y = None if d_out is None else torch.randn(case["rows"], d_out, generator=generator, dtype=torch.float64).to(dtype)
    if case["normalised"] and case["rows"] > 1:
        dictionary.initialise(make_batch(3 * x + 1, None if y is None else 0.1 * y - 2))
    if case["zeros"]:
        x[::2] = 0
    p = dictionary.parameters()
    p["b_enc"].add_(case["b_enc"])
    if case["twins"]:  # exact ties between latents
        for name in ("W_enc", "W_dec", "b_enc"):
            if name in p:
                p[name][1::2] = p[name][0 : len(p[name]) // 2 * 2 : 2]
    dead = None
    if case["dead_share"] is not None:
        dead = torch.rand(case["n"], generator=generator) < case["dead_share"]
    batch = make_batch(x, y)
    chosen = chosen_in_training(dictionary, batch, case["progress"])
    stats = dictionary.accumulate(batch, progress=case["progress"], dead=dead, coefficient=case["coefficient"])
    step = {"coefficient": case["coefficient"], "dead": dead, "chosen": chosen}
    expected = reference(dictionary, batch, dtype=torch.float64, **step)
    unsure = roundings(dictionary, batch, expected, **step) if dtype == torch.float32 else {}
    return dictionary, stats, expected, unsure


def check(dictionary, stats, expected: Expected, tolerance, unsure):
    for part in ("mse", "sparsity", "aux"):
        want = getattr(expected, part)
        torch.testing.assert_close(torch.as_tensor(getattr(stats, part)).to(want), want, rtol=tolerance, atol=tolerance)
    total = expected.mse + expected.sparsity + expected.aux
    torch.testing.assert_close(stats.loss.to(total), total, rtol=tolerance, atol=tolerance)
    for name, parameter in dictionary.parameters().items():
        want = expected.grads[name]
        error = (parameter.grad - want).norm()
        assert error <= tolerance * want.norm() + 4 * unsure.get(name, 0.0) + 1e-12, (name, parameter.grad, want)


@pytest.mark.parametrize("architecture", sorted(SMALL))
@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_step_equals_dense_autograd(architecture, case):
    case = {**case, "architecture": architecture}
    dictionary, stats, expected, _ = run(case, torch.float64)
    # A twin's equal pre-activations make AuxK's choice a matter of taste: only then it may differ.
    aux_ties = case["twins"] and case["dead_share"]
    if not aux_ties:
        check(dictionary, stats, expected, 1e-9, {})
    fired = (expected.values != 0).sum(0)
    assert torch.equal(stats.fired, fired)
    torch.testing.assert_close(float(stats.l0), float(fired.sum()) / case["rows"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("architecture", sorted(SMALL))
@pytest.mark.parametrize("layout", [1.0, -1.0])
@pytest.mark.parametrize("loops", ["compiled", "torch"])
def test_step_equals_dense_autograd_in_single_precision(architecture, layout, loops):
    case = {
        "architecture": architecture, "d_in": 24, "d_out": None, "n": 96, "k": 5, "rows": 64, "seed": 3,
        "coefficient": 0.4, "progress": 0.6, "dead_share": 0.3, "b_enc": -0.5, "twins": False, "zeros": True,
        "normalised": True,
    }  # fmt: skip
    tuning = Tuning(max_density=layout, max_dead_density=layout, loops=loops == "compiled")
    check(*run(case, torch.float32, tuning)[:3], 1e-5, {})


@pytest.mark.parametrize("architecture", sorted(SMALL))
@settings(max_examples=40, deadline=None)
@given(case=cases(), block=st.sampled_from([1, 5, 64, 1024]))
def test_step_equals_dense_autograd_in_single_precision_whatever_the_blocks(architecture, case, block):
    # Twins tie in float64; in float32 the roundings of two columns of a product may break the tie either way.
    case = {**case, "architecture": architecture, "twins": False, "dead_share": None}
    case["tuning"] = replace(case["tuning"], block=(block, block), least_rows=256)
    dictionary, stats, expected, unsure = run(case, torch.float32)
    # Every piece of a step rounds each sum once more, which counts where the sum itself cancels.
    added = -(-case["rows"] // block)
    check(dictionary, stats, expected, 1e-5, {name: value * (1 + added / 4) for name, value in unsure.items()})


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    n=st.sampled_from([1, 5, 16, 64]),
    k=st.sampled_from([1, 3, 4, 90]),
    levels=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 1000),
)
def test_topk_and_batch_topk_choose_the_largest(rows, n, k, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    pre = (torch.randn(rows, n, generator=generator, dtype=torch.float64) * levels).round() / levels
    encoder = selection.Encoder(pre, torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
    k = min(k, n)

    z = selection.select_top_k(encoder, k, ascending=True)
    want = pre.relu().topk(k, dim=1).values
    dense = torch.zeros_like(pre)
    dense[z.bags.long(), z.indices.long()] = z.pre
    assert torch.equal(dense.topk(k, dim=1).values, want)
    assert ((z.offsets[1:] - z.offsets[:-1]) <= k).all()
    same_row = z.bags[1:] == z.bags[:-1]
    assert (z.indices[1:] > z.indices[:-1])[same_row].all()

    for guess in (0.0, 1e-9, 0.5, 1e9):  # the guess only saves work
        z = selection.select_batch_top_k(encoder, k, guess)
        # Stable: ties go to the lowest row, then latent.
        order = torch.sort(pre.relu().view(-1), descending=True, stable=True).indices[: k * rows]
        order = order[pre.view(-1)[order] > 0].sort().values
        assert torch.equal(z.bags.long() * n + z.indices, order)
        assert torch.equal(z.pre, pre.view(-1)[order])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5), n=st.integers(1, 200), k=st.integers(1, 13), levels=st.sampled_from([2, 50, 10**6]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_top_k_in_two_stages_is_the_top_k(rows, n, k, levels, seed):
    k = min(k, n)
    x = torch.randint(levels, (rows, n), generator=torch.Generator().manual_seed(seed)).double()  # ties, at few levels
    values, latents = kernels.top_k(x, k)
    assert torch.equal(values.sort(1).values, torch.topk(x, k).values.flip(1))
    assert torch.equal(values, x.gather(1, latents))
    assert all(len(row.unique()) == k for row in latents)


def test_gather_dot_without_the_private_operation_is_the_same():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(5, 7, generator=generator), torch.randn(11, 7, generator=generator)
    counts = torch.tensor([0, 3, 1, 0, 4])
    bags = torch.repeat_interleave(counts).to(torch.int32)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    indices = torch.randint(0, 11, (8,), generator=generator, dtype=torch.int32)
    want = (left[bags.long()] * right[indices.long()]).sum(1)
    torch.testing.assert_close(kernels.gather_dot(left, right, bags, indices, offsets), want)
    for tuning in (Tuning(), Tuning(tile_bytes=200)):
        torch.testing.assert_close(kernels.gather_dot_fallback(left, right, bags, indices, tuning), want)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12), n=st.integers(1, 40), share=st.floats(0, 1), cached=st.sampled_from([1, 24, 100, 10**6]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_dot_in_blocks_is_the_same(rows, n, share, cached, seed):
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(rows, n, generator=generator) < share
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), on.sum(1).cumsum(0)])
    indices = on.nonzero()[:, 1].to(torch.int32)
    g, W = torch.randn(rows, 5, generator=generator), torch.randn(n, 5, generator=generator)
    tuning = Tuning(cached_bytes=cached)
    plain, blocked = (
        SparseEntries(torch.zeros(len(indices)), indices, offsets, n, ascending=ascending, tuning=tuning)
        for ascending in (False, True)
    )
    torch.testing.assert_close(blocked.dot(g, W), plain.dot(g, W))


def test_onednn_linear_is_the_same_where_torch_has_it(monkeypatch):
    if onednn.operation(torch.float32) is None:
        pytest.skip("this torch has no oneDNN linear")
    generator = torch.Generator().manual_seed(0)
    x, W, b = torch.randn(6, 8, generator=generator), torch.randn(10, 8, generator=generator), torch.ones(10)
    want = x @ W.T + b
    monkeypatch.setattr(onednn, "is_fastest", lambda: True)
    torch.testing.assert_close(kernels.affine(x, W, b, out=torch.empty(6, 10)), want)
    monkeypatch.setattr(onednn, "is_fastest", lambda: False)
    torch.testing.assert_close(kernels.affine(x, W, b, out=torch.empty(6, 10)), want)
