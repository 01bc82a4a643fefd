"""Two fused operations of the training step as Triton kernels, for CUDA; importing this module imports triton.

torch already does the rest well there: `mm` and `topk`, and, in one pass each and without atomics, `embedding_bag` and
its per-sample-weights backward. What it cannot do is keep a result where the next operation wants it. Counted from the
shapes (bytes requested, many of which come from a cache; no times), float32, B = 4,096, d = 512, k = 32, 8,192 latents:
- `residual_and_dot`: three calls read and write 800 MiB, 512 of them for the dots, which read the residual's row again
  for every entry. With that row in registers, and Σ f W never written, it is 528 MiB.
- `sum_by_latent`: `embedding_bag` makes a tensor of its own, and copying that into the gradient moves 32 MiB more, for
  each of two gradients a step; cutting it in tiles makes the processor wait; torch's sums in place are atomic.

One program has one row or latent (and a block of columns) to itself, without atomics: the same bits on every run and
whatever else is in the batch. (Triton compiles a kernel again for tensors that do not begin at 16 bytes, as a slice may
not, and may then add in another order.) Indices and offsets are not looked into, which would mean waiting for the
device: entries out of range are undefined behaviour.
"""

import importlib
from collections.abc import Sequence
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.errors import InputError

# Without types of its own, and absent from most machines: modules of type Any are all a type checker can have of it.
triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

WIDEST = 4096
"""Columns of a row that one program holds in registers, 16 a thread; wider residuals go through memory."""

BLOCK = 256
"""Columns of a program that shares its row or latent: enough programs, also where few latents have most entries."""


# The compiler reads a kernel's source, not its annotations; a run-time type checker, which would wrap it, is kept out.


@triton.jit
@no_type_check
def _tile(weight, indices, entries, real, columns, d):
    """weight[indices[entries]] in `columns`: zeros, and nothing read, where an entry or a column is none."""
    starts = tl.load(indices + entries, mask=real, other=0).to(tl.int64) * d
    return tl.load(weight + starts[:, None] + columns[None, :], mask=real[:, None] & (columns < d)[None, :], other=0.0)


