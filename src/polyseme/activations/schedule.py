"""Which tokens come when: a pure function of the seed and of how many tokens each group of windows holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from polyseme.core.seeds import derive_seed, make_generator


@dataclass(frozen=True)
class Block:
    """Groups that are held together and whose tokens are mixed.

    Attributes:
        epoch: how often all tokens were seen before.
        index: which block of its epoch.
        groups: the groups in the order they are read.
        n_rows: tokens in them.
        skip: tokens at the start of the mixed block that were taken before.
    """

    epoch: int
    index: int
    groups: Int[np.ndarray, " group"]
    n_rows: int
    skip: int = 0


@dataclass(frozen=True)
class Schedule:
    """The endless order of tokens: epochs of blocks of groups.

    A group is a fixed handful of windows, the ones of one forward pass: so every pass is the same whenever it is
    made, and vectors made again are the same bit for bit. The first epoch takes the groups as they are, each later
    one permutes them; blocks of an epoch differ by at most one group; inside a block the tokens are permuted.

    Attributes:
        group_rows: tokens that count, of each group; their sum is at least 1.
        groups_per_block: most groups a block.
        seed: seed of the permutations.
    """

    group_rows: Int[np.ndarray, " group"]
    groups_per_block: int
    seed: int

    @cached_property
    def n_rows(self) -> int:
        """Tokens an epoch."""
        return int(self.group_rows.sum())

    @property
    def n_blocks(self) -> int:
        """Blocks an epoch."""
        return -(-len(self.group_rows) // self.groups_per_block)

    @cached_property
    def capacity(self) -> int:
        """No block has more tokens than this."""
        most = np.sort(self.group_rows)[::-1][: self.groups_per_block]
        return int(most.sum())

    def blocks(self, epoch: int) -> list[Block]:
        """The blocks of an epoch in order."""
        order = np.arange(len(self.group_rows))
        if epoch > 0:
            order = np.random.default_rng(derive_seed(self.seed, "groups", epoch)).permutation(order)
        parts = np.array_split(order, self.n_blocks)
        return [Block(epoch, i, part, int(self.group_rows[part].sum())) for i, part in enumerate(parts)]

    def walk(self, start: int, stop: int | None) -> Iterator[Block]:
        """The blocks that hold rows `start` to `stop` of the endless order, the first with what to skip of it."""
        epoch = start // self.n_rows
        row = epoch * self.n_rows
        while True:
            for block in self.blocks(epoch):
                if stop is not None and row >= stop:
                    return
                end = row + block.n_rows
                if end > start:
                    yield Block(epoch, block.index, block.groups, block.n_rows, max(0, start - row))
                row = end
            epoch += 1

    def permutation(self, block: Block) -> Int[Tensor, " row"]:
        """The order in which a block's tokens come."""
        generator = make_generator(self.seed, "tokens", block.epoch, block.index)
        return torch.randperm(block.n_rows, generator=generator, device="cpu")
