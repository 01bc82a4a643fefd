"""The one way into the compiled loops: what a function takes is written down, and looked at before it gets a pointer.

C believes what it is given. So dtype, device, layout and shape of every tensor are checked on every call, against each
other and against the sizes that go with them; a wrong one is refused, whoever's mistake or whatever setting made it.
"""

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.kernels import library as native
from polyseme.kernels.library import POINTER, SIZE

_SCALARS: dict[str, Any] = {"i64": SIZE, "i32": ctypes.c_int32, "f32": ctypes.c_float}
_DTYPES = {"f32": torch.float32, "i64": torch.int64, "i32": torch.int32, "u8": torch.uint8, "bf16": torch.bfloat16}
_FIELD = re.compile(r"(?P<name>\w+):(?P<kind>[\w|]+)(?:\[(?P<axes>[^\]]+)\])?(?P<marks>[?~]*)")


@dataclass(frozen=True)
class _Field:
    name: str
    dtypes: tuple[torch.dtype, ...]
    scalar: Any
    axes: tuple[str, ...] | None
    may_be_null: bool
    may_have_gaps: bool


@final
class Loop:
    """A function of the library and the C structure that it takes.

    Args:
        name: of the function.
        rows: what its `n` counts: an axis, or an expression in axes.
        fields: of the structure, in its order, as words: `name:kind` for a number and `name:kind[axes]` for a tensor,
            with kind f32, i64, i32, u8 or, for tensors, several as `f32|bf16`. An axis is a whole number, a name, which
            stands for the same size in all fields and for the number of that name, or an expression in names, `n+1`
            or `blocks*rows`. After the axes, `?` means that it may be None, and `~` that only its last axis need be
            contiguous.
    """

    def __init__(self, name: str, rows: str, fields: str):
        self.name, self._rows = name, rows
        self._fields = [_field(word) for word in fields.split()]

    @cached_property
    def _structure(self) -> type[ctypes.Structure]:
        kinds = [(f.name, f.scalar if f.axes is None else POINTER) for f in self._fields]
        return type(self.name, (ctypes.Structure,), {"_fields_": kinds})

    def __call__(self, n: int, /, **values: Tensor | float | None) -> None:
        """Call it on `n` rows.

        Raises:
            InputError: a tensor is of another dtype, shape or device than the function takes, or has gaps.
        """
        self.check(n, values)
        given = [values.get(f.name) for f in self._fields]
        pointers = [value.data_ptr() if isinstance(value, Tensor) else value for value in given]
        pool = native.pool()
        getattr(native.loaded(), self.name)(ctypes.byref(pool), ctypes.byref(self._structure(*pointers)), SIZE(n))

    def check(self, n: int, values: dict[str, Tensor | float | None]) -> None:
        """Raise where the function would read or write what is not there, or take it for something else."""
        if unknown := values.keys() - {f.name for f in self._fields}:
            raise TypeError(f"{self.name} takes no {', '.join(sorted(unknown))}")
        sizes = {self._rows: n} if self._rows.isidentifier() else {}
        for f in self._fields:
            value = values.get(f.name)
            if f.axes is None:
                if isinstance(value, Tensor) or value is None:
                    raise self._refusal(f"{f.name} is not a number")
                if f.scalar is not ctypes.c_float and sizes.setdefault(f.name, int(value)) != value:
                    raise self._refusal(f"{f.name} is {value}, not {sizes[f.name]}")
        if min(n, *sizes.values()) < 0:
            raise self._refusal(f"a size is negative: {n}, {sizes}")
        for f in self._fields:
            if f.axes is not None:
                self._check_tensor(f, values.get(f.name), f.axes, sizes)
        if _size(self._rows, sizes) != n:
            raise self._refusal(f"called on {n} rows, not {self._rows} with {sizes}")

    def _check_tensor(
        self, f: _Field, tensor: Tensor | float | None, axes: tuple[str, ...], sizes: dict[str, int]
    ) -> None:
        if tensor is None and f.may_be_null:
            return
        if not isinstance(tensor, Tensor):
            raise self._refusal(f"{f.name} is not a tensor")
        if tensor.dtype not in f.dtypes or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise self._refusal(f"{f.name} is {tensor.dtype} on {tensor.device}, not {f.dtypes[0]} on a CPU")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise self._refusal(f"{f.name} requires a gradient, which compiled loops have none of")
        if tensor.is_conj() or tensor.is_neg():
            raise self._refusal(f"{f.name} is a view that is still to be computed")
        whole = tensor.is_contiguous() or (f.may_have_gaps and (tensor.dim() == 0 or tensor.stride(-1) == 1))
        fits = tensor.dim() == len(axes)
        for axis, size in zip(axes, tensor.shape, strict=False):
            wanted = sizes.setdefault(axis, size) if axis.isidentifier() else _size(axis, sizes)
            fits &= wanted == size
        if not (whole and fits):
            what = f"is {list(tensor.shape)}" if whole else f"{list(tensor.shape)} has gaps (strides {tensor.stride()})"
            raise self._refusal(f"{f.name} {what}, not [{', '.join(axes)}] with {sizes}")

    def _refusal(self, what: str) -> InputError:
        return InputError(
            what, where=self.name, fix="give tensors of one set, as the function's documentation names them"
        )


def check_places(where: str, places: Tensor, n: int) -> None:
    """Raise `InputError` where an index is not in 0 … n − 1."""
    if places.numel():
        low, high = (int(x) for x in torch.aminmax(places))
        if low < 0 or high >= n:
            raise InputError(
                f"an index of {low if low < 0 else high} into {n}", where=where, fix="give indices from 0 on, below it"
            )


def check_offsets(where: str, offsets: Tensor, n: int) -> None:
    """Raise `InputError` where offsets do not ascend inside 0 … n."""
    ascend = len(offsets) > 0 and int(offsets[0]) >= 0 and int(offsets[-1]) <= n
    if not ascend or bool((offsets[1:] < offsets[:-1]).any()):
        raise InputError(
            f"offsets do not ascend from 0 to {n} at most", where=where, fix="give the start of each row, and the end"
        )


def _field(word: str) -> _Field:
    match = _FIELD.fullmatch(word)
    assert match is not None, word
    axes, marks = match["axes"], match["marks"]
    kinds = match["kind"].split("|")
    return _Field(
        match["name"],
        tuple(_DTYPES[kind] for kind in kinds),
        _SCALARS.get(kinds[0]),
        None if axes is None else tuple(axes.split(",")),
        "?" in marks,
        "~" in marks,
    )


def _size(expression: str, sizes: dict[str, int]) -> int:
    """The size of an axis, which is written as a sum of products of whole numbers and names."""
    of: Callable[[str], int] = lambda factor: int(factor) if factor.isdigit() else sizes[factor]  # noqa: E731
    return sum(prod(of(factor) for factor in term.split("*")) for term in expression.split("+"))
