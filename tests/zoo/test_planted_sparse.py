import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import linear_sum_assignment

from polyseme.core.progress import Silent
from polyseme.core.records import MetricRecord
from polyseme.zoo.planted_sparse.checks import distribution, expected_order, joint_probabilities, least_p
from polyseme.zoo.planted_sparse.sweep import RecoveryPoint, chance_mcc
from polyseme.zoo.planted_sparse.toy import PlantedSparseToy

SMALL = PlantedSparseToy(n_features=20, d=8, l0=2, trees=2, branching=2, depth=2, n_factors=3, seeds=(0, 1))


def on(config, n=40_000, seed=0):
    return config.instance(0).draw(n, torch.Generator().manual_seed(seed)).features > 0


@pytest.mark.parametrize("exclusive", [True, False])
def test_features_are_on_as_often_as_they_should_and_only_under_their_parents(exclusive):
    config = SMALL.model_copy(update={"exclusive": exclusive})
    p, mask = config.frequencies(), on(config)
    assert p.sum() == pytest.approx(2)
    error = (mask.double().mean(0).numpy() - p) / np.sqrt(p * (1 - p) / len(mask))
    assert np.abs(error).max() < 4.5
    assert config.parents() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, *[-1] * 6]
    for child, parent in enumerate(config.parents()):
        if parent >= 0:
            assert not bool((mask[:, child] & ~mask[:, parent]).any())
    together = bool((mask[:, 2] & mask[:, 3]).any())
    assert together is not exclusive


def test_without_a_cap_frequencies_follow_zipf():
    p = SMALL.model_copy(update={"trees": 0, "l0": 1.0}).frequencies()
    assert p[0] / p == pytest.approx(np.arange(1, 21) ** 0.5)


def test_factors_correlate_features_both_ways_and_their_absence_does_not():
    config = SMALL.model_copy(update={"trees": 0, "zipf": 0.0, "l0": 5.0, "correlation": 0.5})
    for correlation, wanted in ((0.5, True), (0.0, False)):
        mask = on(config.model_copy(update={"correlation": correlation})).float()
        off = torch.corrcoef(mask.T) - torch.eye(20)
        assert (float(off.max()) > 0.1 and float(off.min()) < -0.1) is wanted


def test_the_network_carries_the_mixture():
    toy = SMALL.instance(1)
    x, sample = toy.activations(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x, sample.features @ toy.truth.directions)
    assert toy.trained
    assert not torch.equal(toy.truth.directions, SMALL.instance(0).truth.directions)


def test_orthogonal_directions():
    F = PlantedSparseToy(n_features=6, d=9, l0=1, trees=0, directions="orthogonal").planted_directions(3)
    torch.testing.assert_close(F @ F.T, torch.eye(6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": "orthogonal"}, "do not fit"),
        ({"trees": 40}, "need more than"),
        ({"l0": 200}, "out of reach"),
        ({"seeds": ()}, "at least 1"),
        ({"spread": 1.0}, "less than 1"),
    ],
)
def test_what_cannot_be_is_told(change, message):
    with pytest.raises(ValidationError, match=message):
        PlantedSparseToy(**change)


def test_the_chance_level_is_that_of_an_assignment_of_random_directions():
    config = PlantedSparseToy(seeds=(0,))
    assert chance_mcc(config, 1024) == pytest.approx(0.41, abs=0.01)
    random = np.random.default_rng(0).standard_normal((1024, 64))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    overlap = np.abs(random @ config.planted_directions(0).double().numpy().T)
    latents, features = linear_sum_assignment(-overlap)
    assert chance_mcc(config, 1024) == pytest.approx(overlap[latents, features].mean(), abs=0.01)


def test_joint_probabilities_are_those_of_a_bivariate_normal():
    config = SMALL.model_copy(update={"trees": 0, "correlation": 0.5, "zipf": 0.0, "l0": 10.0})
    factor, side = (of.numpy() for of in config.leanings(0))
    joint = joint_probabilities(config, 0)
    shared = factor[:, None] == factor
    np.fill_diagonal(shared, val=False)
    # Medians: Sheppard's formula.
    expected = np.where(shared, 0.25 + np.arcsin(0.5 * np.outer(side, side)) / (2 * np.pi), 0.25)
    off = ~np.eye(20, dtype=bool)
    assert joint[off] == pytest.approx(expected[off], abs=1e-4)


def test_a_count_that_its_probability_does_not_allow_is_found():
    assert least_p(np.array([500, 480]), 1000, np.array([0.5, 0.5])) > 0.1
    assert least_p(np.array([500, 600]), 1000, np.array([0.5, 0.5])) < 1e-8


def test_the_distribution_holds_at_other_sizes_and_says_what_it_cannot_measure():
    checks = distribution(SMALL, Silent())
    assert [c.outcome for c in checks] == ["pass"] * len(checks)
    flat = distribution(SMALL.model_copy(update={"trees": 0, "correlation": 0.0}), Silent())
    assert [c.outcome for c in flat] == ["pass"] * 3 + ["not_measured"] * 3


def test_a_wrong_frequency_fails(monkeypatch):
    exact = PlantedSparseToy.frequencies
    monkeypatch.setattr(
        "polyseme.zoo.planted_sparse.checks.drawn",
        lambda config, seed: np.random.default_rng(seed).random((20_000, config.n_features)) < exact(config),
    )
    outcomes = {c.name.split(":")[0]: c.outcome for c in distribution(SMALL, Silent())}
    assert outcomes["rows with a child and without its parent"] == "fail"
    assert outcomes["times that two siblings are on together"] == "fail"


def point(name, fvu, recovery, l0=4.0):
    values = {"fvu": fvu, "mcc": recovery, "feature_f1": recovery}
    seeds = {metric: [value - 0.001, value, value + 0.001] for metric, value in values.items()}
    records = [
        MetricRecord(name=m, value=values[m], n=3, n_unit="seeds", details={"seeds": of}) for m, of in seeds.items()
    ]
    records.append(MetricRecord(name="l0", value=l0, n=3, n_unit="seeds"))
    return RecoveryPoint(architecture=name, wanted_l0=4.0, records=tuple(records))


def test_the_expected_order_is_told_from_others():
    points = {
        "relu": point("relu", 0.24, 0.60),
        "batch_topk": point("batch_topk", 0.21, 0.75),
        "jumprelu": point("jumprelu", 0.20, 0.76),
        "matryoshka": point("matryoshka", 0.22, 0.80),
    }
    assert {c.outcome for c in expected_order(points)} == {"pass"}
    swapped = expected_order({**points, "relu": points["batch_topk"], "batch_topk": points["relu"]})
    failed = {c.name for c in swapped if c.outcome == "fail"}
    assert "MCC of batch_topk less that of relu" in failed
    assert "F1 of jumprelu less that of batch_topk" in failed
    dense = expected_order({**points, "jumprelu": point("jumprelu", 0.20, 0.76, l0=9.0)})
    assert {c.outcome for c in dense} == {"not_measured"}
