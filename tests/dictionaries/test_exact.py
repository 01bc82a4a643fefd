"""What a vector is encoded to depends on that vector alone: the same bits in any batch, by any route."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.dictionaries.engine import exact, selection
from polyseme.kernels.exact import exact_affine
from polyseme.kernels.tuning import Tuning
from tests.dictionaries.reference import SMALL, make_batch, scramble


def dictionary_and_vectors(name, n, d, k, rows, seed, *, trained=True, loops=True):
    """A dictionary off its start and vectors of it, one of them a hundred times as long as the others."""
    dictionary = SMALL[name](n, k).build(d, seed=seed, tuning=Tuning(loops=loops))
    x = 3 * torch.randn(rows, d, generator=torch.Generator().manual_seed(seed)) + 1
    dictionary.initialise(make_batch(x))
    scramble(dictionary, seed)
    if not dictionary.has_coefficient and trained:
        dictionary.accumulate(make_batch(x), progress=1.0, dead=None, coefficient=0.1)
        dictionary.after_step()
    elif dictionary.has_coefficient:
        p = dictionary.parameters()
        spread = p.get("W_enc", p["W_dec"]).norm(dim=1)
        p["b_enc"].sub_(2.2 * spread) if name != "jumprelu" else p["log_threshold"].copy_((2.2 * spread).log())
    x[rows // 3] *= 100
    return dictionary, x


def rows_of(z):
    ends = z.offsets.tolist()
    return [(z.indices[a:b], z.values[a:b]) for a, b in itertools.pairwise(ends)]


def assert_same_bits(dictionary, x, want, parts):
    """Every part of the vectors, encoded by itself, has the rows that `want` has, and is decoded to the same."""
    codes, out = rows_of(want), dictionary.decode(want)
    for part in parts:
        z = dictionary.encode(x[part])
        for row, (indices, values) in zip(part.tolist(), rows_of(z), strict=True):
            assert torch.equal(indices, codes[row][0])
            assert torch.equal(values, codes[row][1])
        assert torch.equal(dictionary.decode(z), out[part])


@pytest.fixture
def threads():
    """Sets their number, which is put back."""
    found = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(found)


@pytest.mark.parametrize("loops", ["compiled", "torch"])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_bits_do_not_depend_on_batch_or_threads_at_real_sizes(name, loops, threads):
    """Of shapes in which products of bytes, blocks, whole tiles and single rows are all taken."""
    dictionary, x = dictionary_and_vectors(name, 4096, 256, 32, 600, 0, loops=loops == "compiled")
    want = dictionary.encode(x)
    assert 4 < float(want.l0.median()) < 400
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for n_threads, size in ((1, 600), (2, 300), (2, 96), (1, 7), (2, 1)):
        threads(n_threads)
        some = order if size > 7 else order[:8]
        assert_same_bits(dictionary, x, want, some.split(size))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_bits_do_not_depend_on_how_latents_are_looked_for(name):
    dictionary, x = dictionary_and_vectors(name, 2048, 64, 16, 300, 2)
    want = dictionary.encode(x)
    for selection_, loops in (("fp32", True), ("auto", False)):
        config = SMALL[name](2048, 16).model_copy(update={"selection": selection_})
        other = config.build(64, seed=None, tuning=Tuning(loops=loops, tile_bytes=2**20, least_rows=1))
        for key, tensor in dictionary.tensors().items():
            other.tensors()[key].copy_(tensor)
        z = other.encode(x)
        assert torch.equal(z.indices, want.indices)
        assert torch.equal(z.offsets, want.offsets)
        assert torch.equal(z.values, want.values)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SMALL)), n=st.sampled_from([1, 3, 40, 130]), d=st.sampled_from([1, 5, 33]),
    k=st.sampled_from([1, 4, 30]), rows=st.sampled_from([2, 9, 40]), seed=st.integers(0, 10**6),
    twins=st.booleans(), trained=st.booleans(), size=st.integers(1, 40), loops=st.booleans(),
)  # fmt: skip
def test_bits_do_not_depend_on_the_batch(name, n, d, k, rows, seed, twins, trained, size, loops):
    dictionary, x = dictionary_and_vectors(name, n, d, min(k, n), rows, seed, trained=trained, loops=loops)
    if twins:  # exact ties between latents
        p = dictionary.parameters()
        for tensor in (p[key] for key in ("W_enc", "W_dec", "b_enc", "log_threshold") if key in p):
            tensor[1::2] = tensor[0 : len(tensor) // 2 * 2 : 2]
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    assert_same_bits(dictionary, x, dictionary.encode(x), order.split(size))


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 9), n=st.sampled_from([1, 5, 30, 200]), d=st.sampled_from([1, 3, 40]),
    k=st.sampled_from([1, 3, 20]), levels=st.sampled_from([1, 3, 1000]), shift=st.sampled_from([-3.0, 0.0, 1.0]),
    seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_selections_are_those_of_the_exact_products(rows, n, d, k, levels, shift, seed, dtype):
    """The k largest, of ties the lowest latents; and all above a bound: looked up among all exact pre-activations."""
    k, generator = min(k, n), torch.Generator().manual_seed(seed)
    x, weight = ((torch.randn(m, d, generator=generator) * levels).round().to(dtype) / levels for m in (rows, n))
    bias = torch.full((n,), shift, dtype=dtype)
    every, offsets = torch.arange(n, dtype=torch.int32).repeat(rows), torch.arange(0, rows * n + 1, n)
    pre = exact_affine(x, weight, bias, every, offsets).view(rows, n)
    encoder = selection.Encoder(x, weight, bias)

    found = exact.exact_top_k(encoder, k)
    dense = torch.zeros_like(pre)
    dense[found.bags.long(), found.indices.long()] = found.pre
    places = torch.sort(pre, dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(dense, torch.zeros_like(pre).scatter(1, places, pre.gather(1, places).relu()))

    for bound in (0.0, float(pre.median()), pre.mean(0)):
        found = exact.exact_above(encoder, bound)
        assert torch.equal(found.bags.long() * n + found.indices, (pre > bound).view(-1).nonzero().view(-1))
        assert torch.equal(found.pre, pre[pre > bound])


def test_a_near_tie_with_what_was_left_out_is_looked_through(monkeypatch):
    """Hundreds of latents that differ in their last bits only: the fast product cannot tell which are the largest."""
    generator, (rows, n, d, k) = torch.Generator().manual_seed(0), (40, 600, 64, 8)
    x, one = torch.randn(rows, d, generator=generator), torch.randn(d, generator=generator)
    weight = one + 1e-7 * torch.randn(n, d, generator=generator)
    encoder, looked = selection.Encoder(x, weight, torch.zeros(n)), []
    real = exact._look_through
    monkeypatch.setattr(exact, "_look_through", lambda *given: looked.append(int(given[2].sum())) or real(*given))
    found = exact.exact_top_k(encoder, k)
    pre = (x.double() @ weight.double().t()).float()
    positive = pre[:, 0] > 0
    assert looked[0] > 0.9 * int(positive.sum())
    best = pre.topk(k, dim=1).values[positive].flip(1)
    assert torch.equal(found.pre.view(-1, k).sort(1).values, best)


@pytest.mark.parametrize("d", [1, 7, 31, 32, 33, 300])
def test_exact_products_are_float64s_rounded_once(d):
    generator, (rows, n) = torch.Generator().manual_seed(d), (20, 50)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((rows, d), (n, d), (n,)))
    counts = torch.randint(0, n, (rows,), generator=generator)
    indices = torch.cat([torch.randperm(n, generator=generator)[:c].sort().values for c in counts]).to(torch.int32)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    got = exact_affine(x, weight, bias, indices, offsets)
    want = (x.double() @ weight.double().t() + bias.double()).float()
    assert torch.equal(got, want[torch.repeat_interleave(counts), indices.long()])
    for tuning in (Tuning(loops=False), Tuning(loops=False, tile_bytes=9000)):
        assert torch.equal(exact_affine(x, weight, bias, indices, offsets, tuning), got)
