"""A diagnosis in other units: what is only a choice of coordinates changes no signature and no answer.

Every system is rebuilt with its inputs, its outputs and its site in other coordinates, the weights changed to match, so
that the network and the features stay as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from polyseme.diagnosis import Diagnosis, DiagnosisConfig, diagnose
from polyseme.diagnosis.signatures import BLIND_SIGNATURES, SIGNATURES
from polyseme.networks import load_network
from tests.diagnosis.systems import collided, generator, orthogonal, pairs, polygon, sparse

SMALL = DiagnosisConfig(n_resamples=20, n_null=200, min_rows=128)
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class System:
    """A network `read(write(x))` whose site is `write(x)`, with its data; siblings write other sites."""

    write: Map
    read: Map
    inputs: Tensor
    siblings: tuple[Map, ...] = ()


@dataclass(frozen=True)
class Coordinates:
    """Other coordinates of a system.

    Attributes:
        units, shift: the inputs become `x · units + shift`.
        order: of the input variables.
        outputs: from the number of outputs to what they are multiplied by.
        site: what the site's vectors are multiplied by.
        neurons: whether the neurons are shuffled.
        rows: from the number of rows to those that are used.
    """

    units: Tensor | float = 1.0
    shift: Tensor | float = 0.0
    order: Tensor | None = None
    outputs: Callable[[int], Tensor | float] = lambda _: 1.0
    site: float = 1.0
    neurons: bool = False
    rows: Callable[[int], Tensor] | None = None


class Moved(nn.Module):
    """A system's network in other coordinates."""

    def __init__(self, write: Map, read: Map, at: Coordinates):
        super().__init__()
        self.write, self.read, self.at, self.hidden = write, read, at, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.at.shift) / self.at.units
        if self.at.order is not None:
            x = x[:, self.at.order.argsort()]
        h = self.write(x)
        order = torch.randperm(h.shape[-1], generator=generator(5)) if self.at.neurons else torch.arange(h.shape[-1])
        out = self.read((self.hidden(h[..., order] * self.at.site) / self.at.site)[..., order.argsort()])
        return out * self.at.outputs(out.shape[-1])


def tied(W: Tensor) -> tuple[Map, Map]:
    return (lambda x: x @ W.T), (lambda h: torch.relu(h @ W))


def signs(n: int, rows: int = 1024) -> Tensor:
    return torch.randint(0, 2, (rows, n), generator=generator(0)).float() * 2 - 1


