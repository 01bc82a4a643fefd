"""Edits: what to put in place of a site's vectors during a forward pass.

An edit is any function from the site's vectors to vectors of the same shape; these make the usual ones. Each takes an
optional mask of the positions to edit and leaves the others as they are, bit for bit. An edit that also depends on what
other sites hold in the same pass is an `EditFrom`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.site import Site

Change = Callable[[Tensor], Tensor]
"""From a site's vectors, usually `[batch, position, d]`, to vectors of the same shape. It is given its own copy, so it
may work in place."""


@dataclass(frozen=True)
class EditFrom:
    """An edit that depends on what other sites held earlier in the same pass: a transcoder's output, for one.

    Attributes:
        needs: the sites, which the pass must come to no later than to the one that is edited.
        change: from the edited site's vectors and what was read at each of `needs`, before the edits there and after
            all edits upstream. It may work in place on the former alone.
    """

    needs: tuple[Site, ...]
    change: Callable[[Tensor, Mapping[Site, Tensor]], Tensor]


Edit = Change | EditFrom


def replace(value: Float[Tensor, "... d"], *, positions: Bool[Tensor, "#batch position"] | None = None) -> Change:
    """Put `value` in the site's place.

    Args:
        value: broadcast to the site's shape.
        positions: where; everywhere by default.
    """
    return _masked(lambda x: _fitted(value, x), positions)


def add(vector: Float[Tensor, "... d"], *, positions: Bool[Tensor, "#batch position"] | None = None) -> Change:
    """Add `vector` to the site's vectors (steering).

    Args:
        vector: broadcast to the site's shape.
        positions: where; everywhere by default.
    """
    return _masked(lambda x: x + _fitted(vector, x), positions)


def zero_ablate(*, positions: Bool[Tensor, "#batch position"] | None = None) -> Change:
    """Put zeros in the site's place; at `positions` only, where given."""
    return _masked(torch.zeros_like, positions)


def mean_ablate(mean: Float[Tensor, " d"], *, positions: Bool[Tensor, "#batch position"] | None = None) -> Change:
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


def masked(edit: Edit, positions: Bool[Tensor, "#batch position"] | None) -> Edit:
    """The edit at these positions `[batch, position]` alone, the others bit for bit as they were; None: everywhere."""
    if positions is None:
        return edit
    if isinstance(edit, EditFrom):
        change = edit.change
        return EditFrom(edit.needs, lambda x, read: _where(positions, change(x.clone(), read), x))
    return _masked(edit, positions)


def _masked(edit: Change, positions: Tensor | None) -> Change:
    return edit if positions is None else lambda x: _where(positions, edit(x.clone()), x)


def _where(positions: Tensor, edited: Tensor, x: Tensor) -> Tensor:
    return torch.where(positions.to(x.device).unsqueeze(-1), edited, x)
