"""The selection by products of bytes chooses what float32 chooses, by proof or by doing it again."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.dictionaries import ARCHITECTURES
from polyseme.dictionaries.engine import selection
from polyseme.dictionaries.engine.selection import Encoder, select_above, select_if_sparse, select_top_k
from polyseme.kernels import library as native
from polyseme.kernels.int8 import Found, Int8, candidates
from tests.dictionaries.reference import make_batch, scramble


@pytest.fixture(autouse=True)
def _on_a_processor_that_can():
    if not native.usable() or not native.loaded().polyseme_int8_supported():
        # Not built or not found out, all would go by floats and nobody would know.
        able = "avx512_vnni" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False
        assert not able or shutil.which("cc") is None, "bytes could be multiplied, and yet they are not"
        pytest.skip("no compiled loops, or a processor without AVX-512 VNNI")


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder(
    rows: int, d: int, n: int, *, seed: int = 0, shared: float = 0.0, apart: float = 1.0, outlier: float = 1.0
) -> Encoder:
    """Latents `apart` about one direction of length `shared`, and one column of x `outlier` times as large."""
    weight = shared * randn(1, d, seed=seed) + apart * randn(n, d, seed=seed + 1)
    x = randn(rows, d, seed=seed + 2)
    x[:, d // 2] *= outlier
    return Encoder(x, weight, apart * randn(n, seed=seed + 3))


def exact(of: Encoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Pre-activations in float64, and how far float32's may be from each."""
    x, weight = of.x.double(), of.weight.double()
    off = 1e-6 * (1 + of.x.shape[1] ** 0.5) * (x.norm(dim=1)[:, None] * weight.norm(dim=1) + of.bias.abs().double())
    return x @ weight.T + of.bias.double(), off


def check_top_k(of: Encoder, k: int, found: Found) -> int:
    """Proven rows hold the k largest, up to float32's rounding; how many rows are proven."""
    pre, off = exact(of)
    for row, (values, latents, count) in enumerate(zip(*found[:3], strict=True)):
        if count < 0:
            continue
        values, latents = values[:count], latents[:count].long()
        assert (latents.diff() > 0).all()
        assert ((values - pre[row, latents]).abs() <= off[row, latents]).all()
        left = torch.ones(len(pre[row]), dtype=torch.bool)
        left[latents] = False
        least = values.min().double() if count == k else torch.zeros((), dtype=torch.float64)
        assert (pre[row, left] <= least + 2 * off[row].max()).all()
        assert (values > 0).all()
    return int((found.counts >= 0).sum())


@settings(max_examples=150, deadline=None)
@given(
    rows=st.sampled_from([1, 5, 12, 13, 30]),
    d=st.sampled_from([1, 3, 4, 17, 64, 130]),
    n=st.sampled_from([1, 31, 32, 33, 700]),
    k=st.sampled_from([1, 4, 33]),
    apart=st.sampled_from([0.0, 1e-3, 1e-1, 1.0]),
    outlier=st.sampled_from([0.0, 1.0, 1e3]),
    scale=st.sampled_from([1e-12, 1.0, 1e9]),
    seed=st.integers(0, 1000),
)
def test_proven_rows_hold_the_largest(rows, d, n, k, apart, outlier, scale, seed):
    of = encoder(rows, d, n, seed=seed, shared=1.0, apart=apart, outlier=outlier)
    of = dataclasses.replace(of, x=of.x * scale, bias=of.bias * scale)
    check_top_k(of, k, Int8(of.x, of.weight, of.bias).top_k(of.x, k))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.sampled_from([1, 12, 13, 30]),
    d=st.sampled_from([1, 17, 64]),
    n=st.sampled_from([1, 32, 33, 300, 1024, 1100]),
    apart=st.sampled_from([0.0, 1e-3, 1.0]),
    outlier=st.sampled_from([1.0, 1e3]),
    bound=st.sampled_from([-1e9, -1.0, 0.0, 5.0, 1e9]),
    room=st.sampled_from([0, 20, 300, 1100]),
    seed=st.integers(0, 1000),
)
def test_proven_rows_hold_all_above(rows, d, n, apart, outlier, bound, room, seed):
    of = encoder(rows, d, n, seed=seed, shared=1.0, apart=apart, outlier=outlier)
    bounds = bound + randn(n, seed=seed + 4)
    values, latents, counts, scored = Int8(of.x, of.weight, of.bias).above(of.x, bounds, room)
    pre, off = exact(of)
    assert (scored >= counts).all()
    if room >= n:
        assert (counts >= 0).all()
    for row in (counts >= 0).nonzero().view(-1):
        mine = latents[row, : counts[row]].long()
        assert (mine.diff() > 0).all()
        assert ((values[row, : counts[row]] - pre[row, mine]).abs() <= off[row, mine]).all()
        found = torch.zeros(n, dtype=torch.bool)
        found[mine] = True
        surely, perhaps = pre[row] > bounds + off[row], pre[row] > bounds - off[row]
        assert (found | ~surely).all()
        assert (perhaps | ~found).all()


