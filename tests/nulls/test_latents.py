"""Nulls of the latents keep the size of what is removed, and give each latent directions of its own that stay."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from polyseme.core.errors import InputError
from polyseme.nulls import NULLS, LatentNull, OfLatents, Written, make_null, null_of_latents
from polyseme.nulls.alike_latent import ALIKE

N, D = 4000, 4
KINDS = get_args(OfLatents)
GENERATOR = torch.Generator().manual_seed(0)
SPREAD = torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]])
"""The vectors vary in three of four axes."""
VECTORS = torch.randn(500, 3, generator=GENERATOR) @ SPREAD + 10


def written(n: int, fires: np.ndarray, seed: int = 0) -> Written:
    rng = np.random.default_rng(seed)
    directions = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    density = np.where(fires, np.exp(rng.uniform(-7, -2, n)), 0)
    return Written(directions, density, np.exp(rng.uniform(-1, 1, n)), VECTORS)


MANY = written(N, np.arange(N) % 5 != 3)
FEW = written(9, np.isin(np.arange(9), [0, 2, 3, 5, 7]))
LATENT = np.repeat([0, 5, 7], 3)
REMOVED = FEW.directions[torch.from_numpy(LATENT)] * torch.rand(9, 1, generator=GENERATOR)


def test_every_null_of_latents_can_be_said() -> None:
    assert set(KINDS) == {kind for kind, null in NULLS.items() if null.targets == "latents"}
    for kind in KINDS:
        assert null_of_latents(kind, 3) == make_null(kind, 3)
        assert isinstance(null_of_latents(kind), LatentNull)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_what_is_removed_stays_and_all_tokens_of_a_latent_share_a_direction(kind: OfLatents) -> None:
    null = null_of_latents(kind, 1)
    one = null.latents(REMOVED, LATENT, FEW, 0)
    torch.testing.assert_close(one.norm(dim=1), REMOVED.norm(dim=1))
    units = torch.nn.functional.normalize(one, dim=1).view(3, 3, D)
    torch.testing.assert_close(units, units[:, :1].expand(-1, 3, -1))
    assert not torch.allclose(units[0, 0], units[1, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_directions_depend_on_seed_latent_and_draw_alone(kind: OfLatents) -> None:
    null, latents = null_of_latents(kind, 1), np.arange(0, 40, 2)
    latents = latents[MANY.density[latents] > 0]
    whole = null.directions(latents, MANY, 1)
    order = np.random.default_rng(0).permutation(len(latents))
    torch.testing.assert_close(null.directions(latents[order], MANY, 1), whole[torch.from_numpy(order)])
    for i in (0, 7):
        torch.testing.assert_close(null.directions(latents[i : i + 1], MANY, 1), whole[i : i + 1])
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if n_threads > 1 else 2)
        torch.testing.assert_close(null.directions(latents, MANY, 1), whole)
    finally:
        torch.set_num_threads(n_threads)
    for other in (null.directions(latents, MANY, 2), null_of_latents(kind, 2).directions(latents, MANY, 1)):
        assert float(torch.isclose(other, whole).all(dim=1).float().mean()) < 0.2


def test_isotropic_directions_are_uniform() -> None:
    drawn = null_of_latents("isotropic").directions(np.arange(N), MANY, 0)
    assert drawn.mean(0).abs().max() < 5 / (D * N) ** 0.5
    torch.testing.assert_close(drawn.T @ drawn / N, torch.eye(D) / D, atol=0.02, rtol=0)


def test_directions_of_the_covariance_have_it() -> None:
    """Before it is rescaled a draw is Gaussian with the vectors' covariance, whatever their mean."""
    null = null_of_latents("covariance")
    drawn = null.draw(np.arange(N), MANY, 0).float()
    torch.testing.assert_close(drawn.T @ drawn / N, torch.cov(VECTORS.T, correction=0), atol=0.6, rtol=0.05)
    assert drawn.mean(0).abs().max() < 5 * 3.5 / N**0.5
    assert float(drawn[:, 3].abs().max()) < 1e-4  # the vectors do not vary there
    few = Written(MANY.directions, MANY.density, MANY.size, VECTORS[:2])  # fewer vectors than dimensions
    line = torch.nn.functional.normalize(VECTORS[0] - VECTORS[1], dim=0)
    cosines = null.directions(np.arange(N), few, 0) @ line
    assert float((cosines.abs() > 0.999).float().mean()) > 0.999


def chosen(kind: OfLatents, latent: int, of: Written, draws: int, seed: int = 0) -> list[int]:
    """Which latents take the place of one in several draws."""
    null = null_of_latents(kind, seed)
    drawn = torch.cat([null.draw(np.array([latent]), of, k) for k in range(draws)])
    return [int((of.directions == row).all(dim=1).nonzero()) for row in drawn]


def test_other_latents_are_any_others_that_fire_each_once_with_equal_chance() -> None:
    firsts = np.zeros(9)
    for seed in range(400):
        for own in (0, 5, 7):
            others = [i for i in FEW.alive if i != own]
            found = chosen("other_latent", own, FEW, 4, seed)
            assert sorted(found) == others
            firsts[found[0]] += own == 5
    assert firsts.sum() == firsts[[0, 2, 3, 7]].sum() == 400
    assert chisquare(firsts[[0, 2, 3, 7]]).pvalue > 1e-3


def test_alike_latents_are_the_nearest_in_density_and_size_each_once() -> None:
    alive = MANY.alive
    points = np.log(np.stack([MANY.density, np.maximum(MANY.size, 1e-9)], axis=1)[alive])
    points /= points.std(axis=0)
    for own in (0, 20, int(alive[-1])):
        distance = np.linalg.norm(points - points[np.searchsorted(alive, own)], axis=1)
        nearest = alive[np.argsort(distance, kind="stable")[1 : ALIKE + 1]]
        assert sorted(chosen("alike_latent", own, MANY, ALIKE)) == sorted(nearest)
    # The same whatever scale a dictionary gives its latents, which moves all sizes alike.
    scaled = Written(MANY.directions, MANY.density, 7 * MANY.size, VECTORS)
    assert chosen("alike_latent", 20, scaled, 5) == chosen("alike_latent", 20, MANY, 5)


def test_latents_that_are_alike_in_everything_are_others_all_the_same() -> None:
    same = Written(MANY.directions[:40], np.full(40, 0.1), np.ones(40), VECTORS)
    for own in range(0, 40, 3):
        found = chosen("alike_latent", own, same, ALIKE)
        assert own not in found
        assert len(set(found)) == ALIKE


@pytest.mark.parametrize("kind", ["other_latent", "alike_latent"])
def test_there_are_as_many_draws_as_others(kind: OfLatents) -> None:
    null = null_of_latents(kind)
    alone = written(9, np.arange(9) == 0)
    assert null.n_draws(alone) == 0
    assert null.n_draws(FEW) == 4
    with pytest.raises(InputError, match="there are 0 latents"):
        null.latents(REMOVED[:3], LATENT[:3], alone, 0)
    with pytest.raises(InputError, match="draw 4 is asked for"):
        null.latents(REMOVED, LATENT, FEW, 4)
