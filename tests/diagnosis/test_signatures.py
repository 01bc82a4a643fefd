"""Every signature on a system whose effect is known in closed form, and on one where its null holds."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from polyseme.diagnosis import DiagnosisConfig
from polyseme.diagnosis.components import WIDE, independent_sources, principal_axes
from polyseme.diagnosis.geometry import purity
from polyseme.diagnosis.line import Line
from polyseme.diagnosis.observations import Observations, observe
from polyseme.diagnosis.signatures import BLIND_SIGNATURES, SIGNATURES
from polyseme.networks import Network, load_network
from tests.diagnosis.systems import Layer, collided, generator, layer, orthogonal, pairs, polygon, sparse, tied

SMALL = DiagnosisConfig(n_resamples=30, n_null=200, min_rows=128)
HADAMARD = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
ANTIPODAL = torch.cat([torch.eye(4), -torch.eye(4)], 1)
SHARED = torch.eye(20)[:, [0, 0, *range(2, 20)]] * torch.tensor([1.0, -1] + [1.0] * 18)
QUARTERS = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])


def signs(n: int, rows: int = 2048) -> Tensor:
    return torch.randint(0, 2, (rows, n), generator=generator(0)).float() * 2 - 1


def seen(network: Network, inputs: Tensor, **others: object) -> Observations:
    return observe(network, "hidden", inputs, SMALL, **others)


def plain(f: Callable[[Tensor], Tensor], n: int, d: int) -> Network:
    return layer(f, torch.ones(d, 1), n)


def vectors(x: Tensor, controls: int = 0) -> Observations:
    """A site of which only the vectors are known: x itself, as sequences of one position."""
    network = load_network(Layer(lambda h: h, torch.ones(x.shape[1], 1)), example_inputs=x[:2, None])
    return observe(network, "hidden", x[:, None], SMALL, controls=[network_of(x, i) for i in range(controls)])


def network_of(x: Tensor, seed: int) -> Network:
    """A control: the same vectors through a random matrix, which leaves Gaussian mixtures."""
    d = x.shape[1]
    turn = torch.randn(d, d, generator=generator(seed)) / math.sqrt(d)
    return load_network(
        Layer(lambda h: torch.randn(h.shape, generator=generator(9)) @ turn, torch.ones(d, 1)),
        example_inputs=x[:2, None],
    )


def exponential(n: int, rows: int = 3000) -> Tensor:
    return torch.empty(rows, n).exponential_(generator=generator(2))


def siblings(*seeds: int) -> list[Network]:
    return [tied(collided(seed)) for seed in seeds]


ONE_HOT = torch.eye(12)[torch.randint(12, (512,), generator=generator(0))]
PENTAGON = tied(1.2 * polygon(5))
PRODUCT = plain(lambda x: x[:, :1] * x[:, 1:], 2, 1)
SUM = plain(lambda x: x @ HADAMARD, 4, 4)


class Compared(torch.nn.Module):
    """(h, 1): which is the larger changes with h's length."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return torch.cat([h[:, :1], torch.ones(len(h), 1)], 1)


class Parity(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(x).prod(1, keepdim=True)


def compared() -> Observations:
    x = 2 * torch.rand(4096, 2, generator=generator(5))
    return seen(load_network(Compared(), example_inputs=x[:2]), x)


def gated() -> Observations:
    # x0 x1 and x1: no weighted sum of the two is x0, and their product is.
    return seen(plain(lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 1]], 1), 2, 2), signs(2))


def decagon(controls: int) -> Observations:
    """Ten one-hot directions, five lines, in two dimensions, as vectors alone."""
    which = torch.randint(5, (3000,), generator=generator(1))
    size = 0.5 + torch.rand(3000, 1, generator=generator(2))
    return vectors(polygon(5).T[which] * size, controls)


