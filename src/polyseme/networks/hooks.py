"""Reading and writing inside one forward pass.

At a site the value is read first, then edited: a read gives the value before that site's edits, and after every edit
upstream of it. Several edits at one module and port (heads, say) apply one after the other, in the order given. What an
edit needs of other sites is read in the same way.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks.edits import Edit, EditFrom
from polyseme.networks.layouts import Layout

Repeated = Literal["error", "first"]


class _Stop(BaseException):
    """Ends the pass once every read is made; not an `Exception`, so that a model's own handlers let it by."""


class Pass:
    """The reads and edits of one forward pass.

    Args:
        module: the network.
        reads: sites to read.
        edits: what to put in the place of sites' vectors.
        repeated: what to do when a module is called a second time.
        layouts: how tensors become vectors, by module path and port, where their last axis is not the width.
    """

    def __init__(
        self,
        module: nn.Module,
        reads: Sequence[Site],
        edits: Mapping[Site, Edit],
        repeated: Repeated,
        layouts: Mapping[tuple[str, str], Layout],
    ):
        self._module = module
        self._layouts = layouts
        self._repeated = repeated
        self._asked = list(dict.fromkeys(reads))
        self._edits = dict(edits)
        self._reads = list(dict.fromkeys([*reads, *needed(edits)]))
        self._fired: set[tuple[str, str]] = set()
        self.values: dict[Site, Tensor] = {}

    def run(self, forward: Callable[[], Any], *, stop: bool) -> Any:
        """Call `forward` with the hooks in place.

        Args:
            forward: runs the network.
            stop: end the pass as soon as every site is read; nothing is returned then.

        Raises:
            InputError: a site was not reached, was called more than once, has no tensor, or an edit changed its shape.
        """
        waiting = {(site.path, site.port) for site in self._asked}
        stop = stop and bool(waiting)
        output = None
        with ExitStack() as stack:
            for path, port in dict.fromkeys((site.path, site.port) for site in [*self._reads, *self._edits]):
                handle = self._register(path, port, waiting if stop else None)
                stack.callback(handle.remove)
            with suppress(_Stop):
                output = forward()
        missing = [site for site in [*self._reads, *self._edits] if (site.path, site.port) not in self._fired]
        if missing and not (stop and not waiting):
            raise InputError(
                f"The forward pass did not reach {', '.join(map(str, missing))}",
                where=type(self._module).__name__,
                fix="name a module that the network calls on these inputs",
            )
        return output

    def _register(self, path: str, port: str, waiting: set[tuple[str, str]] | None) -> Any:
        module = self._module.get_submodule(path)

        def visit(value: Tensor) -> Tensor | None:
            if (path, port) in self._fired:
                if self._repeated == "error":
                    raise InputError(
                        f"The module {path} is called more than once in a forward pass, so its site is ambiguous",
                        where=type(self._module).__name__,
                        fix="name a site around it, or load the network with repeated='first' to mean the first call",
                    )
                return None
            self._fired.add((path, port))
            self._read(path, port, value)
            edited = self._edit(path, port, value)
            if waiting is not None:
                waiting.discard((path, port))
                if not waiting:
                    raise _Stop
            return edited

        if port == "out":

            def after(_: nn.Module, _args: Any, output: Any) -> Any:
                edited = visit(first_tensor(output, path))
                return None if edited is None else with_first_tensor(output, edited)

            return module.register_forward_hook(after)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            key = _input_key(module, args, kwargs, path)
            value = cast(Tensor, args[key] if isinstance(key, int) else kwargs[key])
            edited = visit(value)
            if edited is None:
                return None
            if port == "stream":
                # The skip connection around the module holds the same tensor.
                value.copy_(edited)
                return None
            if isinstance(key, int):
                return (*args[:key], edited, *args[key + 1 :]), kwargs
            return args, {**kwargs, key: edited}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _read(self, path: str, port: str, value: Tensor) -> None:
        for site in self._reads:
            if (site.path, site.port) == (path, port):
                # A copy made outside inference mode is an ordinary tensor, and no later in-place step reaches it.
                with torch.inference_mode(False):
                    self.values[site] = _slice(self._vectors(value, path, port), site).clone()

    def _vectors(self, value: Tensor, path: str, port: str) -> Tensor:
        layout = self._layouts.get((path, port))
        return value if layout is None else layout.vectors(value)

    def _edit(self, path: str, port: str, value: Tensor) -> Tensor | None:
        edits = [(site, edit) for site, edit in self._edits.items() if (site.path, site.port) == (path, port)]
        if not edits:
            return None
        result = self._vectors(value, path, port).clone(memory_format=torch.contiguous_format)
        for site, edit in edits:
            part = _slice(result, site)
            if isinstance(edit, EditFrom):
                edited = edit.change(part.clone(), {need: self.values[need] for need in edit.needs})
            else:
                edited = edit(part.clone())
            if edited.shape != part.shape:
                raise InputError(
                    f"The edit at {site} returned shape {tuple(edited.shape)} for vectors of shape {tuple(part.shape)}",
                    fix="return a tensor of the shape given; check the width of the dictionary or vector",
                )
            part.copy_(edited)
        layout = self._layouts.get((path, port))
        return result if layout is None else layout.whole(result, value)


