"""Random latents: densities, directions, seeds."""

import numpy as np
import pytest
import torch

from polyseme.core.errors import InputError
from polyseme.nulls.random_latents import random_latents


def vectors(n=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 8, generator=generator) @ torch.randn(8, 8, generator=generator) + 3


def test_each_fires_as_often_as_is_asked_for():
    densities = np.array([0.0, 0.001, 0.05, 0.5, 0.9, 1.0])
    fires = (random_latents(vectors(), densities, 0).encode(vectors()).dense() > 0).sum(0)
    assert fires.tolist() == [1, 4, 200, 2000, 3600, 3999]


def test_directions_are_spread_as_the_vectors_are():
    sample = vectors(20_000)
    n = 3000
    random = random_latents(sample, np.full(n, 0.5), 1)
    # Where half of all vectors fire, a latent's activations are w · (x − median): w from two of them.
    scaled = sample.mean(0) + 1e4 * torch.eye(8)
    active = random.encode(torch.cat([scaled, 2 * sample.mean(0) - scaled])).dense()
    directions = (active[:8] - active[8:]).T / 1e4
    directions = directions / directions.norm(dim=1, keepdim=True)
    drawn = torch.from_numpy(np.random.default_rng(0).multivariate_normal(np.zeros(8), sample.T.cov().numpy(), n))
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions.T.cov(), drawn.T.cov().float(), atol=0.03, rtol=0)


def test_seeds_tell_draws_apart_and_the_scale_of_the_vectors_is_the_scale_of_activations():
    sample, densities = vectors(), np.full(5, 0.1)
    first = random_latents(sample, densities, 0).encode(sample).dense()
    torch.testing.assert_close(random_latents(sample, densities, 0).encode(sample).dense(), first)
    assert not torch.allclose(random_latents(sample, densities, 1).encode(sample).dense(), first)
    torch.testing.assert_close(
        random_latents(10 * sample, densities, 0).encode(10 * sample).dense(), 10 * first, rtol=1e-3, atol=1e-3
    )
    batched = random_latents(sample, densities, 0).encode(sample.view(40, 100, 8))
    assert batched.shape == (40, 100, 5)


def test_one_vector_is_refused():
    with pytest.raises(InputError, match="two vectors"):
        random_latents(torch.ones(1, 8), np.array([0.1]), 0)