# name: (system of a known effect, the effect, tolerance, passed), twice: where the signature is there, where it is not.
CASES: dict[str, list[tuple[Callable[[], Observations], float, float, bool]]] = {
    "features_per_dimension": [
        (lambda: seen(PENTAGON, sparse(5, 1)), 2.5, 1e-9, True),
        (lambda: seen(tied(orthogonal(5, 0)), sparse(5, 1)), 1.0, 1e-9, False),
    ],
    "groups_per_dimension": [
        (lambda: seen(PENTAGON, sparse(5, 1)), 2.5, 1e-9, True),
        (lambda: seen(tied(orthogonal(3, 0).repeat_interleave(2, 1)), pairs(0, 1.0)), 1.0, 1e-9, False),
    ],
    # 12 features of which 3 pairs share a neuron leave 24 − 9 neurons.
    "spare_dimensions": [
        (lambda: seen(tied(collided(0)), ONE_HOT), 15.0, 1e-9, True),
        (lambda: seen(SUM, sparse(4, 0)), 0.0, 1e-9, False),
    ],
    "neuron_purity": [
        (lambda: seen(tied(torch.eye(6)), sparse(6, 0)), 1.0, 1e-6, True),
        (lambda: seen(SUM, signs(4)), 0.25, 1e-5, False),
    ],
    "worst_neuron": [
        (lambda: seen(tied(torch.eye(6)), sparse(6, 0)), 1.0, 1e-6, True),
        (lambda: seen(tied(SHARED), signs(20)), 0.5, 1e-5, False),
    ],
    "neuron_concentration": [
        (lambda: seen(tied(SHARED), sparse(20, 0)), 1.0, 1e-5, True),
        (lambda: seen(SUM, sparse(4, 0)), 0.25, 1e-5, False),
    ],
    "rotation": [
        (lambda: seen(SUM, sparse(4, 0)), 1.0, 1e-5, True),
        (lambda: seen(PENTAGON, sparse(5, 1)), 0.4, 1e-4, False),
    ],
    # Two features of twenty on one line leave an axis that both have half of; the others have their own.
    "worst_rotation": [
        (lambda: seen(SUM, sparse(4, 0)), 1.0, 1e-5, True),
        (lambda: seen(tied(orthogonal(20, 1) @ SHARED), signs(20)), 0.5, 1e-5, False),
    ],
    # Neurons x + y and x − y are pure in the variables turned by 45°; three at 60° are not in any.
    "variable_rotation": [
        (
            lambda: seen(plain(lambda x: x @ QUARTERS.T, 2, 4), torch.randn(1024, 2, generator=generator(0))),
            1.0,
            1e-3,
            True,
        ),
        (
            lambda: seen(plain(lambda x: x @ polygon(3), 2, 3), torch.randn(1024, 2, generator=generator(0))),
            5 / 6,
            0.02,
            False,
        ),
    ],
    "arrangement": [
        (lambda: seen(tied(orthogonal(4, 0) @ ANTIPODAL), sparse(8, 0)), 0.0, 1e-6, True),
        (lambda: seen(tied(torch.ones(2, 4)), sparse(4, 0)), 3.0, 1e-6, False),
    ],
    "co_firing": [
        (lambda: seen(tied(orthogonal(3, 0).repeat_interleave(2, 1)), pairs(0, 1.0)), 1.0, 1e-6, True),
        (lambda: seen(tied(orthogonal(3, 0).repeat_interleave(2, 1)), pairs(0, 0.0)), 0.0, 0.1, False),
    ],
    # (a₀ − b₀)(a₁ − b₁) where exactly one of the two coordinates is crossed, half of the time: 4 · ½ / 4.
    "additivity": [
        (lambda: seen(SUM, signs(4)), 0.0, 1e-9, True),
        (
            lambda: seen(plain(lambda x: torch.cat([x[:, :1] * x[:, 1:], 0 * x[:, :1]], 1), 2, 2), signs(2)),
            0.5,
            0.12,
            False,
        ),
    ],
    "gating": [
        (lambda: seen(plain(lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 1]], 1), 2, 2), signs(2)), 0.5, 0.02, True),
        (lambda: seen(SUM, signs(4)), 0.0, 1e-3, False),
    ],
    # h ~ U(0, 2) against 1: halved, it falls below on ½ of the rows; doubled, it passes 1 on ¼.
    "scaling": [
        (compared, 0.375, 0.04, True),
        (lambda: seen(tied(orthogonal(4, 0)), sparse(4, 0, 1.0)), 0.0, 1e-9, False),
    ],
    # Linear probes of n independent features from m dimensions that hold them evenly: R² = m / n.
    "linear_read": [
        (lambda: seen(SUM, sparse(4, 0)), 1.0, 1e-3, True),
        (lambda: seen(PENTAGON, sparse(5, 1)), 0.4, 0.06, False),
    ],
    "sparse_read": [
        (lambda: seen(PENTAGON, sparse(5, 1, 0.02, 4096)), 0.57, 0.06, True),
        (lambda: seen(SUM, sparse(4, 0)), 0.0, 0.02, False),
    ],
    "probe_gap": [
        (gated, 0.5, 0.05, True),
        (lambda: seen(SUM, signs(4)), 0.0, 0.02, False),
    ],
    "output_joint": [
        (lambda: seen(load_network(Parity(), example_inputs=signs(5, 2)), signs(5)), 0.0, 0.02, True),
        (lambda: seen(plain(lambda x: x, 5, 5), signs(5)), 1.0, 1e-3, False),
    ],
    "partners": [
        (lambda: seen(tied(collided(0)), ONE_HOT, siblings=siblings(1, 2, 3, 4)), 0.0, 0.2, True),
        (lambda: seen(tied(collided(0)), ONE_HOT, siblings=siblings(0, 0)), 1.0, 1e-9, False),
    ],
    # Signs: log cosh 1 − .3746 for each, of which random components keep what their own rows show.
    "sources": [
        (lambda: vectors(signs(8, 4000) @ orthogonal(8, 0)), math.log(math.cosh(1)) - 0.3746 - 0.007, 0.012, True),
        (lambda: vectors(torch.randn(3000, 4, generator=generator(3))), 0.0, 0.009, False),
    ],
    "two_sided": [
        (lambda: vectors(exponential(4) * signs(4, 3000)), 1.0, 1e-9, True),
        (lambda: vectors(exponential(4)), 0.0, 1e-9, False),
    ],
    "source_purity": [
        (lambda: vectors(exponential(4)), 1.0, 0.03, True),
        (lambda: vectors(exponential(4) @ HADAMARD), 0.25, 0.1, False),
    ],
    "source_rotation": [
        (lambda: vectors(exponential(6) @ orthogonal(6, 4)), 1.0, 0.03, True),
        (lambda: vectors(exponential(2) @ torch.tensor([[1.0, 0.0], [0.9, 0.44]])), 0.64, 0.1, False),
    ],
    # Five lines of one entry each: the two best of a complete code leave three fifths of the directions badly off.
    "overcomplete_gain": [
        (lambda: decagon(2), 0.2, 0.12, True),
        (lambda: decagon(0), 0.2, 0.12, False),
    ],
}


