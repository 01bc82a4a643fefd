"""Induction: the task's sequences, stacks that are the modules, and a small one that learns."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.core.seeds import derive_seed
from polyseme.heads import (
    HeadScoresConfig,
    attention_patterns,
    copying_scores,
    prefix_matching,
    previous_token,
    repeated_sequences,
)
from polyseme.networks import load_network
from polyseme.zoo.induction.checks import accuracy, general, general_measures, measures, one_layer, two_layers
from polyseme.zoo.induction.toy import (
    BOS,
    UNKNOWN,
    GeneralConfig,
    InductionToy,
    answers,
    asked,
    initial,
    logits,
    positions,
    train,
    written,
)
from polyseme.zoo.tools.stack import Draws, OptimiserConfig

SMALL = InductionToy(
    vocabulary=6,
    length=8,
    d_model=4,
    seeds=(0, 1),
    batch=16,
    record_every=2,
    optimiser=OptimiserConfig(steps=4, lr=1e-2),
)


GENERAL = GeneralConfig(d_model=4, batch=16, optimiser=OptimiserConfig(steps=4, lr=1e-2))


@pytest.mark.parametrize("trigger", ["special", "any"])
def test_sequences_hold_s_twice_and_m_after_the_first(trigger: str):
    config = SMALL.model_copy(update={"trigger": trigger})
    tokens, first = (x[0] for x in config.sequences(Draws([3]), 5_000))
    s = tokens[:, -1]
    assert (tokens[:, 0] == BOS).all()
    assert ((tokens == s[:, None]).sum(-1) == 2).all()
    assert (tokens.gather(1, first[:, None])[:, 0] == s).all()
    assert set(first.tolist()) == set(range(1, 6))  # M still fits before the last S
    assert torch.equal(answers(tokens, first), tokens[torch.arange(5_000), first + 1])
    ordinary = set(range(1, 7))
    assert set(answers(tokens, first).tolist()) == ordinary
    assert set(s.tolist()) == ({7} if trigger == "special" else ordinary)


def test_sequences_recur_and_only_what_the_period_decides_is_asked():
    config = InductionToy(vocabulary=7, length=16, trigger="every")
    tokens, period = (x[0] for x in config.sequences(Draws([3]), 2_000))
    wanted = asked(config, tokens, period)
    assert set(period.tolist()) == {3, 4, 5, 6, 7}
    assert (tokens[:, 0] == BOS).all()
    for row, p, answer in zip(tokens.tolist(), period.tolist(), wanted.tolist(), strict=True):
        assert len(set(row[1 : p + 1])) == p
        assert all(1 <= token <= 7 for token in row[1:])
        assert all(row[t] == row[t - p] for t in range(p + 1, 16))
        # The token at p + 1 is the first that came before: what follows it is known, and it itself was not.
        assert answer == [UNKNOWN] * (p + 1) + row[p + 2 :]


@pytest.mark.parametrize("places", ["after", "before"])
def test_a_head_attends_to_the_token_before_only_where_positions_come_before_its_maps(places: str):
    # q turns each place's sines and cosines one step back: p_t ↦ p_(t − 1), a rotation of each pair.
    config = SMALL.model_copy(update={"places": places, "d_model": 8, "length": 12})
    module, place = config.build(), positions(13, 8)
    sines, cosines = place[1].view(-1, 2).unbind(1)
    back = torch.block_diag(*torch.stack([cosines, -sines, sines, cosines], dim=1).view(-1, 2, 2))
    torch.testing.assert_close(place[1:] @ back.T, place[:-1], rtol=0, atol=1e-5)
    with torch.no_grad():
        module.embed.weight.zero_()
        module.layers[0].q_proj.weight.copy_(30 * back)
        module.layers[0].k_proj.weight.copy_(torch.eye(8))
    network = load_network(module, example_inputs=torch.zeros(1, 12, dtype=torch.long))
    score = float(previous_token(attention_patterns(network, torch.zeros(1, 12, dtype=torch.long))[0, 0, 0]))
    assert score > 0.9 if places == "before" else score < 0.5


def test_positions_are_sines_and_cosines():
    found = positions(5, 4)
    assert found[0].tolist() == [0, 1, 0, 1]
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    assert found[3].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("trigger", ["special", "every"])
@pytest.mark.parametrize("places", ["after", "before"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_stack_computes_what_its_modules_do(n_layers: int, places: str, trigger: str):
    config = SMALL.model_copy(update={"n_layers": n_layers, "places": places, "trigger": trigger})
    weights, tokens = initial(config), config.sequences(Draws([1, 2]), 7)[0]
    found = logits(weights, tokens, config)
    for i in range(2):
        module = config.build()
        module.load_state_dict({name: tensor[i] for name, tensor in weights.items()})
        every = module(tokens[i]).detach()
        torch.testing.assert_close(every[:, :-1] if trigger == "every" else every[:, -1:], found[i])


def test_untrained_networks_are_not_measured():
    assert {c.outcome for c in two_layers(SMALL, Silent())} == {"not_measured"}
    untrained = SMALL.model_copy(update={"general": GENERAL})
    *lines, one = general(untrained, Silent())
    assert {c.outcome for c in lines} == {"not_measured"}
    assert "0 of 2 networks" in lines[0].note
    assert one.n == 2
    assert not any(toy.trained for toy in SMALL.train(Silent()))


def test_one_layer_that_has_not_learned_fails_as_it_should():
    (line,) = one_layer(SMALL.model_copy(update={"length": 64, "vocabulary": 64}), Silent())
    assert line.outcome == "pass"
    assert line.n == 2


def test_a_tiny_task_is_learned_by_the_heads_that_the_paper_names():
    config = SMALL.model_copy(
        update={
            "d_model": 16,
            "batch": 64,
            "seeds": (0,),
            "record_every": 100,
            "optimiser": OptimiserConfig(steps=700, lr=1e-2, warmup=50),
        }
    )
    run = train(config, Silent())
    network = load_network(run.module(0), example_inputs=torch.zeros(1, 8, dtype=torch.long))
    found = measures(config, network, 5)
    assert found["accuracy"] > 0.9
    assert found["matching"] > 0.7
    assert found["drop"] > 0.5


def test_general_scores_are_those_of_the_package():
    config = SMALL.model_copy(update={"trigger": "every", "places": "before"})
    network = load_network(config.build(), example_inputs=torch.zeros(1, 8, dtype=torch.long))
    found = general_measures(config, network, 5)
    assert 0 <= found["accuracy"] < 0.5
    sequences = repeated_sequences(HeadScoresConfig(length=3, bos=0, vocabulary=(1, 7)), 8)
    patterns = attention_patterns(network, sequences)[:, :, 0]
    assert found["prefix"] == pytest.approx(float(prefix_matching(patterns[1], 3).mean()), rel=1e-5)
    assert found["previous"] == pytest.approx(float(previous_token(patterns[0]).mean()), rel=1e-5)
    # The tokens of the second half, at 4 … 6, came at 1 … 3; what followed stands at 2 … 4.
    assert found["first"] == pytest.approx(float(patterns[0, :, [1, 2, 3, 4], [0, 1, 2, 3]].mean()), rel=1e-5)


def test_the_loss_is_of_the_last_token():
    config = SMALL.model_copy(update={"seeds": (4,), "optimiser": OptimiserConfig(steps=1, lr=0.0)})
    run = train(config, Silent())
    tokens, first = (x[0] for x in config.sequences(Draws([derive_seed(4, "induction", 2)], "data"), 16))
    logits = run.module(0)(tokens)[:, -1]
    assert float(run.loss[0]) == pytest.approx(float(cross_entropy(logits, answers(tokens, first)).detach()), rel=1e-5)


def test_an_instance_does_not_depend_on_its_stack():
    both, alone = train(SMALL, Silent()), train(SMALL.model_copy(update={"seeds": (1,)}), Silent())
    for name, tensor in alone.module(0).state_dict().items():
        torch.testing.assert_close(both.module(1).state_dict()[name], tensor)
    torch.testing.assert_close(both.accuracy[:, 1:], alone.accuracy)


def test_the_site_holds_what_the_first_layer_writes():
    toy = SMALL.train(Silent())[0]
    vectors, sample = toy.activations(3, torch.Generator().manual_seed(0))
    assert vectors.shape == (3 * 8, 4)
    assert sample.features.shape == (3, 8, 8)
    assert (sample.features[:, 0] == 0).all()
    assert torch.equal(sample.features[:, 1:].argmax(-1), sample.inputs[:, :-1])
    # The first position sees BOS alone.
    assert toy.truth.directions is not None
    torch.testing.assert_close(vectors.unflatten(0, (3, 8))[:, 0], toy.truth.directions[[BOS] * 3])


def test_the_heads_package_knows_the_maps():
    module = SMALL.build()
    network = load_network(module, example_inputs=torch.zeros(1, 8, dtype=torch.long))
    assert copying_scores(network).shape == (2, 1)
    W_OV = written(module)
    torch.testing.assert_close(W_OV, module.layers[0].o_proj(module.layers[0].v_proj(module.embed.weight)).detach())
    tokens, first = (x[0] for x in SMALL.sequences(Draws([0]), 50))
    assert 0 <= accuracy(network, tokens, first) <= 1


@pytest.mark.parametrize(
    "bad",
    [
        {"d_model": 5},
        {"length": 4},
        {"vocabulary": 3},
        {"seeds": ()},
        {"n_layers": 3},
        {"trigger": "none"},
        {"trigger": "every", "length": 16},
        {"general": {"d_model": 3}},
    ],
)
def test_what_cannot_be_is_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        InductionToy.model_validate({"vocabulary": 6, **bad})


def test_general_refuses_more_tokens_than_there_are():
    with pytest.raises(InputError, match="do not fill a period of 7"):
        general(SMALL.model_copy(update={"length": 16}), Silent())
