"""A step's pieces: codes cut up and joined, and memory that is kept, change no number beyond the order of sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.dictionaries import ReLUConfig, TopKConfig
from polyseme.dictionaries.engine import pieces, selection, step
from polyseme.dictionaries.engine.entries import DenseTile, Gradients, SparseEntries, concatenated
from polyseme.dictionaries.engine.selection import Encoder
from polyseme.kernels import compiled
from polyseme.kernels.tuning import Tuning
from polyseme.kernels.workspace import reuse_buffers, scratch
from tests.dictionaries.reference import SMALL, make_batch, scramble


@st.composite
def codes(draw):
    rows, n = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    on = torch.rand(rows, n, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), on.sum(1).cumsum(0)])
    dense = torch.where(on, torch.rand(rows, n, generator=generator) + 0.1, 0.0)
    return SparseEntries(dense[on], on.nonzero()[:, 1].to(torch.int32), offsets, n, ascending=True), dense


def dense_of(entries):
    out = entries.pre.new_zeros(len(entries.offsets) - 1, entries.n_latents)
    out[entries.bags.long(), entries.indices.long()] = entries.pre
    return out


@settings(deadline=None)
@given(codes(), st.integers(1, 40))
def test_pieces_are_the_rows_in_order_and_join_to_the_whole(case, most):
    entries, dense = case
    parts = list(entries.pieces(most))
    assert [rows.start for rows, _ in parts] == [0, *(rows.stop for rows, _ in parts[:-1])]
    for rows, part in parts:
        assert torch.equal(dense_of(part), dense[rows])
    whole = concatenated([part for _, part in parts])
    assert torch.equal(dense_of(whole), dense)
    assert torch.equal(whole.offsets, entries.offsets)


@settings(deadline=None)
@given(codes(), st.data())
def test_entries_of_some_latents_or_under_other_names(case, data):
    entries, dense = case
    first = data.draw(st.integers(0, entries.n_latents))
    end = data.draw(st.integers(first, entries.n_latents))
    some, kept = entries.between(first, end)
    assert torch.equal(dense_of(some), dense[:, first:end])
    assert torch.equal(entries.pre[kept.long()], some.pre)
    names = torch.arange(3, 3 + 2 * entries.n_latents, 2, dtype=torch.int32)
    renamed = entries.renumbered(names, 2 * entries.n_latents + 3)
    assert torch.equal(dense_of(renamed)[:, names.long()], dense)
    assert renamed.pre.sum() == entries.pre.sum()


@settings(deadline=None)
@given(codes())
def test_gradients_at_some_rows_are_added_there(case):
    entries, dense = case
    n, rows = entries.n_latents, torch.randn(len(dense), 4)
    wanted = dense.T @ rows
    places = torch.randperm(2 * n)[: max(1, n - 1)]  # what is beyond them is dropped
    buffers = {"W": torch.full((2 * n, 4), 7.0)}
    grads = Gradients(buffers)
    grads.add("W", torch.ones(2 * n, 4))
    entries.outer("W", entries.pre, rows, grads.at(places))
    expected = torch.ones(2 * n, 4)
    expected[places] += wanted[: len(places)]
    torch.testing.assert_close(buffers["W"], expected)


@settings(deadline=None)
@given(codes(), st.data())
def test_a_block_of_a_dense_tile_has_its_latents_part_of_every_sum(case, data):
    _, pre = case
    rows, n = pre.shape
    first = data.draw(st.integers(0, n - 1))
    block = slice(first, data.draw(st.integers(first + 1, n)))
    g, weight, per_latent = torch.randn(rows, 5), torch.randn(n, 5), torch.randn(n)
    tile, inside = DenseTile(pre[:, block].clone(), block, n), torch.zeros_like(pre)
    inside[:, block] = pre[:, block]
    assert torch.equal(tile.take(per_latent), per_latent[block])
    torch.testing.assert_close(tile.decode(tile.pre, weight), inside @ weight)
    torch.testing.assert_close(tile.dot(g, weight), g @ weight[block].T)
    torch.testing.assert_close(tile.by_latent(tile.pre), inside.sum(0))
    buffers = {"W": torch.full((n, 5), 7.0)}
    grads = Gradients(buffers)
    for part in (slice(0, block.start), block, slice(block.stop, n)):  # rows of a gradient are begun in order
        if part.start < part.stop:
            DenseTile(inside[:, part], part, n).outer("W", inside[:, part], g, grads)
    torch.testing.assert_close(buffers["W"], inside.T @ g)
    tile.outer("W", tile.pre, g, grads)
    torch.testing.assert_close(buffers["W"], 2 * inside.T @ g)


@pytest.mark.parametrize("selection_", ["fp32", "auto"])
def test_an_encoder_of_some_latents_is_that_of_their_rows(selection_):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((400, 64), (5000, 64), (5000,)))
    some = torch.randperm(5000, generator=generator)[:2500].sort().values
    where_they_are = Encoder(x, weight, bias[some], selection_, some)
    copied = Encoder(x, weight[some], bias[some], selection_)
    assert where_they_are.n_latents == 2500
    for choose in (
        lambda encoder: selection.select_top_k(encoder, 7, ascending=True),
        lambda encoder: selection.select_top_k(encoder, 700, ascending=True),
        lambda encoder: selection.select_above(encoder, 11.0),
        lambda encoder: selection.select_batch_top_k(encoder.rows(slice(100, 300)), 5, 0.0),
    ):
        a, b = choose(where_they_are), choose(copied)
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.offsets, b.offsets)
        assert torch.equal(a.pre, b.pre)
        assert len(a.pre) > 0


def test_rows_with_many_entries_and_rows_with_few_are_pieces_of_one_batch():
    tuning = Tuning(block=(32, 48), most_entries=100)
    dictionary = ReLUConfig(n_latents=200).build(16, seed=0, dtype=torch.float64, tuning=tuning)
    dictionary.parameters()["b_enc"].fill_(-0.35)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 16, generator=generator, dtype=torch.float64)
    x[100:180] *= 9  # half of all latents are active there, a few elsewhere
    encoder = dictionary._encoder(x.clone())
    of_rows = list(pieces.pieces(encoder, dictionary._activation))
    assert [rows.start for rows, _ in of_rows] == [0, *(rows.stop for rows, _ in of_rows[:-1])]
    assert of_rows[-1][0].stop == 300
    found = torch.zeros(300, 200, dtype=torch.float64)
    many = torch.zeros(300, dtype=torch.bool)
    for rows, codes in of_rows:
        if isinstance(codes, Encoder):
            many[rows] = True
            assert len(codes.x) <= 16
        else:
            found[rows] = dense_of(codes)
            assert len(codes.pre) <= 100 + 8 * 30  # what 8 rows, the fewest asked for, may have
    assert many[110:170].all()
    assert not many[:68].any()  # rows are asked for 32 at most at a time
    assert not many[212:].any()
    wanted = (x @ encoder.weight.T + encoder.bias).clamp(min=0)
    torch.testing.assert_close(found[~many], wanted[~many])


def test_elsewhere_than_on_a_cpu_a_piece_is_the_batch_and_a_block_is_large():
    def nowhere(*shape):
        return torch.empty(shape, device="meta")

    activation = ReLUConfig(n_latents=20_000).activation(nowhere(20_000), 1.0)
    encoder = Encoder(nowhere(4096, 8), nowhere(20_000, 8), nowhere(20_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(activation), "select", lambda *_, **__: None)
        (rows, whole), *others = pieces.pieces(encoder, activation)
    assert (rows, others) == (slice(0, 4096), [])
    assert isinstance(whole, Encoder)
    found = [(rows, latents, products.shape) for rows, latents, products in whole.blocks()]
    assert found == [
        (slice(0, 4096), slice(0, 8192), (4096, 8192)),
        (slice(0, 4096), slice(8192, 16_384), (4096, 8192)),
        (slice(0, 4096), slice(16_384, 20_000), (4096, 3616)),
    ]


def test_room_is_the_same_memory_only_while_it_is_kept():
    like, wide = torch.zeros(6, 4), torch.zeros(9, 5)
    assert scratch("a", like, torch.float32).data_ptr() != like.data_ptr()
    with reuse_buffers():
        first = scratch("a", like, torch.float32)
        assert scratch("a", like, torch.float32).data_ptr() == first.data_ptr()
        assert scratch("b", like, torch.float32).data_ptr() != first.data_ptr()
        large = scratch("a", wide, torch.float64)
        assert large.shape == wide.shape
        assert large.dtype == torch.float64
        assert scratch("a", like, torch.float32).data_ptr() == large.data_ptr()
        with reuse_buffers():
            assert scratch("a", like, torch.float32).data_ptr() != large.data_ptr()
    held = scratch("a", like, torch.float32)
    assert scratch("a", like, torch.float32).data_ptr() != held.data_ptr()


def test_steps_whose_room_is_kept_are_bit_for_bit_those_without():
    for name in sorted(SMALL):
        results = []
        for kept in (False, True):
            dictionary = SMALL[name](40, 4).build(7, seed=1)
            scramble(dictionary, 1)
            batches = [torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows)) for rows in (30, 12, 30)]
            stats = []

            def steps(dictionary=dictionary, batches=batches, stats=stats):
                for x in batches:
                    before = x.clone()
                    found = dictionary.accumulate(make_batch(x), progress=0.0, dead=None, coefficient=0.3)
                    assert torch.equal(x, before)
                    stats.append((found.loss.clone(), found.sse.clone(), found.fired.clone()))

            if kept:
                with reuse_buffers():
                    steps()
            else:
                steps()
            gradients = [parameter.grad.clone() for parameter in dictionary.parameters().values()]
            results.append([*gradients, *(value for each in stats for value in each)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), name


def test_a_step_with_many_entries_holds_few_at_a_time(monkeypatch):
    seen, real = [], step.from_entries
    monkeypatch.setattr(step, "from_entries", lambda codes, *rest: seen.append(len(codes.pre)) or real(codes, *rest))
    dictionary = TopKConfig(n_latents=64, k=20).build(8, seed=0, tuning=Tuning(most_entries=500))
    dictionary.accumulate(make_batch(torch.randn(200, 8)), progress=0.0, dead=None, coefficient=0.0)
    assert sum(seen) > 3000
    assert max(seen) <= 520


def test_a_guess_far_too_low_is_given_up_before_its_entries_are_kept(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(
        torch.randn(600, 16, generator=generator), torch.randn(3000, 16, generator=generator), torch.zeros(3000)
    )
    most, real = [], compiled.Above.finish
    monkeypatch.setattr(compiled.Above, "finish", lambda self: most.append(self.n_entries) or real(self))
    low, good = (selection.select_batch_top_k(encoder, 5, guess) for guess in (1e-6, 12.0))
    assert torch.equal(low.pre, good.pre)
    assert torch.equal(low.indices, good.indices)
    if most:  # the compiled loops are there
        assert max(most) < 20_000  # of 900,000 above the guess