QUARTERS = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
TWO_A_NEURON = torch.cat([torch.eye(6), torch.eye(6).roll(1, 0)], 1)
HEAVY = torch.randn(1024, 5, generator=generator(3)).exp() * (torch.rand(1024, 5, generator=generator(4)) < 0.2)
SYSTEMS: dict[str, System] = {
    "axes": System(*tied(torch.eye(6)), sparse(6, 0)),
    "axes, always on": System(*tied(torch.eye(6)), sparse(6, 0, 1.0)),
    "rotated": System(*tied(orthogonal(6, 0)), sparse(6, 0)),
    "pentagon": System(*tied(1.2 * polygon(5)), sparse(5, 1, 0.05)),
    "antipodal": System(*tied(orthogonal(4, 0) @ torch.cat([torch.eye(4), -torch.eye(4)], 1)), sparse(8, 0)),
    "two a neuron": System(*tied(TWO_A_NEURON), sparse(12, 5, 0.08)),
    "random": System(*tied(torch.randn(4, 12, generator=generator(7))), sparse(12, 2)),
    "heavy tails": System(*tied(orthogonal(5, 3)), HEAVY),
    "correlated": System(*tied(orthogonal(3, 0).repeat_interleave(2, 1)), pairs(0, 1.0)),
    "incidental": System(
        *tied(collided(0)),
        torch.eye(12)[torch.randint(12, (512,), generator=generator(0))],
        tuple(tied(collided(seed))[0] for seed in range(1, 5)),
    ),
    "product": System(
        lambda x: torch.relu(x @ QUARTERS.T),
        lambda h: h @ torch.tensor([[1.0], [1], [-1], [-1]]),
        torch.randn(1024, 2, generator=generator(0)),
        (
            lambda x: torch.relu(x @ (QUARTERS * torch.tensor([[1.0], [1.2], [0.9], [1]])).T),
            lambda x: torch.relu(x @ (QUARTERS * torch.tensor([[1.1], [0.8], [1], [1]])).T),
        ),
    ),
    "two signs": System(
        lambda x: torch.relu(torch.cat([x, -x], 1)),
        lambda h: h @ torch.randn(6, 3, generator=generator(1)),
        2 * sparse(3, 0, 1.0) - 1,
    ),
    "gated": System(
        lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 1], x[:, 0] * x[:, 2], x[:, 2]], 1),
        lambda h: h @ torch.randn(4, 2, generator=generator(1)),
        signs(3),
    ),
    "thresholds": System(
        lambda x: x @ orthogonal(4, 2).T, lambda h: h @ orthogonal(4, 2) + torch.tensor([1.0, 0, -1, 2]), sparse(4, 3)
    ),
    "parity": System(lambda x: x, lambda h: (1 - 2 * h).prod(1, keepdim=True), (signs(5) + 1) / 2),
}
UNITS = torch.tensor([1.0, 5.0, 0.01, 300.0, 1e-4, 7.0])
EXACT: dict[str, Callable[[int], Coordinates]] = {
    "units of half of the inputs": lambda n: Coordinates(units=torch.where(torch.arange(n) < n / 2, 1.0, 10.0)),
    "units of every input": lambda n: Coordinates(units=UNITS.repeat(4)[:n]),
    "signs of inputs": lambda n: Coordinates(units=torch.where(torch.arange(n) % 3 == 1, -1.0, 1.0)),
    "shift of inputs": lambda n: Coordinates(shift=torch.arange(n) - 1.5),
    "units of outputs": lambda n: Coordinates(outputs=lambda m: UNITS.repeat(8)[1 : 1 + m]),
    "small outputs": lambda n: Coordinates(outputs=lambda m: 1e-12),
    "scale of the site": lambda n: Coordinates(site=1e-6),
    "large site": lambda n: Coordinates(site=3e5),
}


def everything(n: int) -> Coordinates:
    units = UNITS.repeat(4)[:n] * torch.where(torch.arange(n) % 3 == 1, -1.0, 1.0)
    return Coordinates(
        units=units, shift=(torch.arange(n) - 1.5) * units, outputs=lambda m: UNITS.repeat(8)[1 : 1 + m], site=300.0
    )


def reordered(n: int) -> Coordinates:
    return Coordinates(
        order=torch.randperm(n, generator=generator(11)),
        neurons=True,
        rows=lambda m: torch.randperm(m, generator=generator(12)),
    )


def diagnosed(system: System, at: Coordinates) -> Diagnosis:
    inputs = system.inputs if at.order is None else system.inputs[:, at.order]
    inputs = inputs * at.units + at.shift
    inputs = inputs if at.rows is None else inputs[at.rows(len(inputs))]
    networks = [
        load_network(Moved(write, system.read, at), example_inputs=inputs[:2])
        for write in (system.write, *system.siblings)
    ]
    return diagnose(networks[0], "hidden", inputs, SMALL, siblings=networks[1:])


@cache
def plain(name: str) -> Diagnosis:
    return diagnosed(SYSTEMS[name], Coordinates())


def assert_same(found: Diagnosis, expected: Diagnosis, tolerance: float, *, passed: bool) -> None:
    assert (found.answer, found.reason) == (expected.answer, expected.reason)
    assert len(found.features) == len(expected.features)
    for line in expected.evidence:
        assert found.line(line.name).effect == pytest.approx(line.effect, abs=tolerance, nan_ok=True), line.name
        assert not passed or found.line(line.name).passed == line.passed, line.name


def test_the_systems_have_different_answers_and_every_signature_is_measured_on_one():
    answers = {plain(name).answer for name in SYSTEMS}
    assert answers >= {
        *("aligned", "rotated", "superposition", "correlated", "incidental", "non_linear", "compositional", "abstain")
    }
    measured = {line.name for name in SYSTEMS for line in plain(name).evidence if line.effect == line.effect}
    assert measured == set(SIGNATURES)


