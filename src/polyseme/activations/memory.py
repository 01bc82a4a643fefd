"""A source whose vectors are all in memory: toys, tests, and activations made elsewhere."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.activations.schedule import Block, Schedule
from polyseme.activations.source import Advance, Rows, cut_batches
from polyseme.core.batch import SiteBatch
from polyseme.core.config import fingerprint
from polyseme.core.errors import InputError
from polyseme.kernels.shield import shielded


class TensorSource:
    """Vectors in memory, each epoch in a new random order.

    Args:
        acts: site name to vectors, the same number of rows each; converted to float32.
        token: token of each row; 0 by default.
        document: document of each row; by default each row is its own.
        position: position of each row; 0 by default.
        seed: seed of the order.

    Raises:
        InputError: no rows, or tensors that differ in length.
    """

    @shielded
    def __init__(
        self,
        acts: Mapping[str, Float[Tensor, "_ _"]],
        *,
        token: Int[Tensor, " _"] | None = None,
        document: Int[Tensor, " _"] | None = None,
        position: Int[Tensor, " _"] | None = None,
        seed: int = 0,
    ):
        lengths = {name: len(tensor) for name, tensor in acts.items()}
        n = next(iter(lengths.values()), 0)
        device = next((tensor.device for tensor in acts.values()), None)
        zeros = torch.zeros(n, dtype=torch.int64, device=device)
        ids = {
            "token": zeros if token is None else token,
            "document": torch.arange(n, device=device) if document is None else document,
            "position": zeros if position is None else position,
        }
        lengths |= {name: len(tensor) for name, tensor in ids.items()}
        if n == 0 or set(lengths.values()) != {n}:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"a source needs rows, as many for each tensor; it got {shown}")
        self._acts = {name: tensor.detach().float() for name, tensor in acts.items()}
        self._ids = torch.stack([tensor.long() for tensor in ids.values()])
        # One row a group and one block an epoch: in the first epoch, too, the block's rows are permuted.
        self._schedule = Schedule(np.ones(n, dtype=np.int64), n, seed)
        self.sites = tuple(acts)
        self.widths = {name: tensor.shape[1] for name, tensor in acts.items()}
        self.n_tokens = n

    @property
    def fingerprint(self) -> str:
        """Hash of the vectors, ids and seed."""
        digest = hashlib.sha256()
        for tensor in (*self._acts.values(), self._ids):
            digest.update(tensor.contiguous().cpu().numpy().data)
        return fingerprint({"rows": digest.hexdigest(), "widths": self.widths, "seed": self._schedule.seed})

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
        """As in `ActivationSource`."""
        rows = Rows(self._acts, self._ids)

        def load(block: Block, _rows: Rows, _advance: Advance) -> None:
            """Everything is there; the block's order of rows is the permutation's business alone."""

        return cut_batches(
            self._schedule, load, lambda: rows, batch_size=batch_size, start=start, stop=stop, prefetch=False
        )
