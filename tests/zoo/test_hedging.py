import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.zoo.hedging.toy import HedgingToy, best_on_off, free, independent, on_off, points, principal
from polyseme.zoo.tools.exact import ShortTraining

BRIEF = ShortTraining(steps=2, batch=64, rows=2_000)


def test_the_documented_directions():
    config = HedgingToy()
    assert best_on_off(*points(config)) == pytest.approx([0.981, 0.196], abs=5e-4)
    assert principal(*points(config))[0] == pytest.approx([0.970, 0.243], abs=5e-4)


@pytest.mark.parametrize(("p", "q"), [(0.25, 0.2), (0.4, 0.5), (0.1, 0.05)])
def test_an_on_or_off_latent_writes_the_mean_of_its_parents_rows(p, q):
    best = best_on_off(*points(HedgingToy(p=p, q=q)))
    assert best == pytest.approx(np.array([1, q]) / math.hypot(1, q))


def test_no_line_is_nearer_than_the_principal_one():
    x, share = points(HedgingToy())
    wanted, left = principal(x, share)
    centred = x - share @ x
    angles = np.linspace(0, np.pi, 2001)
    lines = np.stack([np.cos(angles), np.sin(angles)])
    errors = share @ ((centred**2).sum(1)[:, None] - (centred @ lines) ** 2) / (share @ (centred**2).sum(1))
    assert errors.min() == pytest.approx(left, abs=1e-6)
    assert abs(wanted @ lines[:, errors.argmin()]) == pytest.approx(1, abs=1e-5)


def test_independent_children_leave_both_latents_at_the_parent():
    found = points(HedgingToy(), independent=True)
    assert found[1].sum() == pytest.approx(1)
    assert principal(*found)[0] == pytest.approx([1, 0], abs=1e-12)
    assert best_on_off(*found) == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize("alone", [True, False])
def test_drawn_rows_have_the_probabilities(alone):
    config = HedgingToy(d=6)
    sample = config.instance(0, independent=alone).draw(40_000, torch.Generator().manual_seed(0)).features
    values, share = points(config, independent=alone)
    for value, wanted in zip(values, share, strict=True):
        found = float((sample == torch.tensor(value)).all(1).float().mean())
        assert found == pytest.approx(wanted, abs=4.5 * math.sqrt(wanted / 40_000))


def test_the_on_off_experiment_passes_at_another_size():
    checks = on_off(
        HedgingToy(d=8, p=0.3, q=0.4, seeds=(5, 6), training=BRIEF.model_copy(update={"rows": 50_000})), Silent()
    )
    assert [c.outcome for c in checks] == ["pass"] * 4


def test_a_latent_that_did_not_train_is_not_measured():
    config = HedgingToy(seeds=(0, 1), training=BRIEF)
    for experiment in (free, independent):
        assert {c.outcome for c in experiment(config, Silent())} == {"not_measured"}


def test_a_child_that_varies_more_is_not_measured():
    checks = independent(HedgingToy(p=0.1, q=0.5), Silent())
    assert {c.outcome for c in checks} == {"not_measured"}
    assert "varies more" in checks[0].note


@pytest.mark.parametrize(
    "change", [{"d": 1}, {"p": 0}, {"q": 1}, {"seeds": (0,)}, {"training": {"batch": 9, "rows": 5}}]
)
def test_what_cannot_be_is_told(change):
    with pytest.raises(ValidationError):
        HedgingToy.model_validate(change)
