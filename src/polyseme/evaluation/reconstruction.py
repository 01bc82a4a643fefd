"""How well dictionaries reconstruct held-out vectors, and how often their latents fire.

Additive sums per document; FVU is the fraction of variance unexplained over the whole split, never a mean of batch
ratios, so that it does not move when the data are rescaled, shifted or split into other batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.activations.reading import Reader, Reading
from polyseme.core.batch import Latents, joined
from polyseme.core.binding import Binding, BindingLike, located_pairs
from polyseme.core.precision import wide
from polyseme.core.progress import Reporter
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import Reconstructor
from polyseme.evaluation.finishes import DEAD_SHARE, DENSE_SHARE, FVU
from polyseme.evaluation.metric import Metric
from polyseme.evaluation.metrics import of_pass
from polyseme.evaluation.sums import DocumentSums
from polyseme.evaluation.sweep import counted_documents, sweep
from polyseme.kernels.shield import shielded

DENSE = 0.1
"""A latent that fires on more than this share of the vectors is called dense."""


@shielded
def evaluate_reconstruction(
    network: Reader,
    windows: Windows,
    dictionaries: Mapping[str, tuple[BindingLike, Reconstructor]],
    *,
    ordinary: Mapping[Site, Ordinary] | None = None,
    batch_windows: int = 16,
    seed: int = 0,
    n_resamples: int = 1000,
    reporter: Reporter | None = None,
) -> dict[str, list[MetricRecord]]:
    """FVU, L0, cosine, norm ratio, shrinkage, dead and dense latents of many dictionaries from one network pass.

    To share the pass with firings and look-up tables, hand a `ReconstructionSums`, a `FiringsCollector` and a
    `LookupSums` to `sweep` instead.

    Args:
        network: read at every dictionary's sites.
        windows: held-out tokens.
        dictionaries: name to (its binding, the dictionary); what it writes is what it should reconstruct.
        ordinary: what selects a site's ordinary vectors, where they are also measured by themselves.
        batch_windows: windows a forward pass, at most.
        seed: seed of the bootstrap over documents; share it to pair metrics.
        n_resamples: bootstrap replicates.
        reporter: receives how many tokens are done.

    Returns:
        For each dictionary its records; see `ReconstructionSums.finish` for what they are.

    Raises:
        InputError: no held-out token, or a dictionary's width is not that of its sites.
    """
    dictionaries = located_pairs(dictionaries, network)
    sums = ReconstructionSums(dictionaries, windows, ordinary)
    sweep(network, windows, dictionaries, [sums.see], batch_windows=batch_windows, reporter=reporter)
    return {
        name: [entry.record(seed=seed, n_resamples=n_resamples) for entry in entries]
        for name, entries in sums.finish().items()
    }


class ReconstructionSums:
    """Accumulates reconstruction statistics per document; a visitor of `sweep`."""

    def __init__(
        self,
        dictionaries: Mapping[str, tuple[Binding[Site], Reconstructor]],
        windows: Windows,
        ordinary: Mapping[Site, Ordinary] | None = None,
    ):
        """
        Args:
            dictionaries: name to (its binding, the dictionary); what it writes is what it should reconstruct.
            windows: the windows that will be swept, whole.
            ordinary: what selects a site's ordinary vectors, where they are also measured by themselves.
        """
        self._documents, self._n_tokens = counted_documents(windows), windows.n_tokens
        self._dictionaries = dict(dictionaries)
        self._ordinary = dict(ordinary or {})
        bindings = dict.fromkeys(binding for binding, _ in dictionaries.values())
        self._kept: dict[Binding[Site], list[np.ndarray]] = {
            binding: [] for binding in bindings if not self._ordinary.keys().isdisjoint(binding.places)
        }
        self._tallies = {
            name: _Tally(binding, d, len(self._documents), apart=binding in self._kept, centre=self._centre(binding))
            for name, (binding, d) in dictionaries.items()
        }

    def _centre(self, binding: Binding[Site]) -> Tensor | None:
        """Where the vectors that are written lie, where it is known."""
        if not self._ordinary.keys() >= set(binding.writes):
            return None
        return joined(binding.writes, {site: wide(self._ordinary[site].centre) for site in binding.writes})

    @torch.inference_mode()
    def see(self, reading: Reading, latents: Mapping[str, Latents]) -> None:
        """Add one batch: the vectors of every site and the latents of every dictionary."""
        rows, kept = np.searchsorted(self._documents, reading.document), dict[Binding[Site], Tensor]()
        for binding, before in self._kept.items():
            found = reading.ordinary(binding.places, self._ordinary)
            assert found is not None
            kept[binding] = found
            before.append(found.cpu().numpy())
        for name, (binding, dictionary) in self._dictionaries.items():
            y = reading.at(binding.writes).float()
            self._tallies[name].add(y, dictionary.decode(latents[name]), latents[name], rows, kept.get(binding))

    def ordinary(self, binding: Binding[Site]) -> Bool[np.ndarray, " token"]:
        """Which tokens are ordinary at all sites of a binding, in the order in which they were seen."""
        return np.concatenate([np.zeros(0, dtype=bool), *self._kept[binding]])

    def firing_counts(self, name: str) -> Int[np.ndarray, " n_latents"]:
        """On how many vectors each latent of a dictionary fired; divide by n for its density."""
        return self._tallies[name].counts

    def alive(self, name: str) -> Bool[np.ndarray, " n_latents"]:
        """Which latents fired at least once."""
        return self._tallies[name].counts > 0

    def finish(self, *, scope: Mapping[str, str | int] | None = None) -> dict[str, list[DocumentSums]]:
        """Each dictionary's metrics, those of `METRICS` that this pass measures; what they are stands there.

        Those of ordinary vectors are given where a site's ordinary vectors are measured apart. `dead_latents` has in
        its details the 95% upper limit 3/n on a dead latent's density, `dense_latents` a `density_histogram`.

        Args:
            scope: added to every record's scope (`seed`, `control`, …).
        """
        seen = {int(tally.sums[:, 0].sum()) for tally in self._tallies.values()}
        assert seen <= {self._n_tokens}, f"saw {seen} of {self._n_tokens} tokens: these are not the windows given"
        return {
            name: list(tally.finish(self._documents, {"dictionary": name, "site": str(tally.binding), **(scope or {})}))
            for name, tally in self._tallies.items()
        }


@dataclass(frozen=True)
class _Vectors:
    """A batch of vectors, what a dictionary makes of them, and what several statistics are made of."""

    y: Tensor
    y_hat: Tensor
    shifted: Tensor
    n_fired: Tensor

    @cached_property
    def norm(self) -> Tensor:
        return self.y.norm(dim=1)

    @cached_property
    def norm_hat(self) -> Tensor:
        return self.y_hat.norm(dim=1)

    @cached_property
    def dot(self) -> Tensor:
        return (self.y * self.y_hat).sum(1)

    @property
    def cosine(self) -> Tensor:
        lengths = self.norm * self.norm_hat
        return torch.where(lengths > 0, self.dot / lengths, torch.zeros_like(self.dot))


STATISTICS: Mapping[str, Callable[[_Vectors], Tensor]] = {
    "n": lambda v: torch.ones_like(v.norm),
    "error": lambda v: (v.y - v.y_hat).square().sum(1),
    "square": lambda v: v.shifted.square().sum(1),
    "l0": lambda v: v.n_fired,
    "cosine": lambda v: v.cosine,
    "norm": lambda v: v.norm,
    "norm_hat": lambda v: v.norm_hat,
    "square_hat": lambda v: v.norm_hat.square(),
    "dot_hat": lambda v: v.dot,
}
"""What is summed over the vectors of each document: the columns that metrics are made of."""


class _Tally:
    """One dictionary's sums."""

    def __init__(
        self,
        binding: Binding[Site],
        dictionary: Reconstructor,
        n_documents: int,
        *,
        apart: bool = False,
        centre: Tensor | None = None,
    ):
        self.binding, self.n_latents, self.apart = binding, dictionary.n_latents, apart
        self.sums = np.zeros((n_documents, len(STATISTICS) + dictionary.d_out))  # and y less the origin
        self.ordinary = np.zeros_like(self.sums) if apart else self.sums
        self.counts = np.zeros(self.n_latents, dtype=np.int64)
        self.firings: list[tuple[np.ndarray, np.ndarray]] = []  # (document · n_latents + latent, count)
        # Squares are taken about a vector near the mean: Σ‖y‖² − ‖Σy‖²/n would cancel where the mean is large.
        self.origin = centre

    def add(self, y: Tensor, y_hat: Tensor, latents: Latents, rows: np.ndarray, ordinary: Tensor | None = None) -> None:
        if not len(y):
            return
        y, y_hat = wide(y), wide(y_hat)
        entries, indices, fired = (x.to(y.device) for x in (latents.rows, latents.indices, latents.values != 0))
        self.origin = y.mean(0) if self.origin is None else self.origin.to(y.device)
        shifted = y - self.origin
        n_fired = torch.zeros(len(y), dtype=y.dtype, device=y.device).index_add_(0, entries, wide(fired))
        vectors = _Vectors(y, y_hat, shifted, n_fired)
        statistics = [statistic(vectors) for statistic in STATISTICS.values()]
        values = torch.cat([torch.stack(statistics, dim=1), shifted], dim=1)
        at = torch.from_numpy(rows).to(y.device)
        sums = _by_document(values, at, len(self.sums))
        self.sums += sums
        if ordinary is not None:
            kept = ordinary.to(y.device)
            self.ordinary += sums if bool(kept.all()) else _by_document(values[kept], at[kept], len(self.sums))
        pairs = (at[entries] * self.n_latents + indices)[fired].cpu().numpy()
        keys, counts = np.unique(pairs, return_counts=True)
        self.firings.append((keys, counts))
        np.add.at(self.counts, keys % self.n_latents, counts)

    def finish(self, documents: np.ndarray, scope: dict[str, str | int]) -> Iterator[DocumentSums]:
        fired = self._per_document()
        every = ordinary = _Sums.of(self.sums)
        if self.ordinary[:, 0].sum() < every.n:
            ordinary = _Sums.of(self.ordinary)
        for metric in of_pass("reconstruction"):
            if metric.vectors == "ordinary" and not self.apart:
                continue
            of = every if metric.vectors == "counted" else ordinary
            if metric.finish is FVU:
                made = _Made(_OF_FVU, of.fvu, {}, {})
            elif metric.finish is DEAD_SHARE:
                made = self._dead(every.n, *fired)
            elif metric.finish is DENSE_SHARE:
                made = self._dense(every.n, *fired)
            else:
                made = of.ratio(metric)
            details = {"n_latents": self.n_latents} if metric.name == "l0" else made.details
            if metric.vectors == "ordinary":
                details = {**details, "left_out": every.n - of.n}
            yield DocumentSums(metric, made.columns, made.sums, documents, of.n, scope, made.parameters, details)

    def _per_document(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(document row, latent, firings), each pair once."""
        keys = np.concatenate([np.zeros(0, np.int64), *(k for k, _ in self.firings)])
        counts = np.concatenate([np.zeros(0, np.int64), *(c for _, c in self.firings)])
        unique, inverse = np.unique(keys, return_inverse=True)
        return unique // self.n_latents, unique % self.n_latents, np.bincount(inverse, counts, len(unique))

    def _dead(self, n: int, rows: np.ndarray, latents: np.ndarray, _counts: np.ndarray) -> "_Made":
        spread = np.bincount(latents, minlength=self.n_latents)  # in how many documents each latent fires
        sole = np.bincount(rows[spread[latents] == 1], minlength=len(self.sums)).astype(np.float64)
        return _Made(
            ("sole",),
            sole[:, None],
            {"shared": int((spread > 1).sum()), "n_latents": self.n_latents},
            {
                "dead": int((spread == 0).sum()),
                "n_latents": self.n_latents,
                "density_limit": 3 / n,  # the rule of three: a latent not seen in n vectors
            },
        )

    def _dense(self, n: int, rows: np.ndarray, latents: np.ndarray, counts: np.ndarray) -> "_Made":
        # Latents far below the threshold stay below it in every resample: only the others need their own column.
        near = np.flatnonzero(self.counts > DENSE / 4 * n)
        kept = np.isin(latents, near)
        sums = np.zeros((len(self.sums), 1 + len(near)))
        sums[:, 0] = self.sums[:, 0]
        sums[rows[kept], 1 + np.searchsorted(near, latents[kept])] = counts[kept]
        return _Made(
            ("n", "firings"),
            sums,
            {"threshold": DENSE, "n_latents": self.n_latents},
            {
                "dense": int((self.counts > DENSE * n).sum()),
                "n_latents": self.n_latents,
                "density_histogram": density_histogram(self.counts, n),
            },
        )


class _Made(NamedTuple):
    """The part of a metric's `DocumentSums` that depends on its finish."""

    columns: tuple[str, ...]
    sums: np.ndarray
    parameters: dict[str, Any]
    details: dict[str, Any]


@dataclass(frozen=True)
class _Sums:
    """Statistics of all vectors, or of the ordinary ones, and the sums that their FVU is made of."""

    statistics: np.ndarray
    fvu: np.ndarray
    n: int

    @classmethod
    def of(cls, sums: np.ndarray) -> "_Sums":
        fvu = np.concatenate([_columns(sums, _OF_FVU[:-1]), sums[:, len(STATISTICS) :]], axis=1)
        return cls(sums, fvu, int(sums[:, 0].sum()))

    def ratio(self, metric: Metric) -> _Made:
        weights = metric.weights
        columns = tuple(dict.fromkeys(["n", *weights["numerator"], *weights["denominator"]]))
        return _Made(columns, _columns(self.statistics, columns), weights, {})


_OF_FVU = ("n", "error", "square", "mean")


def _columns(statistics: np.ndarray, names: Sequence[str]) -> np.ndarray:
    known = list(STATISTICS)
    return np.ascontiguousarray(statistics[:, [known.index(name) for name in names]])


def density_histogram(
    counts: Int[np.ndarray, " n_latents"], n: int, *, per_decade: int = 4, decades: int = 7
) -> dict[str, list[float] | list[int] | int | str]:
    """Histogram of log10(density) of the latents that fired; the dead ones are counted apart.

    Args:
        counts: vectors on which each latent fired.
        n: vectors.
        per_decade: bins a decade.
        decades: the first bin starts at 10^−decades (and holds what is rarer), the last ends at density 1.
    """
    density = counts[counts > 0] / max(n, 1)
    edges = np.linspace(-decades, 0, decades * per_decade + 1)
    heights, _ = np.histogram(np.clip(np.log10(density), -decades, 0), edges)
    return {
        "label": "log10 density",
        "edges": edges.tolist(),
        "counts": heights.tolist(),
        "dead": int((counts == 0).sum()),
    }


def _by_document(rows: Tensor, at: Tensor, n_documents: int) -> np.ndarray:
    out = torch.zeros(n_documents, rows.shape[1], dtype=torch.float64, device=rows.device)
    return out.index_add_(0, at, rows).cpu().numpy()