@pytest.mark.parametrize("name", SYSTEMS)
def test_units_signs_and_shifts_together_change_nothing(name: str):
    system = SYSTEMS[name]
    assert_same(diagnosed(system, everything(system.inputs.shape[1])), plain(name), 2e-3, passed=True)


@pytest.mark.parametrize("change", EXACT)
@pytest.mark.parametrize("name", ["two a neuron", "product", "thresholds"])
def test_each_alone_changes_nothing(name: str, change: str):
    system = SYSTEMS[name]
    assert_same(diagnosed(system, EXACT[change](system.inputs.shape[1])), plain(name), 2e-3, passed=True)


@pytest.mark.parametrize("name", SYSTEMS)
def test_order_of_variables_neurons_and_rows_changes_no_answer(name: str):
    # Other rows are held out and other draws of the nulls are made, so that a p-value may pass its level.
    system = SYSTEMS[name]
    assert_same(diagnosed(system, reordered(system.inputs.shape[1])), plain(name), 0.1, passed=False)


@pytest.mark.parametrize("name", SYSTEMS)
def test_rows_given_twice_change_no_answer(name: str):
    # More rows measure what fewer could not, and a row may be held out from its own copy: effects may differ.
    found = diagnosed(SYSTEMS[name], Coordinates(rows=lambda m: torch.arange(m).repeat(2)))
    assert (found.answer, len(found.features)) == (plain(name).answer, len(plain(name).features))


def crowd(n: int, d: int, rate: float) -> Tensor:
    g = generator(3)
    W = nn.functional.normalize(torch.randn(n, d, generator=g), dim=1)
    return ((torch.rand(3000, n, generator=g) < rate) * (0.5 + torch.rand(3000, n, generator=g))) @ W


VECTORS = {
    "axes": torch.empty(3000, 4).exponential_(generator=generator(2)),
    "turned": torch.empty(3000, 6).exponential_(generator=generator(2)) @ orthogonal(6, 4),
    "crowded": crowd(24, 6, 0.04),
}
SCALES = (3e5, 1e-6)
MOVES: dict[str, Map] = {
    "elsewhere": lambda x: x + torch.arange(x.shape[1]) - 1,
    "neurons in another order": lambda x: x.flip(1),
    "neurons turned round": lambda x: x * (1 - 2 * (torch.arange(x.shape[1]) % 2)),
    "rows in another order": lambda x: x.flip(0),
}


def seen_blind(x: Tensor) -> Diagnosis:
    """Vectors alone: sequences of one position have no variables. The controls are Gaussian mixtures of their size."""

    class Site(nn.Module):
        def __init__(self, turn: Tensor | None = None):
            super().__init__()
            self.hidden, self.turn = nn.Identity(), turn

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.randn(x.shape, generator=generator(9))
            return self.hidden(x if self.turn is None else x.std() * (noise @ self.turn))

    turns = [torch.randn(x.shape[1], x.shape[1], generator=generator(seed)) for seed in (6, 7)]
    networks = [load_network(Site(turn), example_inputs=x[:2, None]) for turn in (None, *turns)]
    return diagnose(networks[0], "hidden", x[:, None], SMALL, controls=networks[1:])


@cache
def blind(name: str) -> Diagnosis:
    return seen_blind(VECTORS[name])


def test_the_vectors_have_different_answers():
    assert {blind(name).answer for name in VECTORS} == {"aligned", "superposition", "abstain"}
    assert {line.name for line in blind("axes").evidence} == set(BLIND_SIGNATURES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", VECTORS)
def test_the_scale_of_vectors_alone_changes_nothing(name: str, scale: float):
    assert_same(seen_blind(scale * VECTORS[name]), blind(name), 2e-3, passed=True)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", ["axes", "crowded"])  # what is turned lies within the error of two answers
def test_vectors_alone_in_other_coordinates_have_the_same_answer(name: str, move: str):
    found, expected = seen_blind(MOVES[move](VECTORS[name])), blind(name)
    assert (found.answer, found.reason) == (expected.answer, expected.reason)
    assert found.line("sources").effect == pytest.approx(expected.line("sources").effect, abs=0.01)