def test_clear_cases_are_proven():
    of = encoder(500, 256, 4096)
    assert check_top_k(of, 16, Int8(of.x, of.weight, of.bias).top_k(of.x[:500], 16)) == 500


def test_a_large_column_does_not_cost_the_others_their_precision():
    """As in a residual stream: without scaled columns one of 256 that is 1,000 times as large leaves nothing proven."""
    of = encoder(500, 256, 4096, outlier=1000.0)
    of.weight[:, 128] /= 1000
    assert check_top_k(of, 16, Int8(of.x, of.weight, of.bias).top_k(of.x[:500], 16)) == 500


def test_columns_that_are_alike_are_left_alike():
    """Their ratios to W's may lie where a power of two is as near as the next; chance is not to set them apart."""
    of = encoder(500, 256, 4096)
    weights = Int8(of.x, of.weight * 2 * 2**0.5, of.bias)
    assert torch.equal(weights._inverse, torch.ones(256))


def test_what_bytes_cannot_tell_apart_is_not_proven():
    of = encoder(40, 64, 3000, shared=1.0, apart=1e-4)
    assert check_top_k(of, 5, Int8(of.x, of.weight, of.bias).top_k(of.x[:40], 5)) < 40


def whole(v: torch.Tensor) -> torch.Tensor:
    """v in 127 whole steps, as the rows of x and W are rounded where columns are not scaled."""
    step = v.abs().max() / 127
    return (v / step).round() * step