def needed(edits: Mapping[Site, Edit]) -> list[Site]:
    """What edits need to be read, each site once."""
    return list(dict.fromkeys(need for edit in edits.values() for need in needs_of(edit)))


def needs_of(edit: Edit) -> tuple[Site, ...]:
    """What an edit needs to be read."""
    return edit.needs if isinstance(edit, EditFrom) else ()


def _slice(value: Tensor, site: Site) -> Tensor:
    if site.head is None:
        return value
    assert site.n_heads is not None
    width, rest = divmod(value.shape[-1], site.n_heads)
    if rest:
        raise InputError(f"The {value.shape[-1]} entries at {site} do not divide into {site.n_heads} heads")
    return value[..., site.head * width : (site.head + 1) * width]


def _input_key(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: str) -> int | str:
    """Where the module's first argument is: a position, or the keyword it came by."""
    if args:
        if isinstance(args[0], Tensor):
            return 0
    else:
        first = next(iter(inspect.signature(module.forward).parameters), "")
        if isinstance(kwargs.get(first), Tensor):
            return first
        tensors = [name for name, value in kwargs.items() if isinstance(value, Tensor)]
        if len(tensors) == 1:
            return tensors[0]
    raise InputError(f"The first argument of the module {path} is not a tensor", fix="name another site")


def first_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: str) -> Tensor:
    """The tensor that is a module's first argument; raises `InputError` where that is none."""
    key = _input_key(module, args, kwargs, path)
    return cast(Tensor, args[key] if isinstance(key, int) else kwargs[key])


def first_tensor(output: Any, path: str) -> Tensor:
    """The tensor a module's output is or, in a tuple, list, dict or dataclass, holds first."""
    if isinstance(output, Tensor):
        return output
    for value in _items(output).values():
        if isinstance(value, Tensor):
            return value
    raise InputError(
        f"The module {path} returns a {type(output).__name__} without a tensor in it", fix="name another site"
    )


def with_first_tensor(output: Any, new: Tensor) -> Any:
    """The same output with `new` in the place of its first tensor; the output given is left as it is."""
    if isinstance(output, Tensor):
        return new
    key = next(key for key, value in _items(output).items() if isinstance(value, Tensor))
    if isinstance(output, tuple):
        values = [new if i == key else value for i, value in enumerate(cast(tuple[Any, ...], output))]
        return type(output)(*values) if hasattr(output, "_fields") else tuple(values)
    changed = copy.copy(output)
    if isinstance(output, (list, dict)):
        changed[key] = new
    else:
        object.__setattr__(changed, key, new)
    return changed


def _items(output: Any) -> dict[Any, Any]:
    if isinstance(output, (tuple, list)):
        return dict(enumerate(cast(Sequence[Any], output)))
    if isinstance(output, dict):
        return dict(cast(dict[Any, Any], output))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}


def rows_at(positions: Tensor) -> Callable[[nn.Module, Any], Any]:
    """A hook that leaves a module the vectors at these positions `[batch, position]` alone."""

    def select(_: nn.Module, args: Any) -> Any:
        if args[0].shape[:-1] != positions.shape:
            raise InputError(
                f"logits_at has shape {tuple(positions.shape)} for vectors of shape {tuple(args[0].shape)}",
                fix="give it as [batch, position], like the tokens",
            )
        return (args[0][positions], *args[1:])

    return select


def logits_of(output: Any) -> Tensor:
    """The logits of whatever a network returns; its first tensor where nothing is called logits."""
    logits = getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else first_tensor(output, "network")
