"""Skip-trigram inhibition: the hand-built head's algebra, additive tables, and failing paths."""

import math

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.core.seeds import derive_seed
from polyseme.zoo.skip_trigram.toy import (
    BLANK,
    FILLER,
    LIKELY,
    A,
    B,
    C,
    SkipTrigramToy,
    additive_fit,
    additive_loss,
    cells,
    exact,
    hand_built,
    interaction,
    train,
    trained,
)
from polyseme.zoo.tools.stack import Draws, OptimiserConfig

SHORT = OptimiserConfig(steps=3, lr=1e-2)


@pytest.mark.parametrize("n_fillers", [1, 10, 50])
def test_hand_built_head_is_exact_at_any_length(n_fillers: int):
    assert all(c.outcome == "pass" for c in exact(SkipTrigramToy(n_fillers=n_fillers), Silent()))


def test_cells_take_out_what_they_say():
    both, b, c, neither = cells(torch.tensor([[FILLER, B, C, A]]), BLANK)
    assert both.tolist() == [[FILLER, B, C, A]]
    assert b.tolist() == [[FILLER, B, BLANK, A]]
    assert c.tolist() == [[FILLER, BLANK, C, A]]
    assert neither.tolist() == [[FILLER, BLANK, BLANK, A]]


def test_interaction_is_there_until_attention_is_frozen():
    module, rows = hand_built(SkipTrigramToy()), cells(torch.tensor([[FILLER] * 10 + [B, C, A]]), BLANK)
    assert float(interaction(module, rows)) == pytest.approx(10 / 1020 - 0.5, abs=1e-12)
    frozen = torch.full((1, 12), 1 / 12, dtype=torch.float64)
    assert abs(float(interaction(module, rows, pattern=frozen))) < 1e-12


def test_additive_fit_knows_a_table_from_a_product():
    tokens = SkipTrigramToy().sample(Draws([1]), 2_000)[0][0]
    table = torch.arange(8.0)
    assert additive_fit(tokens, table[tokens].sum(-1), 8) == pytest.approx(1, abs=1e-9)
    has_b, has_c = (tokens == B).any(-1).float(), (tokens == C).any(-1).float()
    assert additive_fit(tokens, has_b * (1 - has_c), 8) == pytest.approx(2 / 3, abs=0.03)


def test_rows_hold_each_of_b_and_c_half_of_the_time():
    tokens, present = (x[0] for x in SkipTrigramToy().sample(Draws([2]), 20_000))
    assert tokens.shape == (20_000, 13)
    assert (tokens[:, -1] == A).all()
    assert torch.equal((tokens == B).sum(-1).float(), present[:, 0])
    assert torch.equal((tokens == C).sum(-1).float(), present[:, 1])
    assert present.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_additive_loss_lies_between_entropy_and_chance():
    floor = -LIKELY * math.log(LIKELY) - (1 - LIKELY) * math.log(1 - LIKELY)
    base = (LIKELY + 3 * (1 - LIKELY)) / 4
    assert floor < additive_loss() < -base * math.log(base) - (1 - base) * math.log(1 - base)


def test_module_computes_what_was_trained():
    config = SkipTrigramToy(seeds=(4,), batch=64, optimiser=OptimiserConfig(steps=1, lr=0.0))
    stack = train(config, Silent())
    tokens, present = (x[0] for x in config.sample(Draws([derive_seed(4, "skip_trigram")], "data"), 64))
    likely = torch.where((present[:, 0] == 1) & (present[:, 1] == 0), LIKELY, 1 - LIKELY)
    answers = stack.into(config.build(), 0)(tokens).log_softmax(-1)
    loss = -(likely * answers[:, 0] + (1 - likely) * answers[:, 1]).mean()
    torch.testing.assert_close(loss.detach(), stack.loss[0])


def test_untrained_heads_are_not_measured():
    config = SkipTrigramToy(seeds=(0, 1), batch=16, optimiser=SHORT)
    assert {c.outcome for c in trained(config, Silent())} == {"not_measured"}
    toys = config.train(Silent())
    assert [toy.trained for toy in toys] == [True, False, False]


def test_an_instance_does_not_depend_on_its_stack():
    config = SkipTrigramToy(seeds=(0, 1), batch=16, optimiser=SHORT)
    alone = train(config.model_copy(update={"seeds": (1,)}), Silent())
    together = train(config, Silent())
    for name, tensor in alone.parameters.items():
        torch.testing.assert_close(together.parameters[name][1], tensor[0])


def test_no_seeds_is_an_error():
    with pytest.raises(ValidationError):
        SkipTrigramToy(seeds=())
