"""One pass that looks at many sites at once, and keeps no values: widths, layouts, and what speaks against a site."""

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks.hooks import first_input, first_tensor
from polyseme.networks.layouts import Layout, Neighbours

Place = tuple[str, str]
"""A module's path and a port."""
NOT_FINITE_FIX = (
    "check the numbers in its config.json (an epsilon, the base of rotary positions, a window) and its weights, or "
    'load it with dtype = "float32"'
)
"""What to do about a network whose vectors are not finite: no other site of it would help."""


@dataclass
class Seen:
    """What one pass shows of a place.

    Attributes:
        calls: how often the module was called.
        order: number of the place in the order in which the pass came to those looked at.
        shape: of the vectors there, `[batch, position, width]` where a layout is known; None where there is no tensor.
        dtype: of the tensor.
        layout: how the tensor becomes vectors; None for one whose last axis is the width as it is.
        finite: whether every number is finite.
        is_output: whether it is what the network returns, or comes after what gives it.
        output_is_finite: whether every number of what the network returns is finite.
        tensor: the tensor itself while the pass lasts, and for as long as anything else holds it.
    """

    calls: int = 0
    order: int = 0
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    layout: Layout | None = None
    finite: bool = True
    is_output: bool = False
    output_is_finite: bool = True
    tensor: Callable[[], Tensor | None] = field(default=lambda: None, repr=False)

    def width(self, site: Site) -> int | None:
        """Length of the vectors of a site at this place; None where something speaks against it."""
        if self.problem(None) is not None or self.shape is None:
            return None
        return width_of(self.shape[-1], site)

    def problem(self, tokens: Sequence[int] | None) -> str | None:
        """What speaks against reading vectors there; None where nothing does.

        Args:
            tokens: `(batch, position)` of the token ids, where one vector a token is wanted.
        """
        if self.calls == 0:
            return "the forward pass does not reach it"
        if self.calls > 1:
            return f"its module is called {self.calls} times in a forward pass, so it is not one place"
        if self.shape is None or self.dtype is None:
            return "there is no tensor"
        if not self.dtype.is_floating_point:
            return f"its numbers are {str(self.dtype).removeprefix('torch.')}, not the real numbers that vectors have"
        shape = list(self.shape)
        if len(shape) < 2 or 0 in shape:
            return f"a tensor {shape} holds no vectors"
        if tokens is not None and tuple(shape[:-1]) != tuple(tokens):
            return f"it gives {shape} for tokens {list(tokens)}: not one vector a token"
        if tokens is None and len(shape) > 3:
            return f"which axis of its tensor {shape} is the width of its vectors is not known"
        return None if self.finite else "its vectors are not finite"


def place_of(site: Site) -> Place:
    """The module and port of a site, whichever head of it is meant."""
    return site.path, site.port


def width_of(width: int, site: Site) -> int:
    """Length of a site's vectors where its module's have `width` entries.

    Raises:
        InputError: they do not divide into the heads the site is one of.
    """
    if site.n_heads is None:
        return width
    if width % site.n_heads:
        raise InputError(f"The {width} entries at {site} do not divide into {site.n_heads} heads")
    return width // site.n_heads


def survey(
    module: nn.Module,
    forward: Callable[[], Any],
    places: Iterable[Place],
    *,
    tokens: Sequence[int] | None,
    head: nn.Module | None,
) -> dict[Place, Seen]:
    """Look at places in one whole forward pass.

    Args:
        module: the network.
        forward: runs it.
        places: where to look.
        tokens: `(batch, position)` of the token ids that `forward` runs on, where it does.
        head: the module that gives the logits, where one does.
    """
    seen = {place: Seen() for place in places}
    neighbours, order = Neighbours(), itertools.count()
    is_past_head = False

    def look(place: Place, part: nn.Module, find: Callable[[], Tensor]) -> None:
        at = seen[place]
        at.calls += 1
        if at.calls > 1:
            return
        at.order = next(order)
        at.is_output = is_past_head
        try:
            value = find()
        except InputError:
            return
        # Held weakly: memory of a tensor that is gone may be another's by the end of the pass.
        at.dtype, at.tensor = value.dtype, weakref.ref(value)
        at.layout = neighbours.layout(part, value, tokens)
        at.shape = tuple(value.shape if at.layout is None else at.layout.vectors(value).shape)
        at.finite = all_finite(value)

    def past_head(*_: Any) -> None:
        nonlocal is_past_head
        is_past_head = True

    with ExitStack() as stack, torch.inference_mode():
        if head is not None:
            stack.callback(head.register_forward_hook(past_head).remove)
        for part in module.modules():
            stack.callback(part.register_forward_hook(neighbours.see).remove)
        for place in seen:
            stack.callback(_looking(module.get_submodule(place[0]), place, look))
        output = forward()
    returned = _returned(output)
    is_finite = returned is None or all_finite(returned)
    for at in seen.values():
        value = at.tensor()
        at.output_is_finite = is_finite
        at.is_output |= value is not None and returned is not None and _memory(value) == _memory(returned)
    return seen


def _looking(part: nn.Module, place: Place, look: Callable[[Place, nn.Module, Callable[[], Tensor]], None]) -> Any:
    if place[1] == "out":
        return part.register_forward_hook(
            lambda module, _args, output: look(place, module, lambda: first_tensor(output, place[0]))
        ).remove
    return part.register_forward_pre_hook(
        lambda module, args, kwargs: look(place, module, lambda: first_input(module, args, kwargs, place[0])),
        with_kwargs=True,
    ).remove


def _returned(output: Any) -> Tensor | None:
    """What a network returns: its logits, else its first tensor."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    try:
        return first_tensor(output, "network")
    except InputError:
        return None


def all_finite(x: Tensor) -> bool:
    """Whether every number is finite; numbers that are not floating-point are."""
    # A sum is finite only where all its terms are, and needs no temporaries as large as the vectors, which cost a tenth
    # of a pass. Finite terms may have a sum that overflows: they are looked at one by one.
    return not x.is_floating_point() or bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
