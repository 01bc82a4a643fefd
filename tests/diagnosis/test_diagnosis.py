"""Answers on systems whose cause is planted, abstentions where nothing is, and refusals."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from polyseme.core.errors import InputError
from polyseme.diagnosis import DiagnosisConfig, diagnose
from polyseme.diagnosis.observations import parts
from polyseme.networks import load_network
from polyseme.report.diagnosis import print_diagnosis
from tests.diagnosis.systems import collided, generator, layer, orthogonal, pairs, polygon, sparse, tied
from tests.tiny import tiny_gpt2

SMALL = DiagnosisConfig(n_resamples=30, n_null=200, min_rows=128)


def answer(network, inputs, **others):
    return diagnose(network, "hidden", inputs, SMALL, **others)


@pytest.mark.parametrize("rows", [1.0, 0.1])
def test_axes_are_aligned_and_turning_them_only_rotates(rows: float):
    inputs = sparse(6, 0, rows)
    assert answer(tied(torch.eye(6)[torch.randperm(6, generator=generator(0))]), inputs).answer == "aligned"
    for seed in range(3):
        turned = answer(tied(orthogonal(6, seed)), inputs)
        assert turned.answer == "rotated", turned.reason
        assert not turned.line("features_per_dimension").passed


def test_a_pentagon_and_antipodal_pairs_are_superposition_however_turned():
    found = answer(tied(1.2 * polygon(5)), sparse(5, 1, 0.05))
    assert found.answer == "superposition"
    assert found.line("features_per_dimension").effect == 2.5
    assert found.line("linear_read").effect == pytest.approx(0.4, abs=0.05)  # R² = m/n, by zoo's probe identity
    W = torch.cat([torch.eye(4), -torch.eye(4)], 1)
    for seed in (0, 1):
        assert answer(tied(orthogonal(4, seed) @ W), sparse(8, seed)).answer == "superposition"


def test_dense_data_are_no_superposition_though_the_network_is_the_same():
    found = answer(tied(1.2 * polygon(5)), sparse(5, 1, 1.0))
    assert found.answer == "abstain"
    assert not found.line("sparse_read").passed
    assert found.line("arrangement").passed


def test_features_that_fire_together_along_one_direction_are_correlated_and_only_then():
    W = orthogonal(3, 0).repeat_interleave(2, 1)
    assert answer(tied(W), pairs(0, 1.0)).answer == "correlated"
    assert answer(tied(W), pairs(0, 0.0)).answer != "correlated"


def test_collisions_with_room_to_spare_are_incidental_where_siblings_pair_others():
    inputs = torch.eye(12)[torch.randint(12, (512,), generator=generator(0))]
    network = tied(collided(0))
    assert answer(network, inputs, siblings=[tied(collided(seed)) for seed in range(1, 5)]).answer == "incidental"
    alone = answer(network, inputs)
    assert alone.answer == "abstain"
    assert "siblings" in alone.reason
    same = answer(network, inputs, siblings=[tied(collided(0)) for _ in range(4)])
    assert same.answer == "abstain"
    assert same.line("partners").effect == 1


def test_a_product_read_at_45_degrees_is_rotated_and_behind_the_relu_with_siblings():
    W = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]])
    read = torch.tensor([[1.0], [1], [-1], [-1]])
    inputs = torch.randn(1024, 2, generator=generator(0))
    found = answer(layer(lambda x: x @ W.T, read, 2), inputs)
    assert found.answer == "rotated", found.reason

    def behind(sizes: list[float]):
        turned = W * torch.tensor(sizes)[:, None]
        return layer(lambda x: torch.relu(x @ turned.T), read, 2)

    # Two of four neurons are as pure by chance in one network of forty; not in three of three.
    siblings = [behind([1, 1.2, 0.9, 1]), behind([1.1, 0.8, 1, 1])]
    found = answer(behind([1, 1, 1, 1]), inputs, siblings=siblings)
    assert found.answer == "rotated", found.reason


def test_the_two_signs_of_a_variable_are_two_features_where_relus_part_them():
    found = answer(layer(lambda x: torch.relu(torch.cat([x, -x], 1)), torch.randn(6, 3), 3), 2 * sparse(3, 0, 1.0) - 1)
    assert found.answer == "aligned"
    assert set(found.features) == {f"x{i}{sign}" for i in range(3) for sign in "+-"}


def test_variables_that_only_their_product_carries_are_non_linear():
    # Signs of x0 x1 and of x1: x0 can be told from the two together, and from no weighted sum of them.
    def f(x):
        return torch.stack([x[:, 0] * x[:, 1], x[:, 1], x[:, 0] * x[:, 2], x[:, 2]], 1)

    inputs = torch.randint(0, 2, (2048, 3), generator=generator(0)).float() * 2 - 1
    found = answer(layer(f, torch.randn(4, 2, generator=generator(1)), 3), inputs)
    assert found.answer == "non_linear", found.reason
    assert set(found.features) == {"x1", "x2"}
    assert not found.line("additivity").passed


def test_outputs_that_only_the_whole_code_carries_are_compositional():
    # The parity of five bits: no bit and no pair of bits tells anything of it.
    class Parity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Identity()

        def forward(self, x):
            return (1 - 2 * self.hidden(x)).prod(1, keepdim=True)

    from polyseme.networks import load_network

    inputs = torch.randint(0, 2, (2048, 5), generator=generator(0)).float()
    found = answer(load_network(Parity(), example_inputs=inputs[:2]), inputs)
    assert found.answer == "compositional"
    sums = answer(layer(lambda x: x, torch.ones(5, 1), 5), inputs)
    assert sums.answer == "aligned"


def test_random_matrices_are_answered_no_more_often_than_the_level():
    answers = []
    for seed in range(24):
        g = generator(1000 + seed)
        d, n = ((2, 5), (4, 4), (4, 12))[seed % 3]
        answers.append(answer(tied(torch.randn(d, n, generator=g)), sparse(n, seed, rows=512)).answer)
    # 24 tests at 2%: more than two positives have a probability of one in a hundred.
    assert sum(found not in ("none", "abstain") for found in answers) <= 2, answers


def test_equal_seeds_give_equal_diagnoses_and_a_sampler_is_drawn_from_the_seed():
    network = tied(1.2 * polygon(5))

    def draw(n: int, g: torch.Generator) -> torch.Tensor:
        u = torch.rand(n, 5, generator=g)
        return torch.where(u < 0.1, u * 10, 0.0)

    config = SMALL.model_copy(update={"max_rows": 512})
    first, again = (diagnose(network, "hidden", draw, config) for _ in range(2))
    assert first.model_dump_json() == again.model_dump_json()
    other = diagnose(network, "hidden", draw, config.model_copy(update={"seed": 1}))
    assert other.model_dump_json() != first.model_dump_json()
    assert type(first).model_validate_json(first.model_dump_json()).answer == first.answer


def test_bad_input_is_refused_with_what_is_missing():
    network = tied(torch.eye(4))
    with pytest.raises(InputError, match="needs 256 rows"):
        diagnose(network, "hidden", sparse(4, 0, rows=20))
    with pytest.raises(InputError, match="same on every row"):
        diagnose(network, "hidden", torch.ones(512, 4))
    with pytest.raises(InputError, match="shape"):
        diagnose(layer(lambda x: x[:, None, None], torch.ones(4, 1), 4), "hidden", sparse(4, 0))
    with pytest.raises(InputError, match="not finite"):
        diagnose(layer(lambda x: x.log(), torch.ones(4, 1), 4), "hidden", sparse(4, 0))
    with pytest.raises(InputError, match="width 5"):
        diagnose(
            network, "hidden", sparse(4, 0), siblings=[layer(lambda x: x[:, [0, 1, 2, 3, 0]], torch.ones(5, 1), 4)]
        )
    with pytest.raises(InputError):
        diagnose(network, "nowhere", sparse(4, 0))


def test_the_printed_diagnosis_shows_every_line_of_evidence():
    found = answer(tied(1.2 * polygon(5)), sparse(5, 1, 0.05))
    out = io.StringIO()
    print_diagnosis(found, console=Console(file=out, width=80))
    text = out.getvalue()
    assert "superposition" in text.splitlines()[0]
    for line in found.evidence:
        assert line.name.replace("_", " ") in text
    assert "2.50 [2.50, 2.50]" in text
    assert "…" not in text
    assert np.isnan(found.line("partners").effect)
    assert "unmeasured" in text


def test_a_pass_over_tokens_is_as_small_as_a_wide_network_needs() -> None:
    network = load_network(tiny_gpt2())
    tokens = torch.zeros(64, 16, dtype=torch.int64)
    assert [len(part) for part in parts(network, tokens)] == [64]
    network.row_bytes = 2**24 // 40
    assert [len(part) for part in parts(network, tokens)] == [2] * 32
    network.row_bytes = 2**30
    assert [len(part) for part in parts(network, tokens)] == [1] * 64