@pytest.mark.parametrize("of_weight", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_errors_that_all_add_up_are_within_the_bound(seed, of_weight, monkeypatch):
    """A latent that points along a vector's rounding error, and a vector along a latent's: the bound's worst case."""
    d, n = 64, 600
    monkeypatch.setattr(Int8, "_columns", lambda *_: torch.ones(d))  # which would differ with what is built from them
    rounded, others = randn(1, d, seed=seed), 0.005 * randn(n, d, seed=100 + seed)
    error = rounded - whole(rounded)
    along = whole(40 * torch.nn.functional.normalize(error, dim=1))  # has no rounding error itself
    x, weight = (along, torch.cat([rounded, others])) if of_weight else (rounded, torch.cat([along, others]))
    product, in_bytes = float(rounded @ along.T), float(whole(rounded) @ along.T)
    bias = torch.zeros(n + 1)
    bias[0] = 5 - in_bytes  # so that bytes see 5, and the truth is all of the error above it
    assert product - in_bytes > 0.99 * float(error.norm() * along.norm())
    bounds = torch.full((n + 1,), product + float(bias[0]) - 0.02)
    found = Int8(x, weight, bias).above(x[:1], bounds, 500)
    assert found.counts.tolist() == [1]
    assert found.latents[0, 0] == 0


def pair(of: Encoder, how) -> tuple:
    return how(of), how(dataclasses.replace(of, selection="fp32"))


def same(bytes_, floats) -> None:
    assert torch.equal(bytes_.offsets, floats.offsets)
    assert torch.equal(bytes_.indices, floats.indices)  # nothing within a rounding of the bounds, with these seeds
    torch.testing.assert_close(bytes_.pre, floats.pre, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert bytes_.ascending


@pytest.mark.parametrize("n", [2048, 2500])
def test_the_selections_are_float32s(n, monkeypatch):
    asked = []
    real = Int8.top_k, Int8.above
    monkeypatch.setattr(Int8, "top_k", lambda *args: asked.append("top_k") or real[0](*args))
    monkeypatch.setattr(Int8, "above", lambda *args: asked.append("above") or real[1](*args))
    of = encoder(700, 100, n)
    same(*pair(of, lambda e: select_top_k(e, 20, ascending=True)))
    same(*pair(of, lambda e: select_above(e, 25.0)))
    same(*pair(of, lambda e: select_if_sparse(e, torch.linspace(25, 40, n))))
    same(*pair(of, lambda e: selection.select_batch_top_k(e, 7.5, 20.0)))
    assert asked.count("top_k") == 2
    assert asked.count("above") >= 4  # each in two parts at least


def test_rows_that_are_not_proven_are_encoded_in_float32():
    of = encoder(700, 100, 2048)
    of.x[::7] = 0  # all ties: there is nothing to tell their latents apart by but the bias
    of.x[3], of.x[300, 5], of.x[699, 5] = float("nan"), float("inf"), 1e30
    of.bias[:] = 1.0
    weights = Int8(of.x, of.weight, of.bias)
    failed = (weights.top_k(of.x[:700], 20).counts < 0).sum()
    assert 100 <= failed < 175  # not so many that float32 is asked for all
    same(*pair(of, lambda e: select_top_k(e, 20, ascending=True)))
    same(*pair(of, lambda e: select_above(e, 25.0)))


def test_where_most_rows_cannot_be_proven_float32_does_all(monkeypatch):
    of = encoder(700, 100, 2048)
    asked = []
    real = Int8.above
    monkeypatch.setattr(Int8, "above", lambda self, x, *args: asked.append(len(x)) or real(self, x, *args))
    same(*pair(of, lambda e: select_above(e, 0.0)))
    assert asked == [of.tuning.sample]
    assert select_if_sparse(of, 0.0) is None


@pytest.mark.parametrize("awkward", [float("nan"), float("inf"), 1e20])
def test_weights_that_are_not_finite_are_left_to_float32(awkward):
    of = encoder(700, 100, 2048)
    of.weight[5, 7] = awkward
    assert not Int8(of.x, of.weight, of.bias).is_finite
    same(*pair(of, lambda e: select_top_k(e, 20, ascending=True)))


def test_the_bits_do_not_depend_on_the_threads():
    of, before, results = encoder(1500, 100, 2048), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = select_top_k(of, 20, ascending=True), select_above(of, 25.0)
            results.append([t for entries in found for t in (entries.pre, entries.indices, entries.offsets)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("exponent", [-20, 13])
def test_powers_of_two_change_no_bit(exponent):
    """Rounding is relative, so the unit of the activations plays no part."""
    of = encoder(300, 100, 2048)
    scaled = dataclasses.replace(of, x=of.x * 2.0**exponent, bias=of.bias * 2.0**exponent)
    one, other = (select_top_k(e, 20, ascending=True) for e in (of, scaled))
    assert torch.equal(one.indices, other.indices)
    assert torch.equal(one.pre * 2.0**exponent, other.pre)


def test_shapes_that_are_too_small_are_left_alone():
    assert Int8.pays(4096, 8192, 512, 32)
    assert not Int8.pays(100, 8192, 512, 32)
    assert not Int8.pays(4096, 8192, 512, 1100)
    assert not Int8.pays(4096, 1024, 512, 32)
    assert not Int8.pays(4096, 8192, 4096, 32)
    assert Int8.pays(4096, 131072, 2048, 32)


def test_candidates_of_normal_vectors_are_as_many_as_expected():
    """The count behind `pays`, against rows whose upper bounds are looked at one by one."""
    d, n, k = 256, 4096, 16
    of = encoder(400, d, n)
    pre = of.x @ of.weight.T
    deviation = pre.std()
    bar = pre.topk(k, dim=1).values[:, -1:] - 0.0145 * d**0.5 * deviation
    assert float((pre > bar).sum(1).float().mean()) == pytest.approx(candidates(n, d, k), rel=0.1)


def test_a_processor_that_cannot_is_left_alone(monkeypatch):
    class Without:
        polyseme_int8_supported = staticmethod(lambda: 0)

    monkeypatch.setattr(native, "loaded", Without)
    assert not Int8.pays(4096, 8192, 512, 32)


OPTIONS = {
    "topk": {"k": 8},
    "batch_topk": {"k": 8},
    "matryoshka": {"k": 8},
    "jumprelu": {"bandwidth": 0.05},
}
"""What makes an architecture sparse, where its bias does not."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_is_float32s_step(architecture, monkeypatch):
    parts = []
    real = Int8._find
    monkeypatch.setattr(Int8, "_find", lambda *args: parts.append(1) or real(*args))
    steps = {}
    x = randn(600, 64, seed=5)
    for chosen_in in ("auto", "fp32"):
        config = ARCHITECTURES[architecture](n_latents=2048, selection=chosen_in, **OPTIONS.get(architecture, {}))
        dictionary = config.build(64, seed=0)
        scramble(dictionary, 1)
        parameters = dictionary.parameters()
        parameters["b_enc"].copy_(-2.4 * parameters["W_enc"].norm(dim=1))  # sparse, as after training
        stats = dictionary.accumulate(make_batch(x), progress=0.0, dead=None, coefficient=0.5)
        steps[chosen_in] = stats, {name: p.grad.clone() for name, p in dictionary.parameters().items()}
        assert bool(parts) == (chosen_in == "auto")
        parts.clear()
    (auto, grads), (floats, float_grads) = steps["auto"], steps["fp32"]
    assert int(auto.fired.sum()) > 1000
    flipped = int((auto.fired - floats.fired).abs().sum())  # within a rounding of the bound; none, with this seed here
    assert flipped <= 2
    for name, gradient in float_grads.items():
        assert (grads[name] - gradient).norm() <= (0.05 if flipped else 1e-5) * gradient.norm() + 1e-7
