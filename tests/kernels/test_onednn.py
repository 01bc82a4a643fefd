"""oneDNN's linear map in pieces: equal to the whole one for every number of rows, and of few shapes."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.kernels import onednn

linear = onednn.operation(torch.float32)
pytestmark = pytest.mark.skipif(linear is None, reason="this torch has no oneDNN linear")


@settings(deadline=None)
@given(rows=st.integers(1, 700), batch=st.integers(1, 3), transposed=st.booleans(), kept=st.booleans())
def test_any_number_of_rows(rows, batch, transposed, kept):
    assert linear is not None
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(batch, rows, 24, generator=generator)
    if transposed:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    weight, bias = torch.randn(10, 24, generator=generator), torch.randn(10, generator=generator)
    out = torch.full((batch * rows, 10), torch.nan) if kept else None
    got = linear(x, weight, bias, "relu", "", out)
    torch.testing.assert_close(got, torch.relu(x @ weight.T + bias), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 10**6))
def test_pieces_are_the_rows_in_order_and_of_few_sizes(n):
    pieces = list(onednn._pieces(n))
    assert pieces[0].start == 0
    assert all(a.stop == b.start for a, b in itertools.pairwise(pieces))
    assert 0 <= pieces[-1].stop - n < onednn.LEAST_ROWS
    sizes = [piece.stop - piece.start for piece in pieces]
    assert sizes == [n] or set(sizes) <= {16, 64, 256, *(2**i for i in range(10, 17))}
    assert sizes == sorted(sizes, reverse=True)
    # As few as can be, but for a padded last one.
    assert all(sizes[:-1].count(size) < (4 if size < 1024 else 2) for size in sizes[:-1] if size < onednn.MOST_ROWS)


def test_shapes_are_few_and_a_large_power_of_two_is_one_product():
    shapes = []

    def private(x, weight, *_):
        shapes.append(tuple(x.shape))
        return x @ weight.T

    weight = torch.randn(3, 5)
    for rows in range(1, 600):
        x = torch.randn(rows, 5)
        assert torch.allclose(onednn._by_pieces(private, x, weight, None), x @ weight.T, rtol=1e-4, atol=1e-5)
    assert set(shapes) == {(2**i, 5) for i in range(4, 10)}
    shapes.clear()
    onednn._by_pieces(private, torch.randn(4, 512, 5), weight, None)
    assert shapes == [(2048, 5)]
