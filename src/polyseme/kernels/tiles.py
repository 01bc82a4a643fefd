"""The torch operations the engine stands on, each chosen once and for the same reason on every run.

Nothing here is timed at run time: a choice made by timing could differ between a run and its resume, and the two would
no longer be equal bit for bit.
"""

import functools
import importlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.kernels import compiled, onednn
from polyseme.kernels.tuning import DEFAULT, Tuning


def sum_of_squares(t: Tensor) -> Float[Tensor, ""]:
    """Their sum; a dot product reads a contiguous tensor once."""
    return torch.dot(t.view(-1), t.view(-1))


def affine(
    x: Float[Tensor, "batch d"],
    weight: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"] | None,
    out: Float[Tensor, "batch n"] | None = None,
) -> Float[Tensor, "batch n"]:
    """x Wᵀ + b, in `out` where there is one and the fastest routine can write there; either may be transposed."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and onednn.is_fastest():
        linear = onednn.operation(torch.float32)
        assert linear is not None
        return linear(x, weight, bias, out=out)
    product = torch.mm(x, weight.t(), out=out)
    return product if bias is None else product.add_(bias)


def affine_into(
    x: Float[Tensor, "batch d"],
    weight: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"] | None,
    out: Float[Tensor, "batch n"],
) -> None:
    """x Wᵀ + b in `out`, whichever routine is the fastest."""
    product = affine(x, weight, bias, out=out)
    if product.data_ptr() != out.data_ptr():
        out.copy_(product)


def affine_by_parts(
    x: Float[Tensor, "batch d"],
    weight: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"] | None,
    out: Float[Tensor, "batch n"],
    tuning: Tuning = DEFAULT,
) -> Float[Tensor, "batch n"]:
    """x Wᵀ + b into `out`, some rows of W after the other: products of few shapes (`onednn`) and little room."""
    for part in tuning.tiles_of(weight, 16):
        affine_into(x, weight[part], None if bias is None else bias[part], out[:, part])
    return out


def where_positive(
    x: Float[Tensor, "*shape"], gate: Float[Tensor, "*shape"], *, out: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """x where gate > 0, and 0 elsewhere; `out` may be x.

    A tenth of the time of `x * (gate > 0)`, which makes a mask and converts it.
    """
    if out is None:
        return torch.ops.aten.threshold_backward(x, gate, 0.0)
    return torch.ops.aten.threshold_backward.grad_input(x, gate, 0.0, grad_input=out)


def bag_sum(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    values: Float[Tensor, " entry"],
    out: Float[Tensor, "bag d"] | None = None,
    tuning: Tuning = DEFAULT,
) -> Float[Tensor, "bag d"]:
    """For each bag of entries, Σ values × weight[indices]; in `out`, where it is given."""
    offsets = offsets.to(indices.dtype)
    if indices.dtype == torch.int32 and tuning.in_loops(weight, values):
        out = weight.new_empty(len(offsets) - 1, weight.shape[1]) if out is None else out
        compiled.sum_bags(weight, indices, offsets, values, out)
        return out
    sums = torch.nn.functional.embedding_bag(
        indices, weight, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
    )
    return sums if out is None else out.copy_(sums)


def nonzero(
    values: Float[Tensor, " entry"], offsets: Int[Tensor, " bag_plus_1"], tuning: Tuning = DEFAULT
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " bag_plus_1"]]:
    """Which entries are not zero, and where each bag's begin among them, and the end."""
    if tuning.in_loops(values):
        return compiled.nonzero(values, offsets)
    before = torch.zeros(len(values) + 1, dtype=torch.int64, device=values.device)
    torch.cumsum(values != 0, 0, out=before[1:])
    return values.nonzero().view(-1), before[offsets]


def sort_by_latent(
    latents: Int[Tensor, " entry"], n_latents: int, tuning: Tuning = DEFAULT
) -> tuple[Int[Tensor, " entry"], Int[Tensor, " n_latents_plus_1"]]:
    """The entries sorted by latent (stable), and where each latent's begin (int32)."""
    if latents.device.type == "cpu" and tuning.in_loops():
        return compiled.sort_by_latent(latents, n_latents)
    starts = torch.zeros(n_latents + 1, dtype=torch.int32, device=latents.device)
    starts[1:] = torch.bincount(latents, minlength=n_latents).cumsum(0)
    return torch.sort(latents, stable=True).indices, starts


