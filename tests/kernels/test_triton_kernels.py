"""The Triton kernels against plain float64 sums: on the GPU where there is one, in Triton's interpreter where not.

Triton decides at its own import whether it interprets, and torch may import it at any time: the interpreter has a
process to itself, in which this file is run again. What an interpreter cannot show, that the kernels compile, is tested
with the compiler alone, which needs no GPU.
"""

import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polyseme.core.errors import InputError
from polyseme.kernels import tiles as operations
from polyseme.kernels.tuning import Tuning
from tests.dictionaries.reference import SMALL, chosen_in_training, make_batch, reference, scramble

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available()
INSTALLED = importlib.util.find_spec("triton") is not None

needs_triton = pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
runs = pytest.mark.skipif(
    not INSTALLED or not (GPU or INTERPRETED),
    reason="needs triton, and a GPU or its interpreter (test_in_the_interpreter)",
)
on_device = pytest.mark.parametrize("device", ["cpu" if INTERPRETED else "cuda"])

WIDTHS = (1, 7, 64, 100, 513)
COUNTS = st.lists(st.integers(0, 20), min_size=1, max_size=5)
EXAMPLES = 10 if INTERPRETED else 100  # beside those that are written out: the interpreter takes 0.1 s for one
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
"""Of an error over the sum of the absolute terms."""


@functools.cache
def kernels():
    """The module: importing it imports triton."""
    return importlib.import_module("polyseme.kernels.triton_kernels")


def ragged(counts):
    """Where each run of entries starts, and the end, and the run of each entry."""
    counts = torch.tensor(counts, dtype=torch.int64)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return starts, torch.arange(len(counts)).repeat_interleave(counts)


class Case:
    """Rows over a table of latents: whole numbers, whose sums float32 has exactly, or normal ones.

    The same arrays are the other operation's too: `weight` its rows, and each row here a latent there.
    """

    def __init__(self, counts, d, seed, device, *, dtype=torch.float32, whole=False, n=11):
        generator = torch.Generator().manual_seed(seed)

        def numbers(*shape):
            if whole:
                return torch.randint(-4, 5, shape, generator=generator).to(device, dtype)
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

        self.offsets, self.bags = (t.to(device) for t in ragged(counts))
        # Ascending within a run, as the engine's are, and never 0: a place read in vain by a lane without an entry.
        order = torch.randint(1, n, (len(self.bags),), generator=generator).to(device)
        self.indices = (torch.sort(self.bags * n + order).values % n).to(torch.int32)
        self.weight, self.values = numbers(n, d), numbers(len(self.bags))
        self.goal = numbers(len(counts), d)
        self.weight[0] = torch.nan

    def residual_and_dot(self):
        return kernels().residual_and_dot(self.weight, self.indices, self.offsets, self.values, self.goal)

    def sums(self):
        """Into the middle of a larger tensor, none of which is 0 to begin with."""
        table = torch.full((len(self.goal) + 2, self.goal.shape[1]), torch.nan).to(self.goal)
        kernels().sum_by_latent(self.weight, self.indices, self.offsets, self.values, table[1:-1])
        assert table[0].isnan().all()
        assert table[-1].isnan().all()
        return table[1:-1]

    def expected(self):
        """Sums, residuals and dots in float64, and for each its terms' absolute sum."""
        rows = self.weight.double()[self.indices.long()]
        terms, goal = self.values.double()[:, None] * rows, self.goal.double()
        sums = torch.zeros_like(goal).index_add_(0, self.bags, terms)
        sizes = torch.zeros_like(goal).index_add_(0, self.bags, terms.abs())
        residual, size = sums - goal, sizes + goal.abs()
        dots, dot_sizes = (residual[self.bags] * rows).sum(1), (size[self.bags] * rows.abs()).sum(1)
        return (sums, sizes), (residual, size), (dots, dot_sizes)

    def check(self, *, exact=False):
        got = (self.sums(), *self.residual_and_dot())
        for name, value, (want, size) in zip(("sums", "residual", "dots"), got, self.expected(), strict=True):
            assert value.dtype == self.weight.dtype
            assert value.shape == want.shape
            if exact:
                assert torch.equal(value.double(), want), name
            else:
                assert ((value.double() - want).abs() <= TOLERANCE[value.dtype] * size).all(), name


@runs
@on_device
@settings(max_examples=EXAMPLES, deadline=None)
@given(counts=COUNTS, d=st.sampled_from(WIDTHS), seed=st.integers(0, 999))
@example(counts=[0], d=7, seed=0)
@example(counts=[0, 0, 0], d=513, seed=0)
@example(counts=[0, 70, 0, 0], d=100, seed=0)
@example(counts=[16, 8, 1, 0, 17], d=64, seed=0)
def test_whole_numbers_are_summed_exactly(device, counts, d, seed):
    Case(counts, d, seed, device, whole=True).check(exact=True)


