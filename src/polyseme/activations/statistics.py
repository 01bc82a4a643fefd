"""Mean, variance and norms of each site's vectors, in one pass and float64."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations.massive import Ordinary, SpreadSums
from polyseme.activations.reading import Reader, fitting_windows, read_windows
from polyseme.core.errors import InputError
from polyseme.core.precision import wide
from polyseme.core.progress import Reporter, Silent
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.kernels.shield import shielded


@dataclass(frozen=True)
class SiteStatistics:
    """Statistics of a site's vectors over tokens that count; two of them merge exactly (up to float64 rounding).

    Attributes:
        n: vectors.
        mean: their mean, float64.
        scatter: Σ‖x − mean‖².
        squared_norms: Σ‖x‖².
        max_norm: the largest ‖x‖: far above the root mean square where the network has outlier tokens.
    """

    n: int
    mean: Float[Tensor, " d"]
    scatter: float
    squared_norms: float
    max_norm: float

    @property
    def total_variance(self) -> float:
        """Σ‖x − mean‖² / n, the denominator of FVU a token."""
        return self.scatter / self.n

    @property
    def mean_squared_norm(self) -> float:
        """Σ‖x‖² / n."""
        return self.squared_norms / self.n

    @classmethod
    def of(cls, x: Float[Tensor, "row d"]) -> "SiteStatistics":
        """The statistics of one batch of at least one row."""
        x = wide(x)
        mean = x.mean(0)
        squares = x.square().sum(1)
        scatter = float((x - mean).square().sum())
        return cls(len(x), mean.cpu(), scatter, float(squares.sum()), float(squares.max().sqrt()))

    def merge(self, other: "SiteStatistics") -> "SiteStatistics":
        """The statistics of both sets of vectors together (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        gap = other.mean - self.mean
        return SiteStatistics(
            n,
            self.mean + gap * (other.n / n),
            self.scatter + other.scatter + float(gap.square().sum()) * self.n * other.n / n,
            self.squared_norms + other.squared_norms,
            max(self.max_norm, other.max_norm),
        )


@shielded
def site_statistics(
    network: Reader,
    windows: Windows,
    sites: Mapping[str, Site],
    *,
    ordinary: Mapping[str, Ordinary] | None = None,
    spreads: Mapping[str, SpreadSums] | None = None,
    batch_windows: int = 16,
    reporter: Reporter | None = None,
) -> dict[str, SiteStatistics]:
    """Statistics of every site over the counted tokens of the windows, from one forward pass for all sites.

    Args:
        network: what is read.
        windows: the tokens.
        sites: name to site.
        ordinary: by name of a site, the rule for the vectors that are counted; elsewhere all are.
        spreads: by name of a site, what is shown all its vectors in the same pass.
        batch_windows: windows a forward pass, at most.
        reporter: receives the number of tokens done.

    Raises:
        InputError: no token counts.
    """
    totals: dict[str, SiteStatistics] = {}
    progress = (reporter or Silent()).task("site statistics", windows.n_tokens, "tokens")
    done = 0
    at_once = min(batch_windows, fitting_windows(network, windows, sites.values()))
    for reading in read_windows(network, windows, list(sites.values()), batch_windows=at_once):
        if not len(reading):
            continue
        for name, site in sites.items():
            x = reading.vectors[site]
            if spreads is not None and name in spreads:
                spreads[name].see(x, reading.position)
            if ordinary is not None and name in ordinary:
                x = x[ordinary[name].mask(x.float(), torch.from_numpy(reading.position))]
            if not len(x):
                continue
            part = SiteStatistics.of(x)
            totals[name] = totals[name].merge(part) if name in totals else part
        done += len(reading)
        progress.update(done)
    if len(totals) < len(sites):
        raise InputError("the windows hold no token that counts", where="windows", fix="give a larger corpus")
    return totals


@shielded
def site_means(
    network: Reader,
    windows: Windows,
    sites: Mapping[str, Site],
    *,
    ordinary: Mapping[str, Ordinary] | None = None,
    batch_windows: int = 16,
    reporter: Reporter | None = None,
) -> dict[str, Float[Tensor, " d"]]:
    """Each site's mean vector in float32, on the CPU: what mean ablation puts in its place."""
    statistics = site_statistics(
        network, windows, sites, ordinary=ordinary, batch_windows=batch_windows, reporter=reporter
    )
    return {name: of_site.mean.float() for name, of_site in statistics.items()}
