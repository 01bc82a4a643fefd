"""A source whose vectors are drawn as they are asked for: planted data of any length, none of it held."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations.schedule import Block, Schedule
from polyseme.activations.source import Advance, Rows, cut_batches
from polyseme.core.batch import SiteBatch
from polyseme.core.config import fingerprint
from polyseme.core.errors import InputError
from polyseme.core.seeds import make_generator

GROUP = 8192
"""Rows that one generator draws."""


class DrawnSource:
    """Vectors of one site, drawn from a distribution.

    Rows are drawn in groups, each by a generator of its own, so that a training that resumes draws what it would have
    seen. After `n_tokens` rows the same rows come again, in another order.

    Args:
        site: name of the site.
        width: size of a vector.
        draw: draws a number of vectors from a generator.
        about: what decides the distribution, as JSON, for the fingerprint.
        n_tokens: number of distinct vectors.
        seed: seed of the draws.
        prefetch: draw the next group in a background thread; the vectors are the same.

    Raises:
        InputError: no rows.
    """

    def __init__(
        self,
        site: str,
        width: int,
        draw: Callable[[int, torch.Generator], Float[Tensor, "row d"]],
        *,
        about: Any,
        n_tokens: int,
        seed: int = 0,
        prefetch: bool = True,
    ):
        if n_tokens < 1:
            raise InputError(f"a source of {n_tokens} rows", where="n_tokens", fix="ask for at least one row")
        sizes = np.full(-(-n_tokens // GROUP), GROUP)
        sizes[-1] = n_tokens - GROUP * (len(sizes) - 1)
        self._schedule = Schedule(sizes, 1, seed)
        self._draw, self._about, self._prefetch = draw, about, prefetch
        self.sites = (site,)
        self.widths = {site: width}
        self.n_tokens = n_tokens

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the vectors."""
        return fingerprint(
            {"drawn": self._about, "widths": self.widths, "n_tokens": self.n_tokens, "seed": self._schedule.seed}
        )

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
        """As in `ActivationSource`; each row is a document of its own."""
        return cut_batches(
            self._schedule,
            self._load,
            lambda: Rows.empty(self._schedule.capacity, self.widths, torch.device("cpu")),
            batch_size=batch_size,
            start=start,
            stop=stop,
            prefetch=self._prefetch,
        )

    def _load(self, block: Block, rows: Rows, _: Advance) -> None:
        (group,), (site,) = block.groups, self.sites
        vectors = self._draw(block.n_rows, make_generator(self._schedule.seed, "drawn", int(group)))
        rows.acts[site][: block.n_rows] = vectors
        rows.ids.zero_()
        rows.ids[1, : block.n_rows] = torch.arange(block.n_rows) + int(group) * GROUP
