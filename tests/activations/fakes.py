"""A network whose vectors can be recomputed by hand, and small windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyseme.core.batch import SiteBatch
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows, pack

SITES = (Site(path="layers.0"), Site(path="layers.1"))
NAMES = {"shallow": SITES[0], "deep": SITES[1]}
WIDTHS = {SITES[0]: 4, SITES[1]: 6}


class FakeNetwork:
    """Each vector depends on the token, its position, the token before it and the site."""

    fingerprint = "fake"
    causal = True

    def __init__(self, vocab: int = 50):
        generator = torch.Generator().manual_seed(0)
        self.tables = {s: torch.randn(vocab, d, generator=generator) for s, d in WIDTHS.items()}
        self.passes = 0
        self.windows_read = 0
        self.inputs: list[Any] = []

    def width(self, site: Site) -> int:
        return WIDTHS[site]

    def read(self, inputs: Any, sites: Sequence[Site]) -> dict[Site, Tensor]:
        self.inputs.append(inputs)
        tokens = inputs["input_ids"] if isinstance(inputs, dict) else inputs
        self.passes += 1
        self.windows_read += len(tokens)
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
        ramp = torch.arange(tokens.shape[1], dtype=torch.float32)[None, :, None] / 64
        return {s: self.tables[s][tokens] + 0.5 * self.tables[s][before] + ramp for s in sites}

    def vector(self, site: Site, row: np.ndarray, position: int) -> Tensor:
        """The vector at one place, computed apart from `read`."""
        before = int(row[position - 1]) if position else 0
        return self.tables[site][int(row[position])] + 0.5 * self.tables[site][before] + position / 64


def make_windows(
    n_documents: int = 6, context: int = 8, seed: int = 0, prefix: int | None = 1, longest: int = 20
) -> Windows:
    """Random documents of 1 to `longest` tokens out of ids 2 to 49."""
    rng = np.random.default_rng(seed)
    encoded = {f"doc{i}": rng.integers(2, 50, rng.integers(1, longest + 1)).tolist() for i in range(n_documents)}
    return pack(
        [(name, name) for name in encoded], lambda texts: [encoded[t] for t in texts], context=context, prefix=prefix
    )


def same(a: SiteBatch, b: SiteBatch) -> bool:
    """Equal bit for bit, ids too."""
    ids = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("token", "document", "position"))
    return ids and a.acts.keys() == b.acts.keys() and all(torch.equal(a.acts[site], b.acts[site]) for site in a.acts)
