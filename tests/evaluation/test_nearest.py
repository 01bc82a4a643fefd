"""SynthSAEBench's scores: a latent is judged by the feature that its decoder is nearest to, not by what fires best."""

import numpy as np
import pytest
import torch

from polyseme.core.batch import Latents
from polyseme.dictionaries import TopKConfig
from polyseme.evaluation.recovery import Answers, FeatureTruth, nearest_feature, nearest_scores, recovery, scored
from polyseme.evaluation.stability import mcc


def values_of(records):
    return {r.name: r for r in records if not {"depth", "directions"} & r.scope.keys()}


def test_by_hand():
    # Latents 0 and 1 are both nearest to feature 0 (the second by its opposite), 2 to feature 1; the last is dead.
    write = torch.tensor([[1.0, 0, 0], [-2, 0.5, 0], [0, 3, 1], [0, 0.1, 0.2]])
    truth = FeatureTruth(torch.eye(3))
    v, z = torch.zeros(10, 3), torch.zeros(10, 4)
    v[:4, 0], v[5:, 1], v[0, 2] = 1, 2, 3
    z[:3, 0] = 1  # 3 of the 4 rows of feature 0, and no other
    z[2:6, 1] = 1  # rows 2 to 5: 2 of feature 0's 4
    z[5:, 2] = -1  # exactly feature 1's rows, by negative activations
    assert nearest_feature(write, truth.directions).tolist() == [0, 0, 1, 2]
    scores = nearest_scores(Answers.of([(z, v)]), np.array([0, 0, 1, 2]))
    assert scores.precision == pytest.approx([1, 2 / 4, 1, 0])
    assert scores.recall == pytest.approx([3 / 4, 2 / 4, 1, 0])
    assert scores.f1 == pytest.approx([6 / 7, 1 / 2, 1, 0])
    found = values_of(recovery(write, truth, Answers.of([(z, v)])))
    assert found["unique_features"].value == pytest.approx(3 / 4)
    assert found["nearest_f1"].value == pytest.approx((6 / 7 + 1 / 2 + 1) / 4)
    # Independent firing: joint rows 3 × 4/10, 4 × 4/10, 5 × 5/10 and 0.
    chance = (2 * 1.2 / 7 + 2 * 1.6 / 8 + 2 * 2.5 / 10) / 4
    assert found["nearest_f1"].details["chance"] == pytest.approx(chance)


def test_the_chance_level_is_the_mean_over_permuted_rows():
    rng = np.random.default_rng(0)
    z, v = (torch.from_numpy((rng.random((300, n)) < p).astype(np.float32)) for n, p in ((7, 0.2), (5, 0.4)))
    nearest = rng.integers(0, 5, 7)
    permuted = [nearest_scores(Answers.of([(z[rng.permutation(300)], v)]), nearest) for _ in range(400)]
    expected = nearest_scores(Answers.of([(z, v)]), nearest, chance=True)
    for name in ("precision", "recall", "f1"):
        draws = np.array([getattr(of, name) for of in permuted])
        error = draws.std(0) / len(draws) ** 0.5
        assert np.abs(draws.mean(0) - getattr(expected, name)).max() < 5 * error.max()


def test_a_dead_latent_counts_by_its_weights_beside_as_a_miss():
    alive = np.array([True, True, False, True])
    record = mcc(torch.eye(4), torch.eye(4), alive=alive)
    assert record.value == pytest.approx(3 / 4)
    assert record.details["of_weights"] == pytest.approx(1)


def test_many_features_are_matched_exactly_with_few_latents():
    features = torch.zeros(9000, 4)
    features[0, 0] = features[1, 1] = 1
    features[2:, 2] = 1
    # Taken from the highest cosine down, latent 0 would have feature 0 (0.73) and leave nothing to latent 1 (0.70).
    latents = torch.tensor([[0.9, 0.85, 0, 0], [0.7, 0, 0, 0.51**0.5]])
    record = mcc(latents, features)
    assert record.details["matching"] == "hungarian"
    assert record.value == pytest.approx((0.85 / (0.9**2 + 0.85**2) ** 0.5 + 0.7) / 2)


def test_features_may_be_sparse_and_come_in_batches():
    torch.manual_seed(0)
    truth = FeatureTruth(torch.randn(6, 4), (-1, 0, 0, -1, -1, -1))
    v = torch.rand(200, 6) * (torch.rand(200, 6) < 0.4)
    x = v @ truth.directions + 0.3
    dictionary = TopKConfig(n_latents=8, k=2).build(4, seed=0)
    whole = scored(dictionary, truth, [(x, v)])
    parts = scored(dictionary, truth, [(x[:70], Latents.from_dense(v[:70])), (x[70:], Latents.from_dense(v[70:]))])
    assert [r.name for r in parts] == [r.name for r in whole]
    for a, b in zip(whole, parts, strict=True):
        assert a.value == pytest.approx(b.value, nan_ok=True), a.name
    error = x.double() - dictionary.reconstruct(x).double()
    fvu = float(error.square().sum() / (x.double() - x.double().mean(0)).square().sum())
    assert whole[0].value == pytest.approx(fvu)
    without = {r.name for r in scored(dictionary, truth, [(x, v)], hedging=False)}
    assert without == {r.name for r in whole} - {"hedging"}
