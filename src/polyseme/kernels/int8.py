"""Selection by products of 8-bit integers, with a proof for each row that float32 would choose the same.

Products of bytes take a third to a half of the time that products of floats take, on processors with an instruction for
them (AVX-512 VNNI). With both factors rounded to whole steps, x̂ and ŵ,

    x w + b ≤ x̂ ŵ + b + ‖x‖ ‖w − ŵ‖ + ‖x − x̂‖ (‖w‖ + ‖w − ŵ‖)

by Cauchy and Schwarz, and all norms on the right are computed, not estimated. So an entry whose upper bound does not
exceed the bound need not be looked at, and the few others are scored in float32: what is returned are float32's own
values, and the only difference from a float32 product is the order of its sums. For normal vectors the two errors
together are 0.33 standard deviations of a pre-activation at d = 512, and some 90 of 8,192 latents are scored to find
32; in a trained dictionary, whose largest stand out, 50.

A column that is large throughout (a residual stream's outlier) would cost every other column its precision, so columns
are scaled by powers of two first, which changes no product. A row with more candidates than it has places for is not
proven, and its caller encodes it in float32. `int8.c` is the loop.
"""

from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.kernels import library as native
from polyseme.kernels.loops import Loop

_WIDE = 32
"""Latents of a panel (`int8.c`)."""

_TALL, _UNIT = 12, 384
"""Rows that are multiplied at once, and that are worked on together at most (`int8.c`)."""

_CACHED_BYTES = 2**19
"""Bytes of a unit's rows: half of a second-level cache."""

MOST_COLUMNS = 2**16
"""Largest number of columns of a product, whose sums of bytes then fit 32 bits."""

_MOST_ROOM = 2**23
"""Places of a row (`int8.c`)."""

LARGEST = 1e15
"""Largest length of a vector: products of longer ones might overflow (`int8.c`)."""


_PACK = Loop(
    "polyseme_int8_pack",
    "panels",
    "weight:f32[n,d] columns:f32[d] bias:f32[n] n:i64 d:i64 depth:i64 packed:u8[panels*depth*32] steps:f32[panels*32] "
    "roundings:f32[panels*32] lengths:f32[panels*32] raised:f32[panels*32]",
)
_FIND = Loop(
    "polyseme_int8_find",
    "rows",
    "x:f32[rows,d] columns:f32[d] weight:f32[n,d] bias:f32[n] packed:u8[bytes] steps:f32[padded] roundings:f32[padded] "
    "lengths:f32[padded] raised:f32[padded] bounds:f32[padded]? n:i64 d:i64 depth:i64 large_rounding:f32 "
    "large_length:f32 k:i64 room:i64 run:i64 values:f32[rows,k] latents:i32[rows,k] counts:i64[rows] scored:i64[rows]",
)


class Found(NamedTuple):
    """What was found in some rows.

    Attributes:
        values: pre-activations.
        latents: theirs, ascending in a row.
        counts: how many of them there are in each row; -1 in one that is not proven.
        scored: how many were looked at in float32.
    """

    values: Float[Tensor, "rows places"]
    latents: Int[Tensor, "rows places"]
    counts: Int[Tensor, " rows"]
    scored: Int[Tensor, " rows"]


def candidates(n: int, d: int, k: int) -> float:
    """Latents that are scored to find the k largest of n normal pre-activations: n Q(Q⁻¹(k / n) − 0.0145 √d).

    0.0145 √d are the two errors together, in standard deviations: a normal vector's rounding is 0.0073 of its length.
    """
    if k >= n:
        return n
    normal = NormalDist()
    return n * normal.cdf(0.0145 * d**0.5 - normal.inv_cdf(1 - k / n))


