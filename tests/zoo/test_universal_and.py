"""Universal AND: closed forms, the module against the blocks, circuits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.universal_and.circuits import chaining, run, wiring
from polyseme.zoo.universal_and.noise import exponent, gate_cosines, neurons_needed, overlap_sums, read_errors
from polyseme.zoo.universal_and.toy import (
    UniversalAnd,
    UniversalAndToy,
    active_inputs,
    deviation,
    enumerated_reads,
    exact_deviation,
    expected_reads,
    mask_blocks,
    pairs,
    reads,
)

SMALL = UniversalAndToy(n_features=8, n_neurons=2_000, active=4, circuit_width=10, depth=3, seeds=(0, 1, 2))


@settings(deadline=None, max_examples=30)
@given(s=st.integers(2, 9), q=st.floats(0.01, 0.9))
def test_the_closed_forms_are_the_sum_over_every_set(s: int, q: float) -> None:
    enumerated = enumerated_reads(s, q)
    for case, value in expected_reads(s, q).items():
        assert value == pytest.approx(enumerated[case], abs=1e-12)


def test_the_documented_example() -> None:
    expected = expected_reads(6, 0.1)
    assert [round(expected[case], 4) for case in ("both", "one", "none")] == [1.4, 0.5, 0.1314]
    assert deviation(6, 0.1, 16_000) == pytest.approx(0.05303, abs=1e-5)
    assert 1 < exact_deviation(6, 0.1, 16_000) / deviation(6, 0.1, 16_000) < 1.005


def test_a_network_by_hand() -> None:
    # Neurons {0, 1}, {0, 1, 2}, {2}: with 0, 1 and 2 on they read 1, 2 and 0.
    net = UniversalAnd(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))
    assert net(torch.ones(1, 3)).tolist() == [[1.5, 2.0, 2.0]]
    assert net(torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [[0.0, 0.0, 0.0]]


def test_the_module_is_what_the_blocks_read() -> None:
    x = active_inputs(Draws(SMALL.seeds, "test"), 1, 8, 4)[:, 0]
    blocks = reads(SMALL, x, SMALL.seeds)
    for toy, row, read in zip(SMALL.train(Silent()), x, blocks, strict=True):
        torch.testing.assert_close(toy.module(row[None])[0], read)


def test_a_network_does_not_depend_on_its_batch() -> None:
    together = torch.cat(list(mask_blocks(SMALL, (0, 1))), dim=1)
    alone = torch.cat(list(mask_blocks(SMALL, (1,))), dim=1)
    assert torch.equal(together[1], alone[0])


def test_directions_are_what_a_single_pair_writes() -> None:
    toy = SMALL.train(Silent())[0]
    first, second = pairs(8)
    x = torch.zeros(len(first), 8)
    x[range(len(first)), first] = 1
    x[range(len(first)), second] = 1
    site = toy.truth.site
    assert toy.truth.directions is not None
    torch.testing.assert_close(toy.network().read(x, [site])[site], toy.truth.directions)


def test_a_draw_has_so_many_on_and_their_ands() -> None:
    sample = SMALL.draw(50, torch.Generator().manual_seed(0))
    assert (sample.inputs.sum(-1) == 4).all()
    assert (sample.features.sum(-1) == math.comb(4, 2)).all()


def test_the_exponents_of_known_overlaps() -> None:
    draws = Draws([0, 1], "test")
    overlap = Draws([5, 6]).normal(4096)
    overlap = overlap - overlap.mean(-1, keepdim=True)
    sums = [overlap_sums(overlap, k, 400, draws) for k in (4, 16, 64)]
    assert exponent((4, 16, 64), torch.stack([s for _, s in sums])) == pytest.approx([1, 1], abs=0.02)
    assert exponent((4, 16, 64), torch.stack([r for r, _ in sums])) == pytest.approx([0.5, 0.5], abs=0.06)


def test_cosines_of_gates() -> None:
    cosines = gate_cosines(UniversalAndToy(n_neurons=60_000, q=0.3, seeds=(0, 1)))
    expected = {"raw sharing": 0.3, "raw disjoint": 0.09, "centred sharing": 0.3 / 1.3, "centred disjoint": 0.0}
    for name, value in expected.items():
        assert cosines[name].tolist() == pytest.approx([value, value], abs=0.02)


def test_a_circuits_gates_on_are_pairs_of_inputs_on() -> None:
    first, second = wiring(Draws([0, 1, 2]), 12, 4)
    assert (first < second).all()
    assert (second[:, :4] < 4).all()
    assert (second[:, 4:] >= 4).all()
    codes = first * 12 + second
    assert all(len(set(row.tolist())) == 12 for row in codes)


def test_a_circuit_of_many_neurons_and_rare_sets_survives_and_a_crowded_one_does_not() -> None:
    rare = run(SMALL.model_copy(update={"n_neurons": 20_000, "q": 0.05, "depth": 2}), Silent())
    assert rare["with"].depth.tolist() == [2, 2, 2]
    crowded = run(SMALL.model_copy(update={"q": 0.8, "n_neurons": 200}), Silent())
    assert (crowded["with"].depth < 3).all()


def test_chaining_says_what_it_ran_on() -> None:
    checks = chaining(SMALL, Silent())
    assert [c.n for c in checks] == [3, 3, 3]
    assert "10 gates a layer, 4 on" in checks[0].note


def test_superposed_inputs_read_better_with_more_neurons() -> None:
    assert read_errors(64, 400, [0.2], 2, 128, 0) < read_errors(64, 40, [0.2], 2, 128, 0)


def test_a_network_without_sets_reads_nothing_and_is_wrong_where_both_are_on() -> None:
    # Read-offs of 0: an error of 1 + (s − 2)q where both are on, (s − 1)q where one is, and q as good as 0.
    assert read_errors(64, 16, [1e-9], 2, 100, 0).tolist() == pytest.approx([math.sqrt(0.5)])


def test_networks_of_several_q_are_those_of_each() -> None:
    together, alone = read_errors(64, 32, [0.1, 0.3], 3, 50, 1), read_errors(64, 32, [0.3], 3, 50, 1)
    assert together[1] == alone[0]


def test_read_errors_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_errors(64, 48, [0.2], 2, 50, 0)
    monkeypatch.setattr("polyseme.zoo.universal_and.noise.BLOCK_ELEMENTS", 64 * 5)
    torch.testing.assert_close(read_errors(64, 48, [0.2], 2, 50, 0), whole)


def test_the_neurons_needed_are_where_the_error_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def known(m: int, d: int, qs: list[float], *_: int) -> torch.Tensor:  # crosses .4 at d = .4 m
        sizes.append(d)
        return torch.tensor([0.4 * (0.4 * m / d) ** 0.5 + 0.01 * i for i in range(len(qs))])

    monkeypatch.setattr("polyseme.zoo.universal_and.noise.read_errors", known)
    for m in (40, 1_000, 100_000):
        assert neurons_needed(m, 0) == pytest.approx(0.4 * m, rel=0.01)
    assert math.isnan(neurons_needed(1_000, 0, error=0.1))
    assert max(sizes) <= 100_000


def test_the_neurons_needed_hold_the_error() -> None:
    needed = neurons_needed(128, 0)
    assert 16 < needed < 128
    qs = [0.1, 0.2, 0.3]
    assert float(read_errors(128, round(needed / 2), qs, 2, 512, seed=9).min()) > 0.4


@pytest.mark.parametrize(
    "bad",
    [{"q": 0.0}, {"q": 1.0}, {"active": 15}, {"active": 1}, {"seeds": ()}, {"n_neurons": 50}, {"circuit_width": 7}],
)
def test_bad_input_comes_before_work(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        UniversalAndToy(**bad)
