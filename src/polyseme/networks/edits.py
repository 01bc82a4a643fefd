"""Edits: what to put in place of a site's vectors during a forward pass.

An edit is any function from the site's vectors to vectors of the same shape; these make the usual ones. Each takes an
optional mask of the positions to edit and leaves the others as they are, bit for bit.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.errors import InputError

Edit = Callable[[Tensor], Tensor]
"""From a site's vectors, usually `[batch, position, d]`, to vectors of the same shape. It is given its own copy, so it
may work in place."""


def replace(value: Float[Tensor, "... d"], *, positions: Bool[Tensor, "#batch position"] | None = None) -> Edit:
    """Put `value` in the site's place.

    Args:
        value: broadcast to the site's shape.
        positions: where; everywhere by default.
    """
    return _masked(lambda x: _fitted(value, x), positions)


def add(vector: Float[Tensor, "... d"], *, positions: Bool[Tensor, "#batch position"] | None = None) -> Edit:
    """Add `vector` to the site's vectors (steering).

    Args:
        vector: broadcast to the site's shape.
        positions: where; everywhere by default.
    """
    return _masked(lambda x: x + _fitted(vector, x), positions)


def zero_ablate(*, positions: Bool[Tensor, "#batch position"] | None = None) -> Edit:
    """Put zeros in the site's place; at `positions` only, where given."""
    return _masked(torch.zeros_like, positions)


def mean_ablate(mean: Float[Tensor, " d"], *, positions: Bool[Tensor, "#batch position"] | None = None) -> Edit:
    """Put the site's mean vector, measured beforehand, in the place of every vector; at `positions` only, if given."""
    return replace(mean, positions=positions)


def _fitted(value: Tensor, x: Tensor) -> Tensor:
    try:
        return value.to(device=x.device, dtype=x.dtype).expand_as(x)
    except RuntimeError as error:
        raise InputError(
            f"An edit of shape {tuple(value.shape)} does not fit vectors of shape {tuple(x.shape)}",
            fix="check the site's width with network.width(site)",
        ) from error


def _masked(edit: Edit, positions: Tensor | None) -> Edit:
    if positions is None:
        return edit

    def masked(x: Tensor) -> Tensor:
        return torch.where(positions.to(x.device).unsqueeze(-1), edit(x), x)

    return masked
