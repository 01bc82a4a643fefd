"""oneDNN's linear map, by an operation private to torch: looked for, tried out, and kept from filling the memory.

oneDNN builds a primitive for every shape that it meets and keeps the last thousand, each with room for packed operands:
512 × 512 weights and 1 to 1,000 rows came to 1.1 GiB. So rows are cut into powers of four, of two from 1,024 on, and
shapes are few.
"""

import functools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyseme.kernels.shield import shielded

LEAST_ROWS, MOST_ROWS = 16, 2**16
"""Rows of a product: fewer are padded with zeros, more are cut."""

_Linear = Callable[..., Tensor]


@functools.cache
@shielded
def operation(dtype: torch.dtype) -> _Linear | None:
    """x Wᵀ + b for x `[*batch, d]`, W `[n, d]` (of any strides) and b `[n]`, with a non-linearity in its epilogue.

    It is called as (x, W, b, attribute, algorithm, out): `none`, `relu`, `swish`, or `gelu` by `none` or `tanh`; `out`
    is where the result may be, but need not. None where torch has no such operation in this precision, or where it does
    not do what it should: it is tried out on a small product with every epilogue first.
    """
    private = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    if private is None or dtype not in (torch.float32, torch.bfloat16):
        return None
    expected = {
        ("none", ""): lambda y: y,
        ("relu", ""): torch.relu,
        ("swish", ""): nn.functional.silu,
        ("gelu", "none"): nn.functional.gelu,
        ("gelu", "tanh"): functools.partial(nn.functional.gelu, approximate="tanh"),
    }
    x, weight, bias = (torch.linspace(-2, 3, n, dtype=dtype) for n in (12, 20, 5))
    x, weight = x.view(3, 4), weight.view(4, 5).t()
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return None
        product = nn.functional.linear(x.float(), weight.float(), bias.float())
        for (attribute, algorithm), function in expected.items():
            y = private(x, weight, bias, attribute, [], algorithm).float()
            if not torch.allclose(y, function(product), rtol=tolerance, atol=tolerance):
                return None
    except (RuntimeError, TypeError, AttributeError):  # not on this processor, or with other arguments than today's
        return None
    return functools.partial(_by_pieces, private)


@functools.cache
def is_fastest() -> bool:
    """Whether its product of floats beats the one torch uses: on AMD processors, twofold."""
    try:
        cpu = Path("/proc/cpuinfo").read_text(errors="replace") if platform.system() == "Linux" else ""
    except OSError:
        return False
    return "AuthenticAMD" in cpu and operation(torch.float32) is not None


def _by_pieces(
    private: Any,
    x: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"] | None,
    attribute: str = "none",
    algorithm: str = "",
    out: Float[Tensor, "rows n"] | None = None,
) -> Float[Tensor, "*batch n"]:
    rows = x.reshape(-1, x.shape[-1])
    pieces = list(_pieces(len(rows)))
    if pieces == [slice(0, len(rows))]:
        y = private(rows, weight, bias, attribute, [], algorithm)
        return y.view(*x.shape[:-1], len(weight))
    y = rows.new_empty(len(rows), len(weight)) if out is None else out
    for piece in pieces:
        part = rows[piece]
        missing = piece.stop - piece.start - len(part)
        part = nn.functional.pad(part, (0, 0, 0, missing)) if missing else part
        product = private(part, weight, bias, attribute, [], algorithm)
        y[piece] = product[: len(product) - missing]
    return y.view(*x.shape[:-1], len(weight))


def _pieces(n: int) -> Iterator[slice]:
    """0..n whole where it is a power of two; else in powers of four, of two from 1,024 on, the largest first; the last
    may end beyond n."""
    if n.bit_count() == 1 and LEAST_ROWS <= n <= MOST_ROWS:
        yield slice(0, n)
        return
    start, size = 0, MOST_ROWS
    while start < n:
        if n - start >= size or size == LEAST_ROWS:
            yield slice(start, start + size)
            start += size
        else:
            size //= 2 if size > 1024 else 4