@runs
@on_device
@settings(max_examples=EXAMPLES, deadline=None)
@given(counts=COUNTS, d=st.sampled_from(WIDTHS), seed=st.integers(0, 999), wide=st.booleans())
@example(counts=[0, 200], d=513, seed=0, wide=False)
def test_sums_are_as_exact_as_their_type(device, counts, d, seed, wide):
    Case(counts, d, seed, device, dtype=torch.float64 if wide else torch.float32).check()


@runs
@on_device
@pytest.mark.parametrize(("d", "whole"), [(4096, True), (4097, True), (4100, False)])
def test_rows_as_wide_as_the_registers_and_wider(device, d, whole):
    assert kernels().WIDEST == 4096
    Case([9, 0], d, 3, device, whole=whole).check(exact=whole)


@runs
@on_device
@pytest.mark.parametrize("d", WIDTHS)
def test_both_ways_over_rows_agree(device, d, monkeypatch):
    case = Case([3, 0, 21, 8], d, 1, device, whole=True)
    together = case.residual_and_dot()
    monkeypatch.setattr(kernels(), "WIDEST", 0)
    for ours, theirs in zip(together, case.residual_and_dot(), strict=True):
        assert torch.equal(ours, theirs)


@runs
@on_device
@pytest.mark.parametrize("widest", [4096, 0])
def test_the_bits_are_the_same_every_time_and_whatever_else_is_in_the_batch(device, widest, monkeypatch):
    monkeypatch.setattr(kernels(), "WIDEST", widest)
    counts = [30, 0, 5, 17]
    case = Case(counts, 300, 2, device)
    residual, dots = case.residual_and_dot()
    sums = case.sums()
    for _ in range(1 if INTERPRETED else 20):
        again = case.residual_and_dot()
        assert torch.equal(again[0], residual)
        assert torch.equal(again[1], dots)
        assert torch.equal(case.sums(), sums)
    for row in range(len(counts)):
        alone = Case(counts, 300, 2, device)
        own = slice(int(case.offsets[row]), int(case.offsets[row + 1]))
        alone.offsets, alone.goal = case.offsets[row : row + 2] - case.offsets[row], case.goal[row : row + 1].clone()
        alone.indices, alone.values = case.indices[own].clone(), case.values[own].clone()  # aligned as the others are
        own_residual, own_dots = alone.residual_and_dot()
        assert torch.equal(own_residual[0], residual[row])
        assert torch.equal(own_dots, dots[own])
        assert torch.equal(alone.sums()[0], sums[row])


@runs
@on_device
@pytest.mark.parametrize("widest", [4096, 0])
def test_a_table_may_have_more_than_two_to_the_31_elements(device, widest, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels(), "WIDEST", widest)
    n, d = 2**19 + 1, 4096
    if device == "cpu":  # a file with a hole, of which only what is touched exists
        table = torch.from_file(str(tmp_path / "table"), shared=True, size=n * d).view(n, d)
    elif torch.cuda.mem_get_info()[0] < 10 * 2**30:
        pytest.skip("needs 10 GiB of the GPU's memory")
    else:
        table = torch.zeros(n, d, device=device)
    table[-1] = torch.arange(d) % 7
    offsets, values = (torch.tensor([0, 1], device=device, dtype=t) for t in (torch.int32, torch.float32))
    last, values = torch.tensor([n - 1], device=device, dtype=torch.int32), values[1:]
    residual, dots = kernels().residual_and_dot(table, last, offsets, values, torch.ones(1, d, device=device))
    assert torch.equal(residual[0], table[-1] - 1)
    assert float(dots) == float((residual[0].double() * table[-1].double()).sum())
    assert table[-2].count_nonzero() == 0


@runs
@on_device
def test_nothing_is_made_of_nothing(device):
    case = Case([], 7, 0, device)
    residual, dots = case.residual_and_dot()
    assert residual.shape == (0, 7)
    assert dots.shape == (0,)
    assert case.sums().shape == (0, 7)


@runs
@on_device
def test_inputs_with_gaps_are_read_right_and_outputs_with_gaps_refused(device):
    case = Case([4, 0, 9], 100, 5, device, whole=True)
    for name in ("weight", "goal"):
        setattr(case, name, getattr(case, name).t().contiguous().t())
    case.values = torch.stack([case.values, case.values], 1)[:, 0]
    assert not case.weight.is_contiguous()
    assert not case.values.is_contiguous()
    case.check(exact=True)
    out = torch.empty(100, 3, device=device).t()
    with pytest.raises(InputError, match="contiguous"):
        kernels().sum_by_latent(case.weight, case.indices, case.offsets, case.values, out)


