"""The selections of inference: what a vector is encoded to depends on that vector alone, to the last bit.

Pre-activations are those of `exact_affine`, p. A fast product gives p̃ with

    |p̃ − p| ≤ m := ε (d + 8) (‖x‖ max_j ‖w_j‖ + max_j |b_j|)        (ε twice the unit roundoff)

by Higham 2002, Accuracy and stability of numerical algorithms, eq. 3.5. So the fast selection finds a few entries more
than are wanted, and these are computed again and compared. In a row where an entry that was left out might belong to
the largest, or whose norm is so large that its m would fit no other row, every entry within m is compared.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.dictionaries.engine.entries import SparseEntries, replaced
from polyseme.dictionaries.engine.selection import Encoder, above, joined, select_above, select_top_k
from polyseme.kernels.exact import exact_affine

_MORE = 8
"""Entries beyond the k largest that are computed again: seldom are more that near to the kth, but for ties."""

_OUTLIER = 8
"""A row whose m exceeds the batch's median by this factor is handled on its own."""


def exact_above(encoder: Encoder, bound: Float[Tensor, "*n_latents"] | float) -> SparseEntries:
    """Every entry above `bound` (one for all, or one a latent)."""
    slack = _slack(encoder)
    outliers = slack > _OUTLIER * slack.median()
    found = select_above(encoder, bound - slack[~outliers].max())
    if bool(outliers.any()):
        found = _look_through(encoder, found, outliers, bound, slack)
    pre = _exact(encoder, found)
    bounds = found.take(bound) if isinstance(bound, Tensor) and bound.dim() else bound
    return found.where(pre > bounds, pre)


def exact_top_k(encoder: Encoder, k: int) -> SparseEntries:
    """The at most k largest positive entries of each row; of equal ones those of the lowest latents."""
    wanted, slack = min(encoder.n_latents, k + _MORE), _slack(encoder)
    found = select_top_k(encoder, wanted, ascending=True)
    pre = _exact(encoder, found)
    kth = _grid(found, pre, k, -torch.inf).topk(k).values[:, -1]
    # What was left out is no larger than the least of a full row; of another it is not positive.
    counts = found.offsets.diff()
    least = torch.where(counts == wanted, _grid(found, found.pre, 1, torch.inf).amin(1), 0.0)
    unproven = ~((kth > least + slack) | (counts == encoder.n_latents))
    if bool(unproven.any()):
        found = _look_through(encoder, found, unproven, 0.0, slack - kth.clamp(min=0))
        pre = _exact(encoder, found)
        kth = _grid(found, pre, k, -torch.inf).topk(k).values[:, -1]
    largest = (pre > 0) & (pre >= kth[found.bags])
    ties, surplus = pre == kth[found.bags], torch.bincount(found.bags[largest], minlength=len(kth)) - k
    if bool((surplus > 0).any()):
        passed = torch.cat([surplus.new_zeros(1), ties.cumsum(0)])
        left = passed[found.offsets[1:].long()][found.bags] - passed[:-1]
        largest &= ~(ties & (left <= surplus[found.bags]))
    return found.where(largest, pre)


def _slack(encoder: Encoder) -> Float[Tensor, " batch"]:
    """m of each vector."""
    parts = encoder.tuning.tiles_of(encoder.weight)
    longest = max(float(torch.linalg.vector_norm(encoder.weight[p], dim=1).max()) for p in parts)
    norms = torch.linalg.vector_norm(encoder.x, dim=1)
    rounding = torch.finfo(encoder.x.dtype).eps * (encoder.x.shape[1] + 8)
    return (norms * longest + encoder.bias.abs().max()) * rounding


def _exact(encoder: Encoder, found: SparseEntries) -> Float[Tensor, " entry"]:
    return exact_affine(encoder.x, encoder.weight, encoder.bias, found.indices, found.offsets, encoder.tuning)


def _look_through(
    encoder: Encoder,
    found: SparseEntries,
    some: Bool[Tensor, " batch"],
    bound: Float[Tensor, "*n_latents"] | float,
    slack: Float[Tensor, " batch"],
) -> SparseEntries:
    """`found`, but in `some` rows every entry above `bound` less the row's slack."""
    own, slack = encoder.rows(some), slack[some, None]
    parts = [above(pre, bound - slack[rows]) for rows, pre in own.tiles()]
    return replaced(found, some.nonzero().view(-1), joined(encoder, parts))


def _grid(found: SparseEntries, values: Float[Tensor, " entry"], least: int, fill: float) -> Float[Tensor, "row width"]:
    """Each row's values, filled up to the longest row or to `least`."""
    counts = found.offsets.diff()
    width = max(least, int(counts.max()))
    if len(values) == len(counts) * width:
        return values.view(-1, width)
    grid = values.new_full((len(counts), width), fill)
    bags = found.bags.long()
    grid[bags, torch.arange(len(values), device=bags.device) - found.offsets[bags]] = values
    return grid