def test_every_signature_has_a_known_answer() -> None:
    assert set(CASES) == {*SIGNATURES, *BLIND_SIGNATURES}


@pytest.mark.parametrize(("name", "case"), [(name, i) for name, both in CASES.items() for i in range(len(both))])
def test_known_answers(name: str, case: int) -> None:
    make, effect, tolerance, passed = CASES[name][case]
    line: Line = {**SIGNATURES, **BLIND_SIGNATURES}[name](make())
    assert line.name == name
    assert line.effect == pytest.approx(effect, abs=tolerance), line
    assert line.passed == passed, line
    assert line.n > 0
    assert not math.isnan(line.threshold)
    if line.interval is not None:
        assert line.interval.low - 0.02 <= line.effect <= line.interval.high + 0.02


def test_signatures_that_cannot_be_measured_say_what_they_lack() -> None:
    x = torch.randn(512, 1, generator=generator(0))
    alone = seen(plain(lambda x: x.repeat(1, 2), 1, 2), x)
    for name, lacks in (
        ("variable_rotation", "features and at most 256 neurons"),
        ("gating", "two variables"),
        ("scaling", "two or more numbers"),
        ("partners", "no features collide"),
    ):
        line = SIGNATURES[name](alone)
        assert np.isnan(line.effect)
        assert not line.passed
        assert lacks in line.note
    assert "siblings" in SIGNATURES["partners"](seen(tied(collided(0)), ONE_HOT)).note


def test_wide_vectors_have_the_same_components_by_their_covariance() -> None:
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((800, 300)) @ (rng.standard_normal((300, 300)) * np.linspace(3, 0.1, 300))
    centred = wide - wide.mean(0)
    values, axes = principal_axes(centred, 5)
    _, expected, vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(values, expected[:5], rtol=1e-10)
    np.testing.assert_allclose(np.abs((axes.T * vt[:5]).sum(1)), 1, rtol=1e-10)
    # Padded with neurons that never vary, narrow vectors take the other way and keep their sources' purity.
    narrow = exponential(6, 1000).double().numpy()
    padded = np.concatenate([narrow, np.zeros((1000, WIDE))], axis=1)
    fit = np.arange(1000)
    few, many = (independent_sources(v, fit, np.random.default_rng(1)).directions for v in (narrow, padded))
    np.testing.assert_allclose(purity(many), purity(few), atol=0.01)
    assert purity(few) > 0.9