@runs
@on_device
def test_what_does_not_fit_together_is_refused(device, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the hook of the tests would be before us
    case = Case([4, 0, 9], 7, 5, device)
    good = (case.weight, case.indices, case.offsets, case.values, case.goal)

    def refused(operation, arguments, at, bad, what):
        changed = [*arguments[:at], bad, *arguments[at + 1 :]]
        with pytest.raises(InputError, match=re.escape(what)):
            operation(*changed)

    dot = functools.partial(refused, kernels().residual_and_dot, good)
    dot(0, case.weight[:, :6], "goal is [3, 7], not [B, d] with n = 11, d = 6, E = 13")
    dot(0, case.weight[0], "weight is [7], not [n, d]")
    dot(1, case.indices[:-1], "indices is [12], not [E]")
    dot(1, case.indices.long(), "indices is torch.int64 on")
    dot(2, case.offsets[:-1], "offsets is [3], not [B+1]")
    dot(2, case.offsets[:0], "offsets is [0], not [B+1]")
    dot(3, case.values[:, None], "values is [13, 1], not [E]")
    dot(3, case.values.double(), "values is torch.float64 on")
    dot(4, case.goal.to("meta"), "goal is torch.float32 on meta")
    halves = [t.bfloat16() if t.is_floating_point() else t for t in good]
    with pytest.raises(InputError, match="bfloat16"):
        kernels().residual_and_dot(*halves)

    total = functools.partial(refused, kernels().sum_by_latent, (*good[:4], torch.empty_like(case.goal)))
    total(1, case.indices[:-1], "bags is [12], not [E]")
    total(2, case.offsets[1:], "starts is [3], not [m+1]")
    total(4, case.goal[:, :6], "out is [3, 6], not [m, d] with B = 11, d = 7")
    total(4, case.goal.double(), "out is torch.float64 on")


@runs
@on_device
@pytest.mark.parametrize("architecture", ["topk", "relu tied", "matryoshka"])
def test_a_whole_step_goes_by_them(device, architecture, monkeypatch):
    """As on a GPU: nothing of it is left to the loops for a processor, or to torch where there is a kernel."""
    asked = []

    def on_cuda(*tensors):
        asked.append(len(tensors))
        return kernels()

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(operations, "_on_cuda", on_cuda)
    tuning = Tuning(max_density=1.0, loops=False)
    dictionary = SMALL[architecture](20, 3).build(6, seed=0, device=device, tuning=tuning)
    scramble(dictionary, 1)
    batch = make_batch(torch.randn(9, 6, generator=torch.Generator().manual_seed(2)).to(device))
    chosen = chosen_in_training(dictionary, batch)
    dictionary.accumulate(batch, progress=0.0, dead=None, coefficient=0.3)
    assert asked
    expected = reference(dictionary, batch, coefficient=0.3, dead=None, chosen=chosen)
    for name, parameter in dictionary.parameters().items():
        torch.testing.assert_close(parameter.grad, expected.grads[name], rtol=1e-5, atol=1e-6, msg=name)


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(GPU or INTERPRETED, reason="the GPU, or the interpreter, is what the kernels are tested on here")
def test_in_the_interpreter():
    """Every test above that needs a device, with the interpreter for a device."""
    out = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-rs", "-k", "cpu"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert "skipped" not in out.stdout, out.stdout


@needs_triton
@pytest.mark.skipif(
    GPU or INTERPRETED, reason="the GPU itself has them compiled; the interpreter replaces the compiler"
)
@pytest.mark.parametrize(("capability", "dtype"), [(80, torch.float64), (90, torch.float32)])
def test_the_kernels_compile_without_atomics(capability, dtype, monkeypatch, tmp_path):
    """Every launch of both operations, as far as the machine code that it would start."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = kernels()
    jit = importlib.import_module("triton.runtime.jit")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    driver = SimpleNamespace(
        get_current_device=lambda: capability,  # compiled kernels are kept for each
        get_current_stream=lambda device: 0,
        get_current_target=lambda: target,
    )
    monkeypatch.setattr(jit, "driver", SimpleNamespace(active=driver))
    made = []

    def compile_only(kernel, grid):
        return lambda *args, **options: made.append(kernel.warmup(*args, grid=grid, **options))

    monkeypatch.setattr(jit.JITFunction, "__getitem__", compile_only)
    for d in (1, 100, 4096, 4100):
        case = Case([2, 0, 5], d, 0, "cpu", dtype=dtype)
        case.residual_and_dot()
        module.sum_by_latent(case.weight, case.indices, case.offsets, case.values, torch.empty_like(case.goal))
    assert len(made) == 3 * 2 + 3
    for kernel in made:
        assert kernel.asm["cubin"]
        assert not re.search(r"\b(atom|red)\.", kernel.asm["ptx"])


def test_importing_polyseme_does_not_import_triton():
    code = (
        "import sys, polyseme.cli, polyseme.studies, polyseme.training, polyseme.dictionaries.engine.engine;"
        "sys.exit(' '.join(n for n in sys.modules if n.split('.')[0] == 'triton' or 'triton_kernels' in n) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
