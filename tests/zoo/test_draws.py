"""Numbers for a stack of networks: those of each network's own generator, whatever it is drawn together with."""

import pytest
import torch

from polyseme.core.seeds import derive_seed, make_generator
from polyseme.zoo.tools.stack import Draws, Grid


@pytest.mark.parametrize("threads", [1, 3])
def test_an_instance_draws_what_its_own_generator_draws(threads):
    p, before = torch.tensor([1.0, 0.3, 0.05, 0.0001]), torch.get_num_threads()

    def drawn(seeds: list[int], density: torch.Tensor) -> list[torch.Tensor]:
        draws = Draws(seeds, "test")
        kinds = (draws.uniform(70, 9), draws.normal(11), draws.sparse_uniform(density, 400, 700), draws.uniform(1))
        return [*kinds, draws.normal(40)]

    try:
        torch.set_num_threads(threads)
        together, alone = drawn([5, 6, 7, 8], p), drawn([7], p[2:3])
    finally:
        torch.set_num_threads(before)
    generator = make_generator(7, "test")
    uniform, normal = (torch.rand(70, 9, generator=generator), torch.randn(11, generator=generator))
    u = torch.rand(400, 700, generator=generator)
    sparse = torch.where(u < p[2], u / p[2], 0.0)
    plain = [uniform, normal, sparse, torch.rand(1, generator=generator), torch.randn(40, generator=generator)]
    for mine, lone, own in zip(together, alone, plain, strict=True):
        assert torch.equal(mine[2], own)
        assert torch.equal(lone[0], own)


def test_a_sparse_draw_is_uniform_where_it_is_not_zero():
    p, n = torch.tensor([1.0, 0.3, 0.01]), 200_000
    x = Draws([1, 2, 3]).sparse_uniform(p, n)
    for row, density in zip(x, p.tolist(), strict=True):
        some = row[row > 0]
        assert abs(len(some) / n - density) <= 5 * (density * (1 - density) / n) ** 0.5
        for q in (0.1, 0.5, 0.9):
            assert abs(float((some < q).float().mean()) - q) < 5 * (q * (1 - q) / len(some)) ** 0.5
        assert float(row.max()) < 1


def test_a_grid_has_every_combination_and_a_seed_of_its_own_for_each():
    grid = Grid((7, 8), density=(0.1, 0.5), task=("and",))
    assert grid.seeds == [7, 8, 7, 8]
    assert grid.settings == [{"density": p, "task": "and"} for p in (0.1, 0.1, 0.5, 0.5)]
    assert grid.derived("name")[2] == derive_seed(7, "name", "0.5", "and")
    assert torch.equal(grid.values("density"), torch.tensor([0.1, 0.1, 0.5, 0.5]))
    assert (Grid((3, 4)).settings, len(Grid((3, 4)))) == ([{}, {}], 2)


def test_a_draw_of_one_is_a_function_of_the_generators_next_number():
    first, second = (Draws.one(torch.Generator().manual_seed(0)).uniform(4) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    Draws.one(generator)
    assert torch.equal(first, second)
    assert not torch.equal(first, Draws.one(generator).uniform(4))
