"""A network and its data in other coordinates, with the weights changed to match, so that its function stays."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyseme.diagnosis import Diagnosis, DiagnosisConfig, diagnose
from polyseme.networks import Network, load_network

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A network, the path of the module whose output is the site, data, and networks of other seeds.

    Without variables (`blind`), networks with re-initialised weights stand beside it instead.
    """

    module: nn.Module
    site: str
    inputs: Tensor
    siblings: tuple[nn.Module, ...] = ()
    controls: tuple[nn.Module, ...] = ()


@dataclass(frozen=True)
class Coordinates:
    """Other coordinates.

    Attributes:
        inputs: what the data become.
        back: what the network is given of them, which is what it was given before.
        site: the matrix that the site's vectors are multiplied by; what reads them is multiplied by its inverse.
        outputs: what becomes of the outputs.
        rows: from the number of rows to those that are used.
        dtype: the precision of the network and its vector inputs.
    """

    inputs: Map = lambda x: x
    back: Map = lambda x: x
    site: Callable[[int], Tensor] | None = None
    outputs: Map = lambda y: y
    rows: Callable[[int], Tensor] | None = None
    dtype: torch.dtype | None = None


class _Site(nn.Module):
    """The output of a module, multiplied by a matrix, and divided by it again behind `site`."""

    def __init__(self, inner: nn.Module, matrix: Callable[[int], Tensor] | None):
        super().__init__()
        self.inner, self.site, self.matrix = inner, nn.Identity(), matrix

    def forward(self, *given: Tensor) -> Tensor:
        h = self.inner(*given)
        if self.matrix is None:
            return self.site(h)
        turn = self.matrix(h.shape[-1])
        return self.site(h @ turn.to(h.dtype)) @ torch.linalg.inv(turn).to(h.dtype)


class _Moved(nn.Module):
    def __init__(self, module: nn.Module, path: str, at: Coordinates):
        super().__init__()
        self.network, self.at = copy.deepcopy(module), at
        above, _, last = path.rpartition(".")
        parent = self.network.get_submodule(above)
        setattr(parent, last, _Site(getattr(parent, last), at.site))
        if at.dtype is not None:
            self.to(at.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.at.outputs(self.network(self.at.back(x)))


def diagnosed(case: Case, at: Coordinates, config: DiagnosisConfig) -> Diagnosis:
    """The diagnosis of a network in other coordinates."""
    inputs = case.inputs if at.dtype is None or not case.inputs.is_floating_point() else case.inputs.to(at.dtype)
    inputs = at.inputs(inputs)
    inputs = inputs if at.rows is None else inputs[at.rows(len(inputs))]

    def moved(module: nn.Module) -> Network:
        return load_network(_Moved(module, case.site, at), example_inputs=inputs[:2])

    return diagnose(
        moved(case.module),
        f"network.{case.site}.site",
        inputs,
        config,
        siblings=[moved(module) for module in case.siblings],
        controls=[moved(module) for module in case.controls],
    )


def columns(
    n: int, factor: Tensor | float = 1.0, shift: Tensor | float = 0.0, order: Tensor | None = None
) -> Coordinates:
    """Every input variable multiplied by its factor, moved by its shift, and at another place."""
    places = torch.arange(n) if order is None else order
    return Coordinates(
        inputs=lambda x: ((x * torch.as_tensor(factor, dtype=x.dtype)) + torch.as_tensor(shift, dtype=x.dtype))[
            :, places
        ],
        back=lambda x: (
            (x[:, places.argsort()] - torch.as_tensor(shift, dtype=x.dtype)) / torch.as_tensor(factor, dtype=x.dtype)
        ),
    )
