"""The compiled inner loops against torch's operations, at every level of instructions that this machine can run."""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.dictionaries.engine import selection
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels import compiled
from polyseme.kernels import library as native
from polyseme.kernels import tiles as kernels
from polyseme.kernels.tuning import Tuning

ABILITIES = ("DEFAULT", "AVX2", "AVX512")


def abilities() -> list[str]:
    """What this processor can do, the least first."""
    own = torch.backends.cpu.get_cpu_capability()
    return list(ABILITIES[: ABILITIES.index(own) + 1]) if own in ABILITIES else [own]


@pytest.fixture(params=abilities(), autouse=True, scope="module")
def level(request):
    """Every test runs with each build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
        if not native.usable(torch.zeros(1)):
            # Not built, training is slow and nobody would know.
            assert shutil.which("cc") is None, "there is a C compiler, and yet it was not built at installation"
            pytest.skip("not built: no C compiler was found at installation")
        yield request.param


def streamed(pre: torch.Tensor, bias: torch.Tensor, k: int, rows: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and latents of each row, -1 where it has fewer than k."""
    top = compiled.TopK(len(pre), k)
    for j in range(0, pre.shape[1], block):
        for i in range(0, len(pre), rows):
            part = pre[i : i + rows, j : j + block].contiguous()
            top.take(slice(i, i + rows), part, bias[j : j + block], j)
    values, latents, counts = top.finish()
    at = torch.arange(k) < counts[:, None]
    padded = torch.zeros(len(pre), k).masked_scatter(at, values), torch.full((len(pre), k), -1, dtype=torch.int32)
    return padded[0], padded[1].masked_scatter(at, latents)


