"""A diagnosis in other coordinates: what is only a choice of them changes no signature and no answer.

Every network is rebuilt with its inputs, its outputs and its site in other coordinates, the weights changed to match,
so that what it computes stays as it is. Signatures are tested by being in the table of signatures, networks by being in
the table of the confusion matrix; `DEPENDS` holds every exception with its reason.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from polyseme.core.progress import Silent
from polyseme.core.seeds import make_generator
from polyseme.diagnosis import Diagnosis, DiagnosisConfig
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.signatures import BLIND_SIGNATURES, SIGNATURES
from polyseme.trials.diagnosis import CLASSES, Class
from tests.diagnosis.coordinates import Case, Coordinates, Map, columns, diagnosed
from tests.diagnosis.systems import collided, generator, orthogonal, pairs, polygon, sparse

SMALL = DiagnosisConfig(n_resamples=20, n_null=200, min_rows=128)
ROUNDING = 1e-3


class Made(nn.Module):
    """A network `read(hidden)`, where `hidden` is what `write` makes of the inputs."""

    def __init__(self, write: Map, read: Map):
        super().__init__()
        self.write, self.read, self.hidden = write, read, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.hidden(self.write(x)))


def made(write: Map, read: Map, inputs: Tensor, siblings: tuple[Map, ...] = ()) -> Case:
    return Case(Made(write, read), "hidden", inputs, tuple(Made(other, read) for other in siblings))


def tied(W: Tensor) -> tuple[Map, Map]:
    return (lambda x: x @ W.T), (lambda h: torch.relu(h @ W))


def signs(n: int, rows: int = 1024) -> Tensor:
    return torch.randint(0, 2, (rows, n), generator=generator(0)).float() * 2 - 1


QUARTERS = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
TWO_A_NEURON = torch.cat([torch.eye(6), torch.eye(6).roll(1, 0)], 1)
HEAVY = torch.randn(1024, 5, generator=generator(3)).exp() * (torch.rand(1024, 5, generator=generator(4)) < 0.2)
SYSTEMS: dict[str, Case] = {
    "axes": made(*tied(torch.eye(6)), sparse(6, 0)),
    "axes, always on": made(*tied(torch.eye(6)), sparse(6, 0, 1.0)),
    "rotated": made(*tied(orthogonal(6, 0)), sparse(6, 0)),
    "pentagon": made(*tied(1.2 * polygon(5)), sparse(5, 1, 0.05)),
    "antipodal": made(*tied(orthogonal(4, 0) @ torch.cat([torch.eye(4), -torch.eye(4)], 1)), sparse(8, 0)),
    "two a neuron": made(*tied(TWO_A_NEURON), sparse(12, 5, 0.08)),
    "random": made(*tied(torch.randn(4, 12, generator=generator(7))), sparse(12, 2)),
    "heavy tails": made(*tied(orthogonal(5, 3)), HEAVY),
    "correlated": made(*tied(orthogonal(3, 0).repeat_interleave(2, 1)), pairs(0, 1.0)),
    "collided": made(
        *tied(collided(0)),
        torch.eye(12)[torch.randint(12, (512,), generator=generator(0))],
        tuple(tied(collided(seed))[0] for seed in range(1, 5)),
    ),
    "product": made(
        lambda x: torch.relu(x @ QUARTERS.T),
        lambda h: h @ torch.tensor([[1.0], [1], [-1], [-1]]),
        torch.randn(1024, 2, generator=generator(0)),
        (
            lambda x: torch.relu(x @ (QUARTERS * torch.tensor([[1.0], [1.2], [0.9], [1]])).T),
            lambda x: torch.relu(x @ (QUARTERS * torch.tensor([[1.1], [0.8], [1], [1]])).T),
        ),
    ),
    "two signs": made(
        lambda x: torch.relu(torch.cat([x, -x], 1)),
        lambda h: h @ torch.randn(6, 3, generator=generator(1)),
        2 * sparse(3, 0, 1.0) - 1,
    ),
    "gated": made(
        lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 1], x[:, 0] * x[:, 2], x[:, 2]], 1),
        lambda h: h @ torch.randn(4, 2, generator=generator(1)),
        signs(3),
    ),
    "thresholds": made(
        lambda x: x @ orthogonal(4, 2).T, lambda h: h @ orthogonal(4, 2) + torch.tensor([1.0, 0, -1, 2]), sparse(4, 3)
    ),
    "parity": made(lambda x: x, lambda h: (1 - 2 * h).prod(1, keepdim=True), (signs(5) + 1) / 2),
}


@cache
def zoo(name: str) -> Case:
    """The first network of a row of the confusion matrix, with those of two other seeds where they are given."""
    kind: Class = next(kind for kind in CLASSES if kind.name == name)
    toys = kind.toy("calibration", tuple(range(3_000, 3_003))).train(Silent())
    first, *others = [toy for toy in toys if kind.rest(toy)]
    inputs = first.draw(1024, make_generator(0, "invariance")).inputs
    siblings = tuple(toy.module for toy in others) if kind.siblings else ()
    return Case(first.module, first.truth.site.path, inputs, siblings)


def crowd(n: int, d: int, rate: float) -> Tensor:
    g = generator(3)
    W = nn.functional.normalize(torch.randn(n, d, generator=g), dim=1)
    return ((torch.rand(3000, n, generator=g) < rate) * (0.5 + torch.rand(3000, n, generator=g))) @ W


class Blind(nn.Module):
    """Vectors alone: sequences of one position have no variables. The controls are Gaussian mixtures of their size."""

    def __init__(self, turn: Tensor | None = None):
        super().__init__()
        self.hidden, self.turn = nn.Identity(), turn

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=generator(9))
        return self.hidden(x if self.turn is None else x.std() * (noise @ self.turn))


def blind(x: Tensor) -> Case:
    turns = [torch.randn(x.shape[1], x.shape[1], generator=generator(seed)) for seed in (6, 7)]
    return Case(Blind(), "hidden", x[:, None], controls=tuple(map(Blind, turns)))


VECTORS = {
    "vectors on axes": blind(torch.empty(3000, 4).exponential_(generator=generator(2)) ** 1.5),
    "vectors turned": blind(torch.empty(3000, 6).exponential_(generator=generator(2)) @ orthogonal(6, 4)),
    "vectors crowded": blind(crowd(32, 6, 0.02)),
}
ZOO = tuple(kind.name for kind in CLASSES)

UNITS = 10.0 ** torch.tensor([0.0, -3, 2, 3, -1, 1, -2])


def cycled(n: int) -> Tensor:
    return UNITS.repeat(n // len(UNITS) + 1)[:n]


def shuffled(n: int) -> Tensor:
    return torch.randperm(n, generator=generator(11))


def renamed(n: int) -> Coordinates:
    order = shuffled(n)
    return Coordinates(inputs=lambda x: order[x], back=lambda x: order.argsort()[x])


def given_twice(n: int) -> Coordinates:
    # The network is given the mean of the two, so that neither copy is enough.
    return Coordinates(
        inputs=lambda x: torch.cat([x, 3 * x.flip(1)], 1), back=lambda x: (x[:, :n] + x[:, n:].flip(1) / 3) / 2
    )


def with_constants(n: int) -> Coordinates:
    return Coordinates(
        inputs=lambda x: torch.cat([0 * x[:, :1] + 0.1, x, 0 * x[:, :2]], 1), back=lambda x: x[:, 1 : 1 + n]
    )


Change = Callable[[int], Coordinates]
OF_COLUMNS: dict[str, Change] = {
    "units of half of the inputs": lambda n: columns(n, torch.where(torch.arange(n) < n / 2, 1.0, 10.0)),
    "units of every input": lambda n: columns(n, cycled(n)),
    "signs of inputs": lambda n: columns(n, torch.where(torch.arange(n) % 3 == 1, -1.0, 1.0)),
    "shift of inputs": lambda n: columns(n, shift=torch.arange(n) - 1.5),
    "order of inputs": lambda n: columns(n, order=shuffled(n)),
    "constant inputs added": with_constants,
    "inputs given twice": given_twice,
}
"""What leaves the function of a network of vector inputs as it is, by the number of these."""
OF_TOKENS: dict[str, Change] = {"order of tokens": renamed}
OF_SITES: dict[str, Change] = {
    "units of outputs": lambda _: Coordinates(outputs=lambda y: y * cycled(y.shape[-1] + 1)[1:].to(y)),
    "small outputs": lambda _: Coordinates(outputs=lambda y: 1e-12 * y),
    "order of outputs": lambda _: Coordinates(outputs=lambda y: y[..., shuffled(y.shape[-1])]),
    "small site": lambda _: Coordinates(site=lambda d: 1e-6 * torch.eye(d, dtype=torch.float64)),
    "large site": lambda _: Coordinates(site=lambda d: 3e5 * torch.eye(d, dtype=torch.float64)),
    "order of neurons": lambda _: Coordinates(site=lambda d: torch.eye(d, dtype=torch.float64)[shuffled(d)]),
    "site turned": lambda _: Coordinates(site=lambda d: orthogonal(d, 9).double()),
    "units of every neuron": lambda _: Coordinates(site=lambda d: cycled(d).double().sqrt().diag()),
    "double precision": lambda _: Coordinates(dtype=torch.float64),
}
CHANGES = {**OF_COLUMNS, **OF_TOKENS, **OF_SITES}

NEURONS = "is about the neurons, and a turn makes other neurons"
METRIC = "is about lengths and angles at the site, which units of single neurons change"
DEPENDS: dict[str, dict[str, str]] = {
    "site turned": dict.fromkeys(
        ("neuron_purity", "worst_neuron", "neuron_concentration", "variable_rotation", "source_purity"), NEURONS
    ),
    "units of every neuron": dict.fromkeys({*SIGNATURES, *BLIND_SIGNATURES} - {"scaling"}, METRIC),
}
"""Signatures that a change may move by their definition, with the reason; the answer may change with them."""


@cache
def case(name: str) -> Case:
    return VECTORS[name] if name in VECTORS else SYSTEMS[name] if name in SYSTEMS else zoo(name)


@cache
def plain(name: str) -> Diagnosis:
    return diagnosed(case(name), Coordinates(), SMALL)


def moved(name: str, at: Coordinates, *, nulls: bool = True) -> tuple[Diagnosis, dict[str, list[str]]]:
    """The diagnosis in other coordinates, and what of each signature is not equal to rounding."""
    found, expected = diagnosed(case(name), at, SMALL), plain(name)
    changed = {line.name: differences(found.line(line.name), line, nulls) for line in expected.evidence}
    return found, {signature: numbers for signature, numbers in changed.items() if numbers}


def differences(found: Line, expected: Line, nulls: bool) -> list[str]:
    """The numbers of a line that differ: effect and interval, and with `nulls` those that are drawn from the null."""

    def numbers(line: Line) -> dict[str, float]:
        low, high = (line.interval.low, line.interval.high) if line.interval else (math.nan, math.nan)
        drawn = {"null": line.null, "p": line.p_corrected, "threshold": line.threshold, "passed": float(line.passed)}
        return {"effect": line.effect, "low": low, "high": high, **(drawn if nulls else {})}

    other = numbers(found)
    return [
        f"{name} {value:.4g} became {other[name]:.4g}"
        for name, value in numbers(expected).items()
        if other[name] != pytest.approx(value, abs=ROUNDING, nan_ok=True)
    ]


def same_answer(found: Diagnosis, expected: Diagnosis) -> bool:
    return (found.answer, found.reason, len(found.features)) == (
        expected.answer,
        expected.reason,
        len(expected.features),
    )


def test_the_networks_have_different_answers_and_every_signature_is_measured_on_one():
    assert len({*ZOO, *SYSTEMS, *VECTORS}) == len(ZOO) + len(SYSTEMS) + len(VECTORS)
    diagnoses = [plain(name) for name in (*ZOO, *SYSTEMS, *VECTORS)]
    assert {found.answer for found in diagnoses} >= {
        *("aligned", "rotated", "superposition", "correlated", "incidental", "non_linear", "compositional", "abstain")
    }
    measured = {line.name for found in diagnoses for line in found.evidence if line.effect == line.effect}
    assert measured == {*SIGNATURES, *BLIND_SIGNATURES}


PAIRS = [
    (name, change)
    for name in (*ZOO, *VECTORS)
    for change in ({} if name in VECTORS else OF_TOKENS if name == "skip-trigram" else OF_COLUMNS) | OF_SITES
]


@pytest.mark.parametrize(("name", "change"), PAIRS)
def test_no_signature_and_no_answer_depends_on_coordinates(name: str, change: str):
    inputs = case(name).inputs
    size = inputs.shape[-1] if inputs.is_floating_point() else int(inputs.max()) + 1
    # A turned site meets other draws of the null than the one that was not turned.
    found, changed = moved(name, CHANGES[change](size), nulls=change not in DEPENDS)
    assert not {signature: what for signature, what in changed.items() if signature not in DEPENDS.get(change, {})}
    assert change in DEPENDS or same_answer(found, plain(name))


def together(n: int) -> Coordinates:
    factor = cycled(n) * torch.where(torch.arange(n) % 3 == 1, -1.0, 1.0)
    return replace(
        columns(n, factor, (torch.arange(n) - 1.5) * factor, shuffled(n)),
        outputs=lambda y: y * cycled(y.shape[-1]),
        site=lambda d: 300 * torch.eye(d, dtype=torch.float64)[shuffled(d)],
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_all_coordinates_together_change_nothing(name: str):
    found, changed = moved(name, together(case(name).inputs.shape[1]))
    assert not changed
    assert same_answer(found, plain(name))


@pytest.mark.parametrize("name", SYSTEMS)
def test_rows_in_another_order_or_given_twice_change_no_answer(name: str):
    # Other rows are held out, so that effects may differ; more rows measure what fewer could not.
    for rows in (lambda m: torch.randperm(m, generator=generator(12)), lambda m: torch.arange(m).repeat(2)):
        found = diagnosed(case(name), Coordinates(rows=rows), SMALL)
        assert (found.answer, len(found.features)) == (plain(name).answer, len(plain(name).features))


MOVES: dict[str, Map] = {
    "elsewhere": lambda x: x + torch.arange(x.shape[-1]) - 1,
    "neurons turned round": lambda x: x * (1 - 2 * (torch.arange(x.shape[-1]) % 2)),
    "rows in another order": lambda x: x.flip(0),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize(
    "name", ["vectors on axes", "vectors crowded"]
)  # what is turned lies within the error of two answers
def test_vectors_alone_elsewhere_have_the_same_answer(name: str, move: str):
    found = diagnosed(replace(case(name), inputs=MOVES[move](case(name).inputs)), Coordinates(), SMALL)
    assert (found.answer, found.reason) == (plain(name).answer, plain(name).reason)
    # Other rows are held out where they are in another order.
    tolerance = math.inf if move == "rows in another order" else ROUNDING
    assert found.line("sources").effect == pytest.approx(plain(name).line("sources").effect, abs=tolerance)