@triton.jit
@no_type_check
def _weighted(weight, indices, values, start, stop, columns, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    """Σ values × weight[indices] over the entries from `start` to `stop`, in `columns`."""
    total = tl.zeros([COLUMNS], dtype=weight.dtype.element_ty)
    for first in range(start, stop, ENTRIES):
        entries = first + tl.arange(0, ENTRIES)
        real = entries < stop
        value = tl.load(values + entries, mask=real, other=0.0)
        total += tl.sum(value[:, None] * _tile(weight, indices, entries, real, columns, d), axis=0)
    return total


@triton.jit
@no_type_check
def _sums(weight, indices, starts, values, goal, out, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    """One program for each sum and block of columns; less `goal` where there is one."""
    bag = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, stop = tl.load(starts + bag), tl.load(starts + bag + 1)
    total = _weighted(weight, indices, values, start, stop, columns, d, ENTRIES, COLUMNS)
    places = bag.to(tl.int64) * d + columns
    if goal is not None:
        total -= tl.load(goal + places, mask=columns < d, other=0.0)
    tl.store(out + places, total, mask=columns < d)


@triton.jit
@no_type_check
def _residuals_and_dots(
    weight, indices, offsets, values, goal, residual, dots, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr
):
    """One program a row, whose residual never leaves its registers before the dots."""
    row = tl.program_id(0)
    columns = tl.arange(0, COLUMNS)
    start, stop = tl.load(offsets + row), tl.load(offsets + row + 1)
    places = row.to(tl.int64) * d + columns
    own = _weighted(weight, indices, values, start, stop, columns, d, ENTRIES, COLUMNS)
    own -= tl.load(goal + places, mask=columns < d, other=0.0)
    tl.store(residual + places, own, mask=columns < d)
    for first in range(start, stop, ENTRIES):
        entries = first + tl.arange(0, ENTRIES)
        real = entries < stop
        dot = tl.sum(own[None, :] * _tile(weight, indices, entries, real, columns, d), axis=1)
        tl.store(dots + entries, dot, mask=real)


@triton.jit
@no_type_check
def _dots(weight, indices, offsets, residual, dots, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    """One program a row, too wide for registers."""
    row = tl.program_id(0)
    start, stop = tl.load(offsets + row), tl.load(offsets + row + 1)
    for first in range(start, stop, ENTRIES):
        entries = first + tl.arange(0, ENTRIES)
        real = entries < stop
        dot = tl.zeros([ENTRIES], dtype=weight.dtype.element_ty)
        for left in range(0, d, COLUMNS):
            columns = left + tl.arange(0, COLUMNS)
            own = tl.load(residual + row.to(tl.int64) * d + columns, mask=columns < d, other=0.0)
            dot += tl.sum(own[None, :] * _tile(weight, indices, entries, real, columns, d), axis=1)
        tl.store(dots + entries, dot, mask=real)


def residual_and_dot(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " row_plus_1"],
    values: Float[Tensor, " entry"],
    goal: Float[Tensor, "row d"],
    out: Float[Tensor, "row d"] | None = None,
) -> tuple[Float[Tensor, "row d"], Float[Tensor, " entry"]]:
    """r_b = Σ_e values_e weight[indices_e] − goal_b over row b's entries, and ⟨r_b, weight[indices_e]⟩ of each.

    Args:
        weight: the decoder, float32 or float64 as all that is not int32.
        indices: latent of each entry, int32, row by row.
        offsets: start of each row's entries, and the end, int32.
        values: of each entry.
        goal: what the sums are to be.
        out: contiguous; r is written there.

    Raises:
        InputError: for shapes, types or devices that do not go together.
    """
    _check(
        "residual_and_dot",
        [("weight", weight, "n d"), ("values", values, "E"), ("goal", goal, "B d")],
        [("indices", indices, "E"), ("offsets", offsets, "B+1")],
    )
    weight, indices, offsets, values, goal = (t.contiguous() for t in (weight, indices, offsets, values, goal))
    rows, d = goal.shape
    residual, dots = torch.empty_like(goal) if out is None else out, torch.empty_like(values)
    assert residual.is_contiguous()
    if rows == 0:
        return residual, dots
    with torch.cuda.device_of(weight):
        if d <= WIDEST:
            launch = _launch(triton.next_power_of_2(d))
            _residuals_and_dots[(rows,)](weight, indices, offsets, values, goal, residual, dots, d, **launch)
        else:
            launch, blocks = _launch(BLOCK), triton.cdiv(d, BLOCK)
            _sums[(rows, blocks)](weight, indices, offsets, values, goal, residual, d, **launch)
            _dots[(rows,)](weight, indices, offsets, residual, dots, d, **launch)
    return residual, dots


def sum_by_latent(
    rows: Float[Tensor, "row d"],
    bags: Int[Tensor, " entry"],
    starts: Int[Tensor, " latent_plus_1"],
    values: Float[Tensor, " entry"],
    out: Float[Tensor, "latent d"],
) -> None:
    """out_j = Σ_e values_e rows[bags_e] over latent j's entries; zeros for a latent without.

    Args:
        rows: what is summed, float32 or float64 as all that is not int32.
        bags: row of each entry, int32, latent by latent.
        starts: of each latent's entries, and the end, int32.
        values: of each entry.
        out: overwritten; contiguous.

    Raises:
        InputError: for shapes, types or devices that do not go together, or an `out` with gaps.
    """
    _check(
        "sum_by_latent",
        [("rows", rows, "B d"), ("values", values, "E"), ("out", out, "m d")],
        [("bags", bags, "E"), ("starts", starts, "m+1")],
    )
    if not out.is_contiguous():
        raise InputError("out is not contiguous", where="sum_by_latent", fix="give whole rows of a contiguous tensor")
    latents, d = out.shape
    if latents == 0:
        return
    rows, bags, starts, values = (t.contiguous() for t in (rows, bags, starts, values))
    columns = min(BLOCK, triton.next_power_of_2(d))
    with torch.cuda.device_of(rows):
        _sums[(latents, triton.cdiv(d, columns))](rows, bags, starts, values, None, out, d, **_launch(columns))


def _launch(columns: int) -> dict[str, int]:
    """How a program of this many columns is made: four of them a thread, and entries to fill 32 registers a thread.

    Several entries at once, since each is a read that waits for the read of its index. Whether a product is rounded
    before it is added is said here, since Triton's default is not the same in every version.
    """
    warps = min(8, max(1, columns // 128))
    entries = min(16, max(1, 1024 * warps // columns))
    return {"COLUMNS": columns, "ENTRIES": entries, "num_warps": warps, "enable_fp_fusion": True}


def _check(where: str, reals: Sequence[tuple[str, Tensor, str]], integers: Sequence[tuple[str, Tensor, str]]) -> None:
    """Refuse what does not fit together: a kernel would read beyond a tensor's end without a word.

    Args:
        where: the operation.
        reals, integers: name, tensor and axes of each argument; an axis has one size wherever it stands.
    """
    first = reals[0][1]
    sizes: dict[str, int] = {}
    for kind, arguments in ((first.dtype, reals), (torch.int32, integers)):
        for name, tensor, axes in arguments:
            wanted = axes.split()
            fits = tensor.dim() == len(wanted)
            for axis, size in zip(wanted, tensor.shape, strict=False):
                size -= axis.endswith("+1")
                fits &= sizes.setdefault(axis.removesuffix("+1"), size) == size
            if not fits:
                known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
                raise InputError(
                    f"{name} is {list(tensor.shape)}, not [{', '.join(wanted)}] with {known}",
                    where=where,
                    fix="give tensors of one set of entries",
                )
            if tensor.dtype != kind or tensor.device != first.device:
                raise InputError(
                    f"{name} is {tensor.dtype} on {tensor.device}, not {kind} on {first.device}",
                    where=where,
                    fix=f"move it there with .to({kind}), or to the device the others are on",
                )
    if first.dtype not in (torch.float32, torch.float64):
        raise InputError(f"sums in {first.dtype} are not exact enough", where=where, fix="use float32")