class Int8:
    """An encoder's weights as bytes.

    Args:
        x: vectors like those that will be asked about.
        weight, bias: of the encoder.
    """

    def __init__(self, x: Float[Tensor, "batch d"], weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"]):
        self._weight, self._bias = weight, bias
        self._n, self._d = weight.shape
        if not 0 < self._d <= MOST_COLUMNS:
            raise InputError(f"{self._d} columns", where="Int8", fix=f"use float32 for more than {MOST_COLUMNS}")
        self._depth, panels = -(-self._d // 4) * 4, -(-self._n // _WIDE)
        self._shape = {"n": self._n, "d": self._d, "depth": self._depth}
        scale = self._columns(x)
        self._inverse = scale.reciprocal()
        packed = torch.empty(panels * self._depth * _WIDE, dtype=torch.uint8, device="cpu")
        norms = torch.empty(4, panels * _WIDE, dtype=torch.float32, device="cpu")
        self._packed = dict(zip(("steps", "roundings", "lengths", "raised"), norms, strict=True)) | {"packed": packed}
        _PACK(panels, weight=weight, columns=scale, bias=bias, **self._shape, **self._packed)
        roundings, lengths = norms[1, : self._n], norms[2, : self._n]
        some = slice(None, None, max(1, self._n // 1024))
        # For bars, that shall be low enough for nearly all rows; nothing is proven by them.
        self._large = tuple(float(norms[some].quantile(0.95)) for norms in (roundings, lengths + roundings))
        self.is_finite = bool(lengths.max() < LARGEST)
        """False: no row can be proven, for a weight is not finite, or is too large."""

    @staticmethod
    def pays(rows: int, n: int, d: int, k: int | None = None) -> bool:
        """Whether this processor multiplies bytes, and shapes are such that it is of use (with compiled loops there).

        Packing takes as long as the products of some tens of rows. Scores take what the products save where a twentieth
        of the latents are candidates: measured gains are up to a share of 0.034 (512 × 2,048, k = 32), ties and losses
        from 0.041 (64 × 512, k = 16; 4,096 × 8,192 and 224 × 1,024, k = 32).

        Args:
            rows, n, d: of the product.
            k: of `top_k`; None for `above`, whose share only its rows can show.
        """
        worth = rows >= 256 and n >= 2048 and 64 <= d <= MOST_COLUMNS
        if worth and k is not None:
            worth = candidates(n, d, k) <= 0.035 * n
        return worth and bool(native.loaded().polyseme_int8_supported())

    def _columns(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, " d"]:
        """Powers of two halfway between what would make x's columns alike and what would make W's (in some rows).

        About the median: where columns are alike already, none is to be twice another by chance.
        """
        of_x, of_weight = (t[:: max(1, len(t) // 256)].square().mean(0).sqrt() for t in (x, self._weight))
        ratio = of_x / of_weight
        scale = (ratio / ratio.nanmedian()).log2().div(2).round().exp2()
        return torch.where(scale.isfinite() & (scale > 1e-9) & (scale < 1e9), scale, 1.0)

    def top_k(self, x: Float[Tensor, "rows d"], k: int) -> Found:
        """The k largest positive pre-activations of each vector."""
        # On the way bars are lower than at the end, and data need not be normal.
        room = max(8 * k, self._n // 32, int(3 * candidates(self._n, self._d, k)))
        return self._find(x, k, room + 2 * _WIDE, None)

    def above(self, x: Float[Tensor, "rows d"], bounds: Float[Tensor, " n"], room: int) -> Found:
        """All pre-activations above their latents' bounds; a row with more than `room` is not proven."""
        padded = bounds.new_zeros(len(self._packed["steps"]))
        padded[: self._n] = bounds
        return self._find(x, room + 2 * _WIDE, room + 2 * _WIDE, padded)

    def _find(self, x: Float[Tensor, "rows d"], k: int, room: int, bounds: Tensor | None) -> Found:
        rows, room = len(x), min(room, _MOST_ROOM)
        values, latents = (torch.empty(rows, k, dtype=t, device="cpu") for t in (torch.float32, torch.int32))
        counts, scored = torch.empty(2, rows, dtype=torch.int64, device="cpu")
        assert bounds is None or k >= room, "a row keeps what it has room for"
        _FIND(
            rows,
            x=x,
            columns=self._inverse,
            weight=self._weight,
            bias=self._bias,
            bounds=bounds,
            **self._packed,
            **self._shape,
            large_rounding=self._large[0],
            large_length=self._large[1],
            k=k,
            room=room,
            run=self._run(rows),
            **Found(values, latents, counts, scored)._asdict(),
        )
        return Found(values, latents, counts, scored)

    def _run(self, rows: int) -> int:
        """Rows of a unit: their x shall stay in a second-level cache, and all threads shall get as many units."""
        most, threads = min(_UNIT, _CACHED_BYTES // (4 * self._d)), torch.get_num_threads()
        units = threads * -(-rows // (threads * most))
        return min(_UNIT, -(-rows // (units * _TALL)) * _TALL)
