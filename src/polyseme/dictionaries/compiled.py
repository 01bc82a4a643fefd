"""The inner loops of a training step in C (`kernels.c`), where they were built and a CPU in float32 asks for them.

They are three, for what takes longest beside the encoder's product and has no operation in torch: the k largest of each
row while the product comes block by block (torch's `topk` looks at every number some four times, this once, in cache);
a reconstruction together with the products that its gradient needs (the decoder's rows are still in cache); and sums of
rows. Everything works without them: `kernels` and `selection` ask `usable` and go by torch's operations otherwise.

The library is built when the package is (`hatch_build.py`), once for each level of vector instructions. It starts no
threads: it borrows the pool that torch itself uses, by the function that compiled OpenMP code calls.
"""

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEVELS = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
"""What torch calls a processor's abilities, and the build for it; any other takes `BASE`."""
BASE = "base"

_COLUMNS_BETWEEN = 80
"""Places that a row must have left: a stride of 64 columns and a vector of 16 (`kernels.c`)."""


def library(level: str) -> Path:
    """Where the build for a level lies, or would lie."""
    return Path(__file__).with_name(f"_kernels_{level}.so")


class _Pool(ctypes.Structure):
    _fields_ = (("fork", ctypes.c_void_p), ("threads", ctypes.c_int64))


class _Top(ctypes.Structure):
    _fields_ = (
        ("tile", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("first", ctypes.c_int32),
        ("k", ctypes.c_int64),
        ("room", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("latents", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("bounds", ctypes.c_void_p),
    )


class _Bags(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("indices", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("goal", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("dots", ctypes.c_void_p),
        ("d", ctypes.c_int64),
    )


@functools.cache
def _fork() -> int | None:
    """Address of the fork of the OpenMP that torch has loaded; None where it cannot be found."""
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace") if sys.platform == "linux" else ""
    except OSError:
        return None
    paths = dict.fromkeys(line.split(maxsplit=5)[-1].rstrip() for line in maps.splitlines() if "/" in line)
    for path in paths:
        if any(name in Path(path).name for name in ("libgomp", "libiomp5", "libomp")):
            fork = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
            if fork is not None:
                return ctypes.cast(fork, ctypes.c_void_p).value
    return None


@functools.cache
def _loaded(capability: str) -> Any:
    """The library for what torch says the processor can do, or None where it was not built or does not load."""
    path = library(LEVELS.get(capability, BASE))
    try:
        return ctypes.CDLL(str(path)) if path.exists() else None
    except OSError:
        return None


def usable(*tensors: Tensor) -> bool:
    """Whether the library is there and takes these: float32 on a CPU."""
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in tensors):
        return False
    if _loaded(torch.backends.cpu.get_cpu_capability()) is None:
        return False
    return torch.get_num_threads() == 1 or _fork() is not None


def _call(name: str, args: ctypes.Structure, n: int) -> None:
    pool = _Pool(_fork() or 0, torch.get_num_threads())
    function = getattr(_loaded(torch.backends.cpu.get_cpu_capability()), name)
    function(ctypes.byref(pool), ctypes.byref(args), ctypes.c_int64(n))


class TopK:
    """The k largest positive pre-activations of each row, taken in block by block of latents.

    A row holds candidates in places of its own; when they are full the k largest are kept and the kth becomes the
    bound that later ones must exceed. So a number is compared once, and few are moved.

    Args:
        rows: how many.
        k: entries a row, at most.
    """

    def __init__(self, rows: int, k: int):
        self._k = k
        self._room = self.places(k)
        self._values = torch.empty(rows, self._room)
        self._latents = torch.empty(rows, self._room, dtype=torch.int32)
        self._counts = torch.zeros(rows, dtype=torch.int32)
        self._bounds = torch.zeros(rows)

    @staticmethod
    def places(k: int) -> int:
        """Candidates of a row that are held at a time, each of eight bytes."""
        return 2 * k + 2 * _COLUMNS_BETWEEN

    def take(self, rows: slice, tile: Float[Tensor, "rows block"], bias: Float[Tensor, " block"], first: int) -> None:
        """The products of `rows` with a block of latents, the first of which is `first`; blocks come in order."""
        values, latents, counts, bounds = (t[rows] for t in (self._values, self._latents, self._counts, self._bounds))
        self._call("polyseme_top_k_take", len(tile), tile.contiguous(), bias, first, values, latents, counts, bounds)

    def finish(self) -> tuple[Float[Tensor, " entry"], Int[Tensor, " entry"], Int[Tensor, " rows"]]:
        """Values, latents (ascending in a row, the first of equals) and entries a row, when all blocks were taken."""
        n = len(self._counts)
        self._call("polyseme_top_k_finish", n, None, None, 0, self._values, self._latents, self._counts, self._bounds)
        counts = self._counts.to(torch.int64)
        values, latents = self._values[:, : self._k], self._latents[:, : self._k]
        if int(self._counts.sum()) == n * self._k:
            return values.reshape(-1), latents.reshape(-1), counts
        kept = torch.arange(self._k) < self._counts[:, None]
        return values[kept], latents[kept], counts

    def _call(self, name: str, n: int, tile: Tensor | None, bias: Tensor | None, first: int, *state: Tensor) -> None:
        width = 0 if tile is None else tile.shape[1]
        inputs = [None if t is None else t.data_ptr() for t in (tile, bias)]
        _call(name, _Top(*inputs, width, first, self._k, self._room, *(t.data_ptr() for t in state)), n)


def sum_bags(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    values: Float[Tensor, " entry"],
    out: Float[Tensor, "bag d"],
) -> None:
    """Into `out`, for each bag of entries Σ values × weight[indices]; int32 indices and offsets."""
    _bags("polyseme_sum_bags", weight, indices, offsets, values, None, out, None)


def residual_and_dot(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    values: Float[Tensor, " entry"],
    goal: Float[Tensor, "bag d"],
) -> tuple[Float[Tensor, "bag d"], Float[Tensor, " entry"]]:
    """r = Σ values × weight[indices] − goal of each bag, and ⟨r, weight[index]⟩ of each entry."""
    residual, dots = torch.empty_like(goal), torch.empty_like(values)
    _bags("polyseme_residual_and_dot", weight, indices, offsets, values, goal, residual, dots)
    return residual, dots


def _bags(
    name: str,
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    values: Tensor,
    goal: Tensor | None,
    out: Tensor,
    dots: Tensor | None,
) -> None:
    assert indices.dtype == offsets.dtype == torch.int32
    tensors = (weight, indices, offsets, values, goal, out, dots)
    assert all(t is None or t.is_contiguous() for t in tensors)
    pointers = (None if t is None else t.data_ptr() for t in tensors)
    _call(name, _Bags(*pointers, weight.shape[1]), len(offsets) - 1)
