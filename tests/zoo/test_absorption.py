import math

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.batch import Batch
from polyseme.core.progress import Silent
from polyseme.dictionaries import ReLUConfig
from polyseme.zoo.absorption.toy import AbsorptionToy, absorbed, bound, by_depth, found, penalised
from polyseme.zoo.tools.exact import ShortTraining, features_of, start_at_truth

SMALL = AbsorptionToy(
    d=6, branching=2, given=0.2, seeds=(0, 1), training=ShortTraining(steps=140, lr=2e-2, rows=20_000)
)


def rows(config, n=20_000, seed=0):
    toy = config.train(Silent())[0]
    return toy, *toy.activations(n, torch.Generator().manual_seed(seed))


def test_the_tree_is_drawn_as_it_says():
    config = AbsorptionToy(d=20, depth=2)
    assert config.n_features == 13
    assert config.parents == [-1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    on = rows(config, 60_000)[2].features
    depth = torch.tensor([0, 1, 1, 1, *[2] * 9])
    wanted = 0.25 * 0.15**depth
    error = (on.mean(0) - wanted) / (wanted * (1 - wanted) / len(on)).sqrt()
    assert float(error.abs().max()) < 4.5
    for feature, parent in enumerate(config.parents):
        siblings = [f for f, of in enumerate(config.parents) if of == parent]
        assert float(on[:, siblings].sum(1).max()) <= 1
        if parent >= 0:
            assert bool((on[:, feature] <= on[:, parent]).all())


def test_the_least_loss_by_hand():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.05, 0.0]])
    penalty = 0.2
    rows_of = [0, penalty - 0.01, penalty * math.sqrt(2) - 0.01, 0.05**2]
    assert bound(x, penalty) == pytest.approx(sum(rows_of) / 4)


def test_no_code_of_one_row_costs_less():
    # Two decoders of any angle, activations over a fine grid.
    x, penalty = torch.tensor([[0.8, 0.6]]), 0.3
    grid = torch.cartesian_prod(torch.linspace(0, 1.5, 151), torch.linspace(0, 1.5, 151))
    for angle in torch.linspace(0, math.pi, 13).tolist():
        W = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
        loss = (x - grid @ W).square().sum(1) + penalty * grid.sum(1)
        assert float(loss.min()) >= bound(x, penalty) - 1e-6


def started(config, write):
    toy, x, _ = rows(config)
    dictionary = ReLUConfig(n_latents=config.n_features).build(config.d, seed=0)
    start_at_truth(dictionary, features_of(toy), x)
    zeros = torch.zeros(len(x), dtype=torch.int32)
    dictionary.initialise(Batch(x, x, zeros, zeros, zeros))
    if write is not None:
        mixed = write @ features_of(toy)
        dictionary.parameters()["W_dec"].copy_(mixed / mixed.norm(dim=1, keepdim=True))
    return dictionary, x


def test_the_absorbing_dictionary_costs_less_than_the_true_one():
    config = SMALL
    true, x = started(config, None)
    absorbing, _ = started(config, torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 1]]))
    with torch.no_grad():
        F = features_of(config.train(Silent())[0])
        scale = 1 / absorbing.tensors()["scale_in"]
        read = torch.tensor([[1.0, -1, -1], [0, math.sqrt(2), 0], [0, 0, math.sqrt(2)]])
        absorbing.parameters()["W_enc"].copy_(read @ F)
        # ReLU(pre) one half of the penalty lower, as the L1 norm shrinks it.
        absorbing.parameters()["b_enc"].fill_(-SMALL.penalty / 2 * float(scale))
    least = bound(x, SMALL.penalty)
    assert penalised(absorbing, x, SMALL.penalty) == pytest.approx(least, rel=1e-4)
    p, q, penalty = (x.norm(dim=1) > 0.5).double().mean(), (x.norm(dim=1) > 1.2).double().mean(), SMALL.penalty
    assert penalised(true, x, penalty) == pytest.approx(float(penalty * (p + q)), rel=1e-4)
    assert penalised(true, x, penalty) > 1.1 * least


def test_a_short_training_absorbs():
    checks = absorbed(SMALL, Silent())
    assert [c.outcome for c in checks] == ["pass"] * 4


def test_at_the_truth_nothing_is_absorbed_and_every_line_fails():
    config = SMALL.model_copy(update={"training": ShortTraining(steps=1, batch=64, rows=4_000, lr=1e-6)})
    assert [c.outcome for c in absorbed(config, Silent())] == ["fail"] * 4
    (of,) = found(config.model_copy(update={"seeds": (0,)}), ("at the truth",), Silent()).values()
    assert of[0].absorbed == pytest.approx([0, 0], abs=1e-3)


def test_random_dictionaries_that_did_not_train_are_counted():
    config = SMALL.model_copy(update={"training": ShortTraining(steps=1, batch=64, rows=4_000, lr=1e-6)})
    assert "0 of 2 random starts" in absorbed(config, Silent())[-1].note


def test_a_tree_that_does_not_fit_is_not_measured():
    checks = by_depth(SMALL, Silent())
    assert {c.outcome for c in checks} == {"not_measured"}
    assert "do not fit" in checks[0].note


@pytest.mark.parametrize("change", [{"d": 3}, {"given": 0.4}, {"p": 1}, {"depth": 0}, {"penalty": 0}, {"seeds": (0,)}])
def test_what_cannot_be_is_told(change):
    with pytest.raises(ValidationError):
        AbsorptionToy.model_validate(change)