def expected(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by a stable sort: of equals the first."""
    order = torch.sort(pre.nan_to_num(nan=-1.0), dim=1, descending=True, stable=True).indices[:, :k]
    latents = torch.where(pre.gather(1, order) > 0, order, pre.shape[1]).sort(1).values
    values = torch.cat([pre, torch.zeros(len(pre), 1)], 1).gather(1, latents)
    latents = torch.where(latents == pre.shape[1], -1, latents).to(torch.int32)
    if latents.shape[1] < k:  # fewer latents than k
        missing = k - latents.shape[1]
        values = torch.cat([values, torch.zeros(len(pre), missing)], 1)
        latents = torch.cat([latents, torch.full((len(pre), missing), -1, dtype=torch.int32)], 1)
    return values, latents


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    n=st.sampled_from([1, 15, 16, 63, 64, 65, 700]),
    k=st.sampled_from([1, 3, 32, 300]),
    block=st.sampled_from([1, 64, 100, 1000]),
    tile=st.sampled_from([1, 33, 100]),
    levels=st.sampled_from([1, 3, 10**6]),
    order=st.sampled_from(["random", "rising", "falling"]),
    awkward=st.sampled_from([None, float("nan"), float("inf"), -float("inf"), 1e-45]),
    seed=st.integers(0, 10**6),
)
def test_takes_the_largest_positive_of_each_row(rows, n, k, block, tile, levels, order, awkward, seed):
    generator = torch.Generator().manual_seed(seed)
    pre = (torch.randn(rows, n, generator=generator) * levels).round() / levels  # ties, at few levels
    if order != "random":
        pre = pre.sort(1, descending=order == "falling").values
    if awkward is not None:
        pre[torch.rand(rows, n, generator=generator) < 0.1] = awkward
    bias = torch.randint(-1, 2, (n,), generator=generator).float()
    values, latents = streamed(pre, bias, k, tile, block)
    want, where = expected(pre + bias, k)
    assert torch.equal(latents, where)
    assert torch.equal(values, want)


@settings(max_examples=40, deadline=None)
@given(
    bags=st.integers(1, 80),
    n=st.integers(1, 30),
    d=st.sampled_from([1, 2, 7, 16, 33, 512]),
    most=st.sampled_from([0, 1, 5, 40]),
    seed=st.integers(0, 10**6),
)
def test_sums_and_products_of_rows(bags, n, d, most, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(most + 1, (bags,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(torch.int32)
    indices = torch.randint(n, (int(counts.sum()),), generator=generator, dtype=torch.int32)
    values, weight = torch.randn(len(indices), generator=generator), torch.randn(n, d, generator=generator)
    goal = torch.randn(bags, d, generator=generator)
    rows = weight.double()[indices.long()]
    bag = torch.repeat_interleave(counts)
    want = torch.zeros(bags, d, dtype=torch.float64).index_add_(0, bag, rows * values.double()[:, None])
    scale = 1 + most * d

    torch.testing.assert_close(kernels.bag_sum(weight, indices, offsets, values).double(), want, rtol=1e-5, atol=1e-5)
    residual = torch.full_like(goal, torch.nan)
    dots = compiled.residual_and_dot(weight, indices, offsets, values, goal, residual)
    torch.testing.assert_close(residual.double(), want - goal, rtol=1e-5, atol=1e-5)
    products = ((want - goal)[bag] * rows).sum(1)
    torch.testing.assert_close(dots.double(), products, rtol=1e-5, atol=1e-6 * scale)

    order, starts = compiled.sort_by_latent(indices, n)
    assert torch.equal(order.long(), torch.sort(indices, stable=True).indices)
    assert torch.equal(starts[1:].long(), torch.bincount(indices, minlength=n).cumsum(0))
    assert starts[0] == 0
    by_latent = torch.zeros(n, d, dtype=torch.float64)
    by_latent.index_add_(0, indices.long(), goal.double()[bag] * values.double()[:, None])
    first = n // 2  # those of some latents alone
    sums = kernels.sum_by_latent(goal, bag.to(torch.int32), values, order, starts[first:], out=None)
    torch.testing.assert_close(sums.double(), by_latent[first:], rtol=1e-5, atol=1e-5 * (1 + len(indices) ** 0.5))

    ascending = torch.cat([row.sort().values for row in indices.split(counts.tolist())])
    products = (goal.double()[bag] * weight.double()[ascending.long()]).sum(1)
    for block in (1, 4, 1000):
        dots = compiled.dot(weight, ascending, offsets, goal, block)
        torch.testing.assert_close(dots.double(), products, rtol=1e-5, atol=1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.sampled_from([0, 1, 15, 16, 17, 50]), min_size=1, max_size=70),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_entries_that_are_not_zero(counts, share, seed):
    offsets = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(int(offsets[-1]), generator=generator)
    values[torch.rand(len(values), generator=generator) >= share] = 0
    values[torch.rand(len(values), generator=generator) < 0.1] = float("nan")  # is not zero
    values[::7] = -0.0  # is
    kept = [e for e, value in enumerate(values.tolist()) if value != 0]
    starts = [sum(e < int(offset) for e in kept) for offset in offsets]
    for found, begin in (compiled.nonzero(values, offsets), kernels.nonzero(values.double(), offsets)):
        assert found.tolist() == kept
        assert begin.tolist() == starts


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9)), min_size=1, max_size=130),
    seed=st.integers(0, 100),
)
def test_rows_are_gathered_from_wherever_they_are(rows, seed):
    values = torch.randn(100, generator=torch.Generator().manual_seed(seed))
    latents = torch.arange(100, dtype=torch.int32)
    starts, counts = (torch.tensor(column) for column in zip(*rows, strict=True))
    want = [start + i for start, count in rows for i in range(count)]
    found, where = compiled.gathered(values, latents, starts, counts, counts)
    assert where.tolist() == want
    assert torch.equal(found, values[want])


def test_the_bits_do_not_depend_on_the_threads():
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(*(torch.randn(*shape, generator=generator) for shape in ((3000, 20), (1500, 20), (1500,))))
    offsets = torch.arange(0, 4001, 4, dtype=torch.int32)
    indices = torch.randint(1500, (4000,), generator=generator, dtype=torch.int32)
    values, goal = torch.randn(4000, generator=generator), torch.randn(1000, 20, generator=generator)
    before, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert native.usable(encoder.x)
            pre = encoder.x.double() @ encoder.weight.double().T  # one product for all: torch's may differ with threads
            top = compiled.TopK(3000, 5)
            top.take(slice(0, 3000), pre.float(), encoder.bias, 0)
            residual = torch.empty_like(goal)
            dots = compiled.residual_and_dot(encoder.weight, indices, offsets, values, goal, residual)
            results.append((*top.finish(), residual, dots))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("n", [1000, 2500])
def test_the_selection_is_that_of_torchs_operations(threads, n):
    generator = torch.Generator().manual_seed(1)
    encoder = Encoder(*(torch.randn(*shape, generator=generator) for shape in ((1100, 24), (n, 24), (n,))))
    fast = selection.select_top_k(encoder, 20, ascending=True)
    plain = selection.select_top_k(replace(encoder, tuning=Tuning(loops=False)), 20, ascending=True)
    assert torch.equal(fast.offsets, plain.offsets)
    assert torch.equal(
        fast.indices, plain.indices
    )  # no ties, and nothing within a rounding of the 20th, with this seed
    torch.testing.assert_close(fast.pre, plain.pre, rtol=1e-5, atol=1e-5)
    assert fast.ascending


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    n=st.sampled_from([1, 15, 16, 17, 63, 64, 200]),
    block=st.sampled_from([1, 16, 50, 1000]),
    tile=st.sampled_from([1, 33, 100]),
    bound=st.sampled_from([-10.0, 0.0, 1.0, 10.0]),
    awkward=st.sampled_from([None, float("nan"), float("inf"), -float("inf")]),
    seed=st.integers(0, 10**6),
)
def test_takes_all_above_their_bounds(rows, n, block, tile, bound, awkward, seed):
    generator = torch.Generator().manual_seed(seed)
    pre = (2 * torch.randn(rows, n, generator=generator)).round() / 2  # some are equal to the bound
    if awkward is not None:
        pre[torch.rand(rows, n, generator=generator) < 0.1] = awkward
    bias = torch.randint(-1, 2, (n,), generator=generator).float()
    bounds = bound + torch.randint(2, (n,), generator=generator)
    found = compiled.Above(rows)
    for j in range(0, n, block):
        for i in range(0, rows, tile):
            part = pre[i : i + tile, j : j + block].contiguous()
            found.take(part, bias[j : j + block], bounds[j : j + block], j)
    values, latents, counts = found.finish()
    above = pre + bias > bounds
    assert found.n_entries == int(above.sum())
    assert torch.equal(counts, above.sum(1))
    assert torch.equal(latents.long(), above.nonzero()[:, 1])
    assert torch.equal(values, (pre + bias)[above])


@pytest.mark.parametrize("bound", [0.5, "each"])
def test_all_above_are_those_of_torchs_operations(bound, threads):
    generator = torch.Generator().manual_seed(2)
    encoder = Encoder(*(torch.randn(*shape, generator=generator) for shape in ((1100, 24), (1300, 24), (1300,))))
    bound = torch.linspace(-1, 2, 1300) if bound == "each" else bound
    fast = selection.select_above(encoder, bound)
    assert selection.select_if_sparse(encoder, bound) is None  # nearly half of all
    sparse = selection.select_if_sparse(encoder, 12.0)
    encoder = replace(encoder, tuning=Tuning(loops=False))
    assert selection.select_if_sparse(encoder, bound) is None
    plain = selection.select_above(encoder, bound), selection.select_if_sparse(encoder, 12.0)
    for one, other in zip((fast, sparse), plain, strict=True):
        assert torch.equal(one.offsets, other.offsets)
        assert torch.equal(one.indices, other.indices)
        torch.testing.assert_close(one.pre, other.pre, rtol=1e-5, atol=1e-5)


def test_is_left_alone_where_it_does_not_apply():
    assert not native.usable(torch.zeros(1, dtype=torch.float64))
    assert not native.usable(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    assert not native.usable(torch.zeros(1, device="meta"))


def test_is_left_alone_where_it_was_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "library", lambda level: tmp_path / level)
    native._loaded.cache_clear()
    try:
        assert not native.usable(torch.zeros(1))
        (tmp_path / native.BASE).write_bytes(b"not a library")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        native._loaded.cache_clear()
        assert not native.usable(torch.zeros(1))
    finally:
        native._loaded.cache_clear()


def test_without_the_pool_of_torch_it_works_alone_or_not_at_all(monkeypatch, threads):
    monkeypatch.setattr(native, "_fork", lambda: None)
    assert native.usable(torch.zeros(1)) == (threads == 1)


STRANGER = """
char room[1 << 29]; /* so large that it is laid below what was there before, and comes first in lists by address */
void GOMP_parallel(void (*f)(void *), void *a, unsigned n, unsigned flags) { __builtin_abort(); }
"""
JOINED = """
import ctypes, os, sys
if sys.argv[2] == "before":
    ctypes.CDLL(sys.argv[1])
import torch
ctypes.CDLL(sys.argv[1])
from polyseme.kernels import tiles
from polyseme.kernels.backend import backend_in_use
torch.set_num_threads(2)
assert backend_in_use().loops, backend_in_use()
torch.ones(1000, 1000).sum()
n_threads = len(os.listdir("/proc/self/task"))
latents, offsets = (torch.arange(n, dtype=torch.int32) for n in (50_000, 50_001))
assert torch.equal(tiles.bag_sum(torch.eye(64), latents % 64, offsets, torch.ones(50_000)), torch.eye(64)[latents % 64])
assert len(os.listdir("/proc/self/task")) == n_threads, "the loops have started threads of their own"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("when", ["before", "after"])
def test_torchs_threads_are_borrowed_whatever_other_openmp_is_there(when, tmp_path):
    stranger = tmp_path / "libgomp-stranger.so"
    (tmp_path / "stranger.c").write_text(STRANGER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", stranger, tmp_path / "stranger.c"], check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", JOINED, stranger, when]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("compiler", "path"), [("none-of-that-name", ""), ("false", None)])
def test_an_installation_without_a_compiler_that_works_goes_on(compiler, path, monkeypatch, tmp_path, capsys):
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("hatch_build", root / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    for name in (*builder.SOURCES, "kernels/c/kernels.h", "kernels/c/pool.h"):
        to = tmp_path / builder.PACKAGE / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes((root / builder.PACKAGE / name).read_bytes())
    monkeypatch.setenv("CC", compiler)
    if path is not None:
        monkeypatch.setenv("PATH", path)
    assert builder.build(tmp_path) == []
    assert "polyseme:" in capsys.readouterr().err
    assert not list((tmp_path / builder.FOLDER).glob("*.so"))
