"""No compiled function is called with a tensor of another dtype, device, layout or shape than it takes."""

import ast
import ctypes
from collections import Counter
from pathlib import Path

import pytest
import torch

import polyseme
from polyseme.core.errors import InputError
from polyseme.kernels import attention, compiled, int8, loops
from polyseme.kernels.library import usable
from polyseme.kernels.loops import Loop, check_offsets, check_places

ALL = {
    value.name: value
    for module in (compiled, int8, attention)
    for value in vars(module).values()
    if isinstance(value, Loop)
}
SIZES = {"rows": 5, "n": 7, "d": 6, "k": 3, "bags": 4, "depth": 8, "blocks": 2, "panels": 2, "parts": 2}


def right(loop: Loop) -> dict:
    """Arguments that the function takes, of sizes that all differ."""
    sizes, values = dict(SIZES), {}

    def size(axis):
        if axis.isidentifier():
            return sizes.setdefault(axis, 11 + len(sizes))
        for name in axis.replace("+", " ").replace("*", " ").split():
            size(name) if name.isidentifier() else None
        return loops._size(axis, sizes)

    for field in loop._fields:
        if field.axes is None:
            values[field.name] = (
                size(field.name) if field.name in sizes else 1.5 if field.scalar is ctypes.c_float else 2
            )
        else:
            values[field.name] = torch.zeros([size(axis) for axis in field.axes], dtype=field.dtypes[0])
    for field in loop._fields:  # a number has the size of the axis of its name
        if field.axes is None and field.name in sizes:
            values[field.name] = sizes[field.name]
    return {"n": loops._size(loop._rows, sizes), "values": values}


def test_every_function_of_the_library_is_written_down():
    """Whatever is called in the sources of C has a `Loop`, or no argument that points to a tensor."""
    root = Path(polyseme.__file__).parent
    named = {
        word.split("(")[0]
        for path in root.rglob("*.c")
        for line in path.read_text().splitlines()
        for word in line.split()
        if word.startswith("polyseme_") and "(" in word
    }
    assert named - set(ALL) == {"polyseme_int8_supported", "polyseme_keep_denormals"}
    for path in root.rglob("*.py"):
        pointers = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute) and n.attr == "data_ptr"
        ]
        # Elsewhere it names a tensor's memory, and nothing reads there.
        names = ("kernels/loops.py", "kernels/compiled.py", "kernels/tiles.py", "store/arrays.py")
        assert not pointers or str(path.relative_to(root)) in names or path.parts[-2] == "networks", path


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_fits_is_taken_and_nothing_else(name):
    loop = ALL[name]
    loop.check(**right(loop))
    # How often a size is named: one that is named once is free.
    known = Counter(axis for field in loop._fields for axis in (field.axes or (field.name,)))
    known.update(name for name in loop._rows.split("*"))
    for field in loop._fields:
        whole = right(loop)
        tensor = whole["values"][field.name]

        def refused(value, field=field, whole=whole):
            with pytest.raises(InputError) as caught:
                loop.check(whole["n"], {**whole["values"], field.name: value})
            assert caught.value.where == name

        if field.axes is None:
            refused(None)
            refused(torch.zeros(1))
            if any(field.name in (other.axes or ()) for other in loop._fields):
                refused(tensor + 1)
                refused(-1)
            continue
        for dtype in (
            torch.float64,
            torch.float32,
            torch.bfloat16,
            torch.float16,
            torch.int64,
            torch.int32,
            torch.uint8,
        ):
            if dtype not in field.dtypes:
                refused(tensor.to(dtype))
        refused(tensor.to("meta"))
        refused(tensor[None])
        if tensor.numel() > 1:
            refused(torch.stack([tensor, tensor], dim=-1)[..., 0])
        refused(7)
        for i, axis in enumerate(field.axes):
            if known[axis] > 1 or not axis.isidentifier():
                refused(torch.cat([tensor, tensor.narrow(i, 0, 1)], dim=i))
                refused(tensor.narrow(i, 0, tensor.shape[i] - 1).contiguous())
        if tensor.dim() > 1:
            refused(tensor.transpose(-1, -2).contiguous().transpose(-1, -2))
        if tensor.is_floating_point():
            refused(tensor.clone().requires_grad_())
        if field.may_be_null:
            loop.check(whole["n"], {**whole["values"], field.name: None})
        else:
            refused(None)
    with pytest.raises(InputError):
        loop.check(right(loop)["n"] + 1, right(loop)["values"])
    with pytest.raises(TypeError, match="takes no other"):
        loop.check(right(loop)["n"], {**right(loop)["values"], "other": 1})


@pytest.mark.parametrize("places", [[-1, 0], [0, 5], [2**31 - 1]])
def test_an_index_beyond_its_tensor_is_refused(places):
    with pytest.raises(InputError, match="an index of"):
        check_places("x", torch.tensor(places, dtype=torch.int32), 5)
    check_places("x", torch.tensor([0, 4], dtype=torch.int32), 5)
    check_places("x", torch.zeros(0, dtype=torch.int32), 0)


