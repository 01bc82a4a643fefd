"""SynthSAEBench's setting: what decides a world, and draws that keep to it."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.sparse import diags_array

from polyseme.core.progress import Silent
from polyseme.core.seeds import make_generator
from polyseme.zoo.synth_sae_bench import checks
from polyseme.zoo.synth_sae_bench.toy import PUBLISHED, SynthSaeBenchToy
from polyseme.zoo.synth_sae_bench.world import Forest, frequencies, moved_apart

SMALL = SynthSaeBenchToy(
    n_features=80, d=12, zipf=0.5, frequencies=(0.4, 0.02), trees=4, branching=3, depth=2, rank=4, seeds=(0, 1)
)


def dense(config, n=20_000, seed=0, draw=0):
    return config.world(seed).draw(n, torch.Generator().manual_seed(draw)).dense()


def test_frequencies_begin_and_end_where_they_should_and_fall_as_a_power():
    p = frequencies(100, 0.5, 0.4, 0.01)
    assert p[0] == pytest.approx(0.4)
    assert p[-1] == pytest.approx(0.01)
    law = np.arange(1, 101) ** -0.5
    assert ((p - p[-1]) / (p[0] - p[-1])).numpy() == pytest.approx((law - law[-1]) / (1 - law[-1]))


def test_trees_are_laid_out_generation_by_generation():
    forest = Forest.grown(30, 2, 3, 2, 1.0, torch.Generator())
    assert forest.parents.tolist() == [-1] * 2 + [0] * 3 + [1] * 3 + [i for i in range(2, 8) for _ in range(3)] + [
        -1
    ] * (30 - 26)
    assert forest.children(torch.tensor([1, 7])).tolist() == [[5, 6, 7], [23, 24, 25]]
    assert forest.excluding.nonzero().view(-1).tolist() == list(range(8))
    half = Forest.grown(30, 2, 3, 2, 0.5, torch.Generator().manual_seed(0))
    assert int(half.excluding.sum()) == 4
    assert not Forest.grown(30, 2, 1, 2, 1.0, torch.Generator()).excluding.any()


def test_children_are_chosen_more_often_than_they_are_to_be_on():
    forest = Forest(5, 1, 3, 1, torch.tensor([True, False, False, False, False]))
    p = torch.tensor([0.5, 0.1, 0.05, 0.45, 0.2], dtype=torch.float64)
    # 0.1 / 0.5 × (1 + 0.5 / 0.5) and so on; the third is capped at 1.
    assert forest.chosen(p).tolist() == pytest.approx([0.5, 0.4, 0.1 * (1 + 1.1), 1.0, 0.2])
    apart = Forest(5, 1, 3, 1, torch.zeros(5, dtype=torch.bool))
    assert apart.chosen(p).tolist() == pytest.approx([0.5, 0.2, 0.1, 0.9, 0.2])


def test_directions_are_moved_apart_by_the_gradient_of_all_pairs():
    start = torch.nn.functional.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    F = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([F], lr=3e-4)
    for _ in range(30):
        gram = F @ F.T
        diagonal = gram.diagonal()
        loss = gram.square().sum() - diagonal.square().sum() + len(F) * (diagonal - 1).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = moved_apart(start, 30)
    torch.testing.assert_close(moved, torch.nn.functional.normalize(F.detach(), dim=1), atol=1e-5, rtol=0)
    assert float((moved @ moved.T).square().sum()) < float((start @ start.T).square().sum())


def test_a_row_does_not_depend_on_how_many_features_are_rare(monkeypatch):
    """Frequent features are drawn one by one, rare ones by blocks: both with the frequencies of their definition."""
    for rare in (0.0, 2.0):
        monkeypatch.setattr("polyseme.zoo.synth_sae_bench.world.RARE", rare)
        world = SMALL.model_copy(update={"correlation": 0.3}).world(int(rare))
        values = world.draw(60_000, torch.Generator().manual_seed(1)).dense()
        free = (world.forest.parents < 0).numpy()
        p = world.chosen.numpy() * torch.special.ndtr(world.mean / world.spread).double().numpy()
        error = ((values > 0).double().mean(0).numpy() - p) / np.sqrt(p * (1 - p) / len(values))
        assert np.abs(error[free]).max() < 4.5


def test_without_a_share_every_child_goes_by_itself_and_with_all_one_stays():
    for share, most in ((0.0, 2), (1.0, 1)):
        config = SMALL.model_copy(update={"exclusive": share})
        on = dense(config) > 0
        forest = config.world(0).forest
        together = torch.stack([on[:, of].sum(1) for of in forest.children(torch.arange(forest.n_parents))])
        assert int(together.max()) >= most
        assert share == 0 or int(together.max()) == 1


def test_sizes_follow_their_parents_where_they_are_scaled():
    for scaled in (True, False):
        config = SMALL.model_copy(update={"scaled": scaled})
        values, world = dense(config), config.world(0)
        child, parent = 4, 0
        rows = values[:, child] > 0
        correlation = float(torch.corrcoef(values[rows][:, [child, parent]].T)[0, 1])
        assert (correlation > 0.2) is scaled
        assert float(world.spread[parent]) > 0.1


def test_vectors_are_the_mixture_of_the_sizes():
    world = SMALL.world(1)
    values = world.draw(700, torch.Generator().manual_seed(0))
    expected = values.dense() @ world.directions + world.bias
    torch.testing.assert_close(world.vectors(values), expected, atol=1e-5, rtol=1e-5)
    assert float(world.bias.norm()) == pytest.approx(0.5)
    offsets = values.offsets.tolist()
    assert all((values.indices[a:b].diff() > 0).all() for a, b in itertools.pairwise(offsets))
    toy = SMALL.instance(1)
    x, sample = toy.activations(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x, sample.features @ world.directions + world.bias)


def test_a_source_draws_the_worlds_vectors():
    world, source = SMALL.world(1), SMALL.source(1, 10_000)
    (batch,) = source.batches(10_000, stop=1)
    first = {int(document): x for document, x in zip(batch.document, batch.acts[source.sites[0]], strict=True)}
    group = make_generator(source._schedule.seed, "drawn", 0)
    drawn = world.vectors(world.draw(8192, group))
    torch.testing.assert_close(torch.stack([first[i] for i in range(8192)]), drawn)
    assert source.fingerprint != SMALL.source(0, 10_000).fingerprint
    assert source.fingerprint != SMALL.model_copy(update={"scaled": False}).source(1, 10_000).fingerprint


def test_the_published_setting_has_its_trees_and_frequencies():
    p = frequencies(PUBLISHED.n_features, PUBLISHED.zipf, *PUBLISHED.frequencies)
    generator = torch.Generator()
    forest = Forest.grown(PUBLISHED.n_features, PUBLISHED.trees, PUBLISHED.branching, PUBLISHED.depth, 1.0, generator)
    assert (forest.parents >= 0).sum() == 128 * (4 + 16 + 64)
    assert int(forest.excluding.sum()) == 128 * (1 + 4 + 16)
    assert p[0] == pytest.approx(0.4)
    assert p[-1] == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"frequencies": (0.1, 0.2)}, "not under the greatest"), ({"trees": 100}, "need more than")],
)
def test_what_cannot_be_is_told(change, message):
    with pytest.raises(ValidationError, match=message):
        SynthSaeBenchToy(**change)


def test_the_distribution_holds_at_other_sizes_and_says_what_it_cannot_measure():
    found = checks.distribution(SMALL, Silent())
    assert [c.outcome for c in found] == ["pass"] * 6, found
    flat = checks.distribution(SMALL.model_copy(update={"trees": 0}), Silent())
    assert [c.outcome for c in flat] == ["pass"] * 2 + ["not_measured"] * 4


def test_a_wrong_frequency_a_stray_child_and_a_wrong_size_fail(monkeypatch):
    right = checks.Drawn.of

    def wrong(config, seed):
        drawn = right(config, seed)
        values = (drawn.values @ diags_array([1.0] * 4 + [1.1] * 76)).tolil()
        values[:400, 7] = 9.0
        values[:400, 8] = 9.0
        values[:400, 79] = 9.0
        return checks.Drawn(drawn.world, type(drawn.values)(values))

    monkeypatch.setattr(checks.Drawn, "of", wrong)
    outcomes = [c.outcome for c in checks.distribution(SMALL.model_copy(update={"exclusive": 1.0}), Silent())]
    assert outcomes[0] == "fail"
    assert outcomes[2:] == ["fail"] * 4
