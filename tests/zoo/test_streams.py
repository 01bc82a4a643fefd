"""Streams are torch's generators to the last bit, and many at a time."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.kernels import library as native
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.tools.streams import Streams


@pytest.fixture(autouse=True)
def _with_compiled_loops():
    if not native.usable():
        assert shutil.which("cc") is None, "there is a C compiler, and yet it was not built at installation"
        pytest.skip("not built: no C compiler was found at installation")


def generators(n: int, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(n)]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5),
    seed=st.integers(0, 2**62),
    steps=st.lists(
        st.tuples(st.sampled_from(["uniform", "sparse", "torch", "normal"]), st.integers(1, 1500)), max_size=6
    ),
)
def test_numbers_are_torchs_to_the_last_bit(n, seed, steps):
    ours, plain = generators(n, seed), generators(n, seed)
    streams, p = Streams(ours), torch.linspace(0.01, 1, n)
    for what, count in steps:
        if what in ("uniform", "sparse"):
            got = streams.uniform(torch.empty(n, count), p if what == "sparse" else None)
            want = torch.stack([torch.rand(count, generator=g) for g in plain])
            if what == "sparse":
                want = torch.where(want < p[:, None], want / p[:, None], torch.zeros(()))
        else:
            streams.release()
            draw = torch.rand if what == "torch" else torch.randn
            got, want = (torch.stack([draw(count, generator=g) for g in some]) for some in (ours, plain))
        assert torch.equal(got, want)
    streams.release()
    assert [g.get_state().tolist() for g in ours] == [g.get_state().tolist() for g in plain]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_draws_do_not_depend_on_the_loops_the_threads_or_what_they_are_batched_with(threads, monkeypatch):
    p, before = torch.tensor([1.0, 0.3, 0.05, 0.0001]), torch.get_num_threads()

    def drawn(seeds: list[int], density: torch.Tensor) -> list[torch.Tensor]:
        draws = Draws(seeds, "test")
        kinds = (draws.uniform(70, 9), draws.normal(11), draws.sparse_uniform(density, 40, 30), draws.uniform(1))
        return [*kinds, draws.normal(40)]

    try:
        torch.set_num_threads(threads)
        together, alone = drawn([5, 6, 7, 8], p), drawn([7], p[2:3])
        assert all(torch.equal(a[2], b[0]) for a, b in zip(together, alone, strict=True))
        monkeypatch.setattr(native, "usable", lambda *_: False)
        assert all(torch.equal(a, b) for a, b in zip(together, drawn([5, 6, 7, 8], p), strict=True))
    finally:
        torch.set_num_threads(before)
