"""Vectors made of known sparse features, as an activation source; and dictionaries of every kind to train on them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from polyseme.core.batch import SiteBatch
from polyseme.core.seeds import make_generator


@dataclass
class Planted:
    """x = Σ features that are on (about `active` of `n_features`) × a size in 0.5 … 1.5 + noise + a shift.

    Batches are a pure function of the index: batch i has its own generator.
    """

    d: int = 16
    n_features: int = 24
    active: float = 2.0
    n_tokens: int = 64_000
    sites: tuple[str, ...] = ("a",)
    seed: int = 0
    noise: float = 0.02

    def __post_init__(self):
        self.truth = {site: self._directions(site) for site in self.sites}

    def _directions(self, site: str) -> Tensor:
        rows = torch.randn(self.n_features, self.d, generator=make_generator(self.seed, "truth", site))
        return torch.nn.functional.normalize(rows, dim=1)

    @property
    def widths(self):
        return dict.fromkeys(self.sites, self.d)

    @property
    def fingerprint(self):
        return f"planted {self.d} {self.n_features} {self.active} {self.sites} {self.seed}"

    def batches(self, batch_size, *, start=0, stop=None):
        per_round = self.n_tokens // batch_size
        index = start
        while stop is None or index < stop:
            yield self.batch(batch_size, index % per_round)
            index += 1

    def batch(self, batch_size: int, index: int) -> SiteBatch:
        generator = make_generator(self.seed, "batch", index)
        shape = (batch_size, self.n_features)
        on = torch.rand(shape, generator=generator) < self.active / self.n_features
        z = on * (0.5 + torch.rand(shape, generator=generator))
        acts = {}
        for site, directions in self.truth.items():
            noise = self.noise * torch.randn(batch_size, self.d, generator=generator)
            acts[site] = z @ directions + noise + 3.0
        ids = torch.arange(batch_size)
        return SiteBatch(acts, ids, ids, ids)


def mcc(found: Tensor, truth: Tensor) -> float:
    """Mean |cosine| of the best one-to-one matching of found directions to the true ones."""
    from scipy.optimize import linear_sum_assignment

    cosine = (torch.nn.functional.normalize(truth, dim=1) @ torch.nn.functional.normalize(found, dim=1).T).abs()
    rows, columns = linear_sum_assignment(-cosine.numpy())
    return float(cosine[rows, columns].mean())


def same_weights(one, other) -> bool:
    """Bit for bit equality of two dictionaries' tensors."""
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