@pytest.mark.parametrize("offsets", [[-1, 2], [0, 6], [0, 4, 3], [], [2, 0]])
def test_offsets_that_do_not_ascend_are_refused(offsets):
    with pytest.raises(InputError, match="offsets do not ascend"):
        check_offsets("x", torch.tensor(offsets, dtype=torch.int32), 5)
    check_offsets("x", torch.tensor([0, 0, 5], dtype=torch.int32), 5)


needs_loops = pytest.mark.skipif(not usable(), reason="the loops are not built here")


def entries():
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(6, 5, generator=generator),
        "indices": torch.tensor([0, 2, 5, 1, 3], dtype=torch.int32),
        "offsets": torch.tensor([0, 3, 3, 5], dtype=torch.int32),
        "values": torch.randn(5, generator=generator),
        "goal": torch.randn(3, 5, generator=generator),
    }


CALLS = {
    "sum_bags": lambda weight, indices, offsets, values, goal: compiled.sum_bags(
        weight, indices, offsets, values, torch.empty_like(goal)
    ),
    "sum_bags, ordered": lambda weight, indices, offsets, values, goal: compiled.sum_bags(
        weight, indices, offsets, values, torch.empty_like(goal), torch.arange(5, dtype=torch.int32)
    ),
    "residual_and_dot": lambda weight, indices, offsets, values, goal: compiled.residual_and_dot(
        weight, indices, offsets, values, goal, torch.empty_like(goal)
    ),
    "dot": lambda weight, indices, offsets, values, goal: compiled.dot(weight, indices, offsets, goal, 2),
    "nonzero": lambda weight, indices, offsets, values, goal: compiled.nonzero(values, offsets),
    "sort_by_latent": lambda weight, indices, offsets, values, goal: compiled.sort_by_latent(indices, len(weight)),
    "gathered": lambda weight, indices, offsets, values, goal: compiled.gathered(
        values, indices, offsets[:-1].long(), offsets.diff().long(), offsets.diff().long()
    ),
}
SPOILED = {
    "an index below 0": ("indices", lambda t: torch.where(t == 5, -1, t)),
    "an index too large": ("indices", lambda t: torch.where(t == 5, 6, t)),
    "offsets beyond the entries": ("offsets", lambda t: torch.where(t == 5, 6, t)),
    "offsets that fall": ("offsets", lambda t: t.flip(0)),
    "float64 values": ("values", torch.Tensor.double),
    "bfloat16 values": ("values", torch.Tensor.bfloat16),
    "float64 weights": ("weight", torch.Tensor.double),
    "bfloat16 weights": ("weight", torch.Tensor.bfloat16),
    "weights with gaps": ("weight", lambda t: t.t().contiguous().t()),
    "int64 indices": ("indices", torch.Tensor.long),
    "int64 offsets": ("offsets", torch.Tensor.long),
    "fewer values": ("values", lambda t: t[:-1]),
    "a narrower goal": ("goal", lambda t: t[:, :-1].contiguous()),
    "a longer goal": ("goal", lambda t: torch.cat([t, t])),
}
UNUSED = {
    "nonzero": {"weight", "indices", "goal"},
    "sort_by_latent": {"weight", "offsets", "values", "goal"},
    "gathered": {"weight", "goal"},
    "dot": {"values"},
}


@needs_loops
@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("call", CALLS)
def test_entry_points_refuse_what_would_be_read_or_written_elsewhere(call, spoiled):
    name, spoil = SPOILED[spoiled]
    whole = entries()
    CALLS[call](**whole)
    # What is gathered is whatever the places hold, which are made 64-bit above.
    is_harmless = call == "gathered" and spoiled in ("int64 offsets", "an index below 0", "an index too large")
    if name in UNUSED.get(call, ()) or is_harmless:
        return
    with pytest.raises((InputError, TypeError)):  # the tests' own type checker may be the first
        CALLS[call](**{**whole, name: spoil(whole[name])})


@needs_loops
def test_pieces_outside_their_entries_are_refused():
    values, latents = torch.randn(6), torch.arange(6, dtype=torch.int32)
    starts, counts = torch.tensor([0, 3]), torch.tensor([3, 3])
    compiled.gathered(values, latents, starts, counts, counts)
    for changed in (
        {"starts": torch.tensor([0, 4])},
        {"starts": torch.tensor([-1, 3])},
        {"counts": torch.tensor([3, -1])},
        {"a_row": torch.tensor([2, 3])},
    ):
        whole = {"starts": starts, "counts": counts, "a_row": counts, **changed}
        with pytest.raises(InputError):
            compiled.gathered(values, latents, **whole)