def sum_by_latent(
    rows: Float[Tensor, "batch d"],
    bags: Int[Tensor, " entry"],
    values: Float[Tensor, " entry"],
    order: Int[Tensor, " entry"],
    starts: Int[Tensor, " some_plus_1"],
    out: Float[Tensor, "some d"] | None,
    tuning: Tuning = DEFAULT,
) -> Float[Tensor, "some d"]:
    """For each of some latents, Σ values × rows[bag] over its entries; in `out`, where it is given.

    Args:
        rows, bags, values: as in the sum.
        order: the entries by latent.
        starts: where those latents' begin in it, and the end of the last.
        out: overwritten.
    """
    in_loops, on_cuda = tuning.in_loops(rows, values), _on_cuda(rows, values)
    if not in_loops and on_cuda is None:
        low, high = int(starts[0]), int(starts[-1])
        own = order[low:high]
        return bag_sum(rows, bags[own], starts - low, values[own], out, tuning)
    out = rows.new_empty(len(starts) - 1, rows.shape[1]) if out is None else out
    if in_loops:
        compiled.sum_bags(rows, bags, starts, values, out, order)
    else:
        on_cuda.sum_by_latent(rows, bags[order], starts, values[order], out)
    return out


@functools.cache
def triton_kernels() -> Any:
    """The Triton kernels, where Triton is installed, as it is with torch for CUDA; else None."""
    try:
        return importlib.import_module("polyseme.kernels.triton_kernels")
    except ImportError:
        return None


def _on_cuda(*tensors: Tensor) -> Any:
    """The Triton kernels, where these tensors are on a GPU in a type they take; else None."""
    taken = (torch.float32, torch.float64)
    return triton_kernels() if all(t.is_cuda and t.dtype in taken for t in tensors) else None


def residual_and_dot(
    weight: Float[Tensor, "n d"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
    values: Float[Tensor, " entry"],
    goal: Float[Tensor, "bag d"],
    residual: Float[Tensor, "bag d"],
    tuning: Tuning = DEFAULT,
) -> Float[Tensor, " entry"] | None:
    """⟨r[bag], weight[index]⟩ of each entry, with r = `bag_sum` − goal written into `residual`; None (and nothing
    written) where nothing does both in one go."""
    if tuning.in_loops(weight, values, goal, residual):
        return compiled.residual_and_dot(weight, indices, offsets, values, goal, residual)
    on_cuda = _on_cuda(weight, values, goal)
    return None if on_cuda is None else on_cuda.residual_and_dot(weight, indices, offsets, values, goal, residual)[1]


_GATHER_DOT: Any = getattr(torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None)


def gather_dot(
    left: Float[Tensor, "bag d"],
    right: Float[Tensor, "n d"],
    bags: Int[Tensor, " entry"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag_plus_1"],
) -> Float[Tensor, " entry"]:
    """⟨left[bag], right[index]⟩ of each entry, in any order; `offsets` has one number more than there are bags."""
    if _GATHER_DOT is None or len(indices) == 0:
        return gather_dot_fallback(left, right, bags, indices)
    return _GATHER_DOT(left, right, indices, offsets[:-1].to(indices.dtype), bags.to(indices.dtype), 0)


def gather_dot_fallback(
    left: Float[Tensor, "bag d"],
    right: Float[Tensor, "n d"],
    bags: Int[Tensor, " entry"],
    indices: Int[Tensor, " entry"],
    tuning: Tuning = DEFAULT,
) -> Float[Tensor, " entry"]:
    """`gather_dot` with public operations only, in tiles of entries."""
    out = left.new_empty(len(indices))
    for part in tuning.tiles(len(indices), 2 * left.shape[1] * left.element_size()):
        torch.linalg.vecdot(left[bags[part]], right[indices[part]], out=out[part])
    return out


def top_k(x: Float[Tensor, "batch n"], k: int) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k largest of each row in no particular order, exactly; two stages where that is faster.

    Stage one takes the k groups (of `n // width` interleaved columns' maxima) with the largest maximum; the row's k
    largest are among them, since each group left out has k maxima above all of its own. Columns that fill no group
    are candidates all.
    """
    rows, n = x.shape
    group = 8
    width = n // group
    if width < 2 * k or x.device.type != "cpu":
        return torch.topk(x, k, dim=1, sorted=False)
    whole = group * width
    grouped = x[:, :whole].view(rows, group, width)
    columns = torch.topk(grouped.amax(1), k, dim=1, sorted=False).indices
    firsts = torch.arange(0, whole, width, device=x.device)
    candidates = (columns[:, None, :] + firsts[:, None]).view(rows, group * k)
    if whole < n:
        rest = torch.arange(whole, n, device=x.device).expand(rows, n - whole)
        candidates = torch.cat([candidates, rest], dim=1)
    values, place = torch.topk(x.gather(1, candidates), k, dim=1, sorted=False)
    return values, candidates.gather(1, place)
