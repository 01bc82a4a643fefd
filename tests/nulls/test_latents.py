"""Nulls of the latents keep the size of what is removed, and draw their directions as they say."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from polyseme.core.errors import InputError
from polyseme.nulls import NULLS, LatentNull, OfLatents, Written, make_null, null_of_latents

N, D = 20_000, 4
KINDS = get_args(OfLatents)
GENERATOR = torch.Generator().manual_seed(0)
SPREAD = torch.tensor([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]])
"""The vectors vary in three of four axes."""
WRITTEN = Written(
    directions=torch.nn.functional.normalize(torch.randn(9, D, generator=GENERATOR), dim=1),
    alive=np.array([0, 2, 3, 5, 7]),
    vectors=torch.randn(500, 3, generator=GENERATOR) @ SPREAD + 10,
)
LATENT = np.repeat([0, 5], N // 2)
REMOVED = WRITTEN.directions[torch.from_numpy(LATENT)] * torch.rand(N, 1, generator=GENERATOR)


def test_every_null_of_latents_can_be_said() -> None:
    assert set(KINDS) == {kind for kind, null in NULLS.items() if null.targets == "latents"}
    for kind in KINDS:
        assert null_of_latents(kind, 3) == make_null(kind, 3)
        assert isinstance(null_of_latents(kind), LatentNull)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_what_is_removed_stays_and_the_samples_name_decides(kind: OfLatents) -> None:
    null = null_of_latents(kind, 1)
    one = null.latents(REMOVED, LATENT, WRITTEN, 3, 0)
    torch.testing.assert_close(one.norm(dim=1), REMOVED.norm(dim=1))
    assert torch.equal(one, null.latents(REMOVED, LATENT, WRITTEN, 3, 0))
    assert not torch.equal(one, null.latents(REMOVED, LATENT, WRITTEN, 3, 1))


def units(kind: OfLatents) -> torch.Tensor:
    return torch.nn.functional.normalize(null_of_latents(kind).latents(REMOVED, LATENT, WRITTEN, 0), dim=1)


def test_isotropic_directions_are_uniform() -> None:
    drawn = units("isotropic")
    assert drawn.mean(0).abs().max() < 5 / (D * N) ** 0.5
    torch.testing.assert_close(drawn.T @ drawn / N, torch.eye(D) / D, atol=0.01, rtol=0)


def test_directions_of_the_covariance_have_it() -> None:
    """Before it is rescaled a draw is Gaussian with the vectors' covariance, whatever their mean."""
    null = null_of_latents("covariance")
    drawn = null.draw(LATENT, WRITTEN, np.random.default_rng(0))
    torch.testing.assert_close(drawn.T @ drawn / N, torch.cov(WRITTEN.vectors.T, correction=0), atol=0.4, rtol=0.02)
    assert drawn.mean(0).abs().max() < 5 * 3.5 / N**0.5
    assert float(drawn[:, 3].abs().max()) < 1e-4  # the vectors do not vary there
    few = Written(WRITTEN.directions, WRITTEN.alive, WRITTEN.vectors[:2])  # fewer vectors than dimensions
    line = torch.nn.functional.normalize(few.vectors[0] - few.vectors[1], dim=0)
    cosines = torch.nn.functional.normalize(null.draw(LATENT, few, np.random.default_rng(0)), dim=1) @ line
    assert float((cosines.abs() > 0.999).float().mean()) > 0.999


def test_other_latents_are_any_others_that_fire_with_equal_chance() -> None:
    drawn = units("other_latent")
    which = (drawn @ WRITTEN.directions.T).argmax(dim=1).numpy()
    torch.testing.assert_close(drawn, WRITTEN.directions[torch.from_numpy(which)])
    for own in (0, 5):
        counts = np.bincount(which[own == LATENT], minlength=9)
        others = [i for i in WRITTEN.alive if i != own]
        assert counts.sum() == counts[others].sum()
        assert chisquare(counts[others]).pvalue > 1e-3


def test_a_dictionary_with_one_latent_that_fires_has_no_other() -> None:
    alone = Written(WRITTEN.directions, np.array([0]), WRITTEN.vectors)
    with pytest.raises(InputError, match="no two latents that fire"):
        null_of_latents("other_latent").latents(REMOVED, LATENT, alone, 0)
