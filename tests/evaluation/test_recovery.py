import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.core.batch import Latents
from polyseme.core.errors import InputError
from polyseme.evaluation.recovery import Answers, FeatureTruth, over_seeds, recovery
from polyseme.evaluation.recovery.firing import absorption
from polyseme.evaluation.stability import mcc

D = 12
PARENTS = (-1, 0, 0, 1, -1, -1)  # depths 0 1 1 2 0 0
N = len(PARENTS)


def truth(seed=0, n=N, d=D, parents=PARENTS):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return FeatureTruth(rows, parents)


def values(n_rows=400, seed=0):
    """Features on by the hierarchy, of sizes 0.5 to 1.5."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(n_rows, N, generator=generator) < 0.5
    for feature, parent in enumerate(PARENTS):
        if parent >= 0:
            on[:, feature] &= on[:, parent]
    return on * (0.5 + torch.rand(n_rows, N, generator=generator))


def by_name(records):
    found = {(r.name, r.scope.get("depth"), r.scope.get("directions")): r for r in records}
    assert len(found) == len(records)
    return lambda name, depth=None, directions=None: found[name, depth, directions]


def perfect(of=None, v=None):
    of = of or truth()
    v = values() if v is None else v
    lengths = of.directions.norm(dim=1)
    return of.directions / lengths[:, None], of, v * lengths, v


def test_the_truth_scores_perfectly():
    write, of, z, v = perfect()
    get = by_name(recovery(write, of, Answers.of([(z, v)]), read=write))
    for name in ("mcc", "mmcs", "ml2r", "feature_coverage", "splitting", "feature_shrinkage"):
        assert get(name).value == pytest.approx(1, abs=1e-6), name
    for unit in ("feature", "latent"):
        for score in ("precision", "recall", "f1"):
            assert get(f"{unit}_{score}").value == 1
    assert get("mcc", directions="read").value == pytest.approx(1)
    assert get("hedging").value == pytest.approx(0, abs=1e-6)
    assert [get("absorption", depth).value for depth in (None, 1, 2)] == [0, 0, 0]
    assert get("absorption", 1).n == 2
    assert get("dead_latents").value == 0
    assert get("l0").details["ratio"] == 1
    assert get("l0").value == pytest.approx(float((v > 0).sum(1).float().mean()))


def test_the_chance_level_of_mcc():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(256, 64, generator=generator)
    record = mcc(torch.randn(1024, 64, generator=generator), features)
    assert record.value == pytest.approx(0.41, abs=0.005)
    assert record.details["chance"] == pytest.approx(0.41, abs=0.005)


def test_half_of_the_latents_dead_halves_what_directions_score():
    write, of, z, v = perfect()
    z = z.clone()
    z[:, :3] = 0
    get = by_name(recovery(write, of, Answers.of([(z, v)])))
    assert get("mcc").value == pytest.approx(0.5)
    assert get("feature_coverage").value == 0.5
    assert get("dead_latents").value == 0.5
    # The dead have no precision; the features they stood for are scored by whatever else fires with them.
    assert get("latent_f1").n == 3
    assert get("feature_f1").n == N
    assert get("feature_f1").value < 1


def test_an_opposite_direction_is_found_by_mcc_but_not_by_mmcs():
    of = FeatureTruth(torch.eye(3, 8))
    v = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    get = by_name(recovery(-of.directions, of, Answers.of([(v, v)])))
    assert get("mcc").value == pytest.approx(1)
    assert get("mmcs").value == 0


def test_precision_recall_and_f1_by_hand():
    # Feature 0 on 4 of 10 rows; its latent on 3 of them and on 2 others: precision 3/5, recall 3/4, F1 6/9.
    v, z = torch.zeros(10, 2), torch.zeros(10, 2)
    v[:4, 0], v[5:, 1] = 1, 2
    z[:3, 0], z[4:6, 0] = 1, 1
    get = by_name(recovery(torch.eye(2, 4), FeatureTruth(torch.eye(2, 4)), Answers.of([(z, v)])))
    # Feature 1 (5 rows) shares one with latent 0 (5): 1/5, 1/5, 2/10. Latent 1 is dead.
    assert get("feature_precision").value == pytest.approx((3 / 5 + 1 / 5) / 2)
    assert get("feature_recall").value == pytest.approx((3 / 4 + 1 / 5) / 2)
    assert get("feature_f1").value == pytest.approx((6 / 9 + 2 / 10) / 2)
    assert get("latent_precision").value == pytest.approx(3 / 5)
    assert get("latent_f1").n == 1
    # Independent firing: 2 × (4 × 5 / 10) / 9 and 2 × (5 × 5 / 10) / 10.
    assert get("feature_f1").details["chance"] == pytest.approx((4 / 9 + 5 / 10) / 2)


def absorbed(careless=0.0):
    """A root on 8 of 10 rows, its child on 4 of them; the root's latent is silent on 3 of the child's rows."""
    v, z = torch.zeros(10, 2), torch.zeros(10, 2)
    v[:8, 0], v[:4, 1] = 1, 1
    z[:, :] = v
    z[:3, 0] = 0
    z[4 : 4 + round(4 * careless), 0] = 0
    return Answers.of([(z, v)]), FeatureTruth(torch.eye(2, 4), (-1, 0))


def test_absorption_by_hand():
    get = by_name(recovery(torch.eye(2, 4), absorbed()[1], absorbed()[0]))
    assert get("absorption", 1).value == pytest.approx(3 / 4)
    assert get("absorption", 1).details["absorbed"] == pytest.approx(3 / 4)
    # Missing a quarter of the rows without a child as well leaves half of them to the child.
    found = absorption(*absorbed(careless=0.25))
    assert found.excess.tolist() == pytest.approx([3 / 4 - 1 / 4])
    assert found.absorbed.tolist() == pytest.approx([3 / 4])


def test_a_parent_that_never_comes_alone_has_no_baseline():
    v = torch.tensor([[1.0, 1], [0, 0]])
    found = absorption(Answers.of([(v, v)]), FeatureTruth(torch.eye(2), (-1, 0)))
    assert len(found.excess) == 0
    get = by_name(recovery(torch.eye(2), FeatureTruth(torch.eye(2), (-1, 0)), Answers.of([(v, v)])))
    assert math.isnan(get("absorption", 1).value)
    assert get("absorption", 1).n == 0


def test_hedging_of_one_latent_over_two_features():
    # w ∝ f₀ + .2 f₁ with P(0) = .25, P(1|0) = .2: the only related feature enters with .2/√1.04.
    v = torch.zeros(100, 2)
    v[:25, 0], v[:5, 1] = 1, 1
    w = torch.tensor([[1.0, 0.2, 0, 0]])
    get = by_name(recovery(w, FeatureTruth(torch.eye(2, 4)), Answers.of([(v[:, :1], v)])))
    assert get("hedging").value == pytest.approx(0.2 / math.sqrt(1.04), abs=1e-6)
    # Taking an anticorrelated feature away is the same fault.
    v = torch.zeros(100, 2)
    v[:25, 0], v[25:, 1] = 1, 1
    get = by_name(
        recovery(w * torch.tensor([1.0, -1, 1, 1]), FeatureTruth(torch.eye(2, 4)), Answers.of([(v[:, :1], v)]))
    )
    assert get("hedging").value == pytest.approx(0.2 / math.sqrt(1.04), abs=1e-6)


def test_hedging_is_not_blamed_on_the_overlap_of_the_truth_itself():
    angle = math.radians(60)
    of = FeatureTruth(torch.tensor([[1.0, 0], [math.cos(angle), math.sin(angle)]]))
    v = torch.zeros(100, 2)
    v[:50, 0], v[:25, 1] = 1, 1
    get = by_name(recovery(of.directions, of, Answers.of([(v, v)])))
    assert get("hedging").value == pytest.approx(0, abs=1e-6)


def test_independent_features_have_no_hedging_to_measure():
    v = torch.tensor([[1.0, 1], [1, 0], [0, 1], [0, 0]])
    get = by_name(recovery(torch.eye(2), FeatureTruth(torch.eye(2)), Answers.of([(v, v)])))
    assert math.isnan(get("hedging").value)


def test_a_feature_with_two_latents_is_split():
    write, of, z, v = perfect()
    half = torch.rand(len(z), generator=torch.Generator().manual_seed(1)) < 0.5
    z2 = torch.cat([z, z[:, :1] * half[:, None]], 1)
    z2[half, 0] = 0
    get = by_name(recovery(torch.cat([write, write[:1]]), of, Answers.of([(z2, v)])))
    assert get("splitting").value == pytest.approx(7 / 6)
    assert get("splitting").details["split"] == pytest.approx(1 / 6)
    assert get("latent_precision").value == 1
    assert get("feature_recall").value < 1


@settings(deadline=None, max_examples=10)
@given(st.floats(0.1, 3.0))
def test_shrinkage_and_ml2r_are_the_factor_of_the_activations(factor):
    write, of, z, v = perfect()
    get = by_name(recovery(write, of, Answers.of([(z * factor, v)])))
    assert get("feature_shrinkage").value == pytest.approx(factor)
    assert get("ml2r").value == pytest.approx(factor)


def noisy(seed):
    generator = torch.Generator().manual_seed(seed)
    of, v = truth(seed), values(seed=seed)
    write = torch.randn(9, D, generator=generator)
    write[:N] += 2 * of.directions
    z = torch.relu(torch.randn(len(v), 9, generator=generator) - 0.7)
    z[:, :N] += v * (torch.rand(len(v), N, generator=generator) < 0.8)
    return write, of, z, v


def figures(records):
    return {(r.name, r.scope.get("depth")): r.value for r in records}


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_nothing_depends_on_the_order_of_latents_and_rows_on_the_batches_or_on_scale(seed):
    write, of, z, v = noisy(seed)
    expected = figures(recovery(write, of, Answers.of([(z, v)])))
    generator = torch.Generator().manual_seed(seed)
    latents, rows = torch.randperm(9, generator=generator), torch.randperm(len(v), generator=generator)
    changed = {
        "latents": (write[latents], of, [(z[:, latents], v)]),
        "rows": (write, of, [(z[rows], v[rows])]),
        "split": (write, of, [(z[:150], v[:150]), (z[150:], v[150:])]),
        "sparse": (write, of, [(Latents.from_dense(z), v)]),
        "units of the vectors": (3 * write, FeatureTruth(3 * of.directions, PARENTS), [(z, v)]),
        "units of the activations": (write / 5, of, [(5 * z, v)]),
    }
    for name, (directions, features, batches) in changed.items():
        found = figures(recovery(directions, features, Answers.of(batches)))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), name  # rescaled in float32


def test_intervals_over_seeds():
    seeds = [recovery(*noisy(s)[:2], Answers.of([noisy(s)[2:]]), scope={"seed": s, "toy": "t"}) for s in range(3)]
    merged = over_seeds(seeds)
    for i, record in enumerate(merged):
        own = np.array([of_seed[i].value for of_seed in seeds])
        assert record.value == pytest.approx(own.mean())
        assert record.details["seeds"] == pytest.approx(own.tolist())
        assert record.interval.high - record.value == pytest.approx(4.302653 * own.std(ddof=1) / math.sqrt(3), rel=1e-5)
        assert (record.n, record.n_unit) == (3, "seeds")
        assert "seed" not in record.scope
        assert record.scope["toy"] == "t"
    chance = [of_seed[0].details["chance"] for of_seed in seeds]
    assert merged[0].details["chance"] == pytest.approx(np.mean(chance))
    (alone,) = {math.isnan(record.interval.low) for record in over_seeds(seeds[:1])}
    assert alone


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Answers.of([]), "no rows"),
        (lambda: Answers.of([(torch.zeros(2, 3), torch.zeros(3, 3))]), "2 rows of latents beside 3"),
        (lambda: Answers.of([(torch.full((2, 3), math.nan), torch.ones(2, 3))]), "not finite"),
        (lambda: FeatureTruth(torch.eye(2), (1, 0)), "own ancestor"),
        (lambda: FeatureTruth(torch.eye(2), (5, -1)), "parents must be 2"),
        (lambda: over_seeds([]), "no seeds"),
        (
            lambda: recovery(
                torch.eye(3), FeatureTruth(torch.eye(3)), Answers.of([(torch.ones(4, 2), torch.ones(4, 3))])
            ),
            "do not fit 2 latents",
        ),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call()
