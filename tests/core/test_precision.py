"""No tensor becomes float64 where it may be on Apple's GPU, which has none. Nothing was run on one."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import polyseme
from polyseme.core import precision
from polyseme.core.precision import wide

SOURCE = Path(polyseme.__file__).parent
ON_THE_CPU = ("zoo", "trials", "core/precision.py")
"""Toys and trials have networks of their own, on the CPU."""
MAKERS = {"zeros", "ones", "arange", "randn", "eye", "empty"}
"""Functions of torch that make a tensor on the CPU where no device is named."""


class Fake:
    """A tensor that says which device it is on, and refuses what that device cannot do."""

    def __init__(self, values: torch.Tensor, device: str):
        self.values, self.device = values, torch.device(device)

    def cpu(self) -> "Fake":
        return Fake(self.values, "cpu")

    def double(self) -> "Fake":
        if self.device.type == "mps":
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return Fake(self.values.double(), str(self.device))


@pytest.mark.parametrize(("device", "where"), [("mps", "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1")])
def test_float64_is_taken_where_it_exists(device: str, where: str) -> None:
    unchecked: Any = getattr(wide, "__wrapped__", wide)
    got = unchecked(Fake(torch.ones(2), device))
    assert (str(got.device), got.values.dtype) == (where, torch.float64)
    assert wide(torch.ones(2, dtype=torch.bool)).equal(torch.ones(2, dtype=torch.float64))
    assert precision.wide is wide


def float64_of_a_device(tree: ast.AST) -> list[int]:
    """Lines that make float64 of a tensor whose device is not known to be the CPU."""
    lines: list[int] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        names_float64 = any(ast.unparse(value) in ("torch.float64", "torch.double") for value in given)
        if name == "double":
            assert isinstance(node.func, ast.Attribute)
            if not ast.unparse(node.func.value).endswith(".cpu()"):
                lines.append(node.lineno)
        elif names_float64:
            places = [keyword.value for keyword in node.keywords if keyword.arg == "device"]
            if name not in MAKERS or any(ast.unparse(place) not in KNOWN_PLACES for place in places):
                lines.append(node.lineno)
    return lines


KNOWN_PLACES = ("rows.device",)
"""Of tensors that are float64 already."""
ALLOWED = {"nulls/gaussian.py": 1}
"""Lines that make float64 of a tensor which the same function made on the CPU."""


def test_the_check_sees_what_it_is_for() -> None:
    seen = ["x.double()", "x.sum(0, dtype=torch.float64)", "x.to('cpu', torch.float64)"]
    seen.append("torch.zeros(2, dtype=torch.float64, device=d)")
    assert float64_of_a_device(ast.parse("\n".join(seen))) == [1, 2, 3, 4]
    fine = "x.cpu().double()\nwide(x).sum(0)\ntorch.zeros(2, dtype=torch.float64)"
    assert float64_of_a_device(ast.parse(fine)) == []


def test_float64_is_made_on_the_cpu_or_by_wide() -> None:
    found: dict[str, int] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(ON_THE_CPU) and (lines := float64_of_a_device(ast.parse(path.read_text()))):
            found[name] = len(lines)
    assert found == ALLOWED
