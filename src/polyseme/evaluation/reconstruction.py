"""How well dictionaries reconstruct held-out vectors, and how often their latents fire.

Additive sums per document; FVU is the fraction of variance unexplained over the whole split, never a mean of batch
ratios, so that it does not move when the data are rescaled, shifted or split into other batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from polyseme.activations.firings import check_size, encode_windows
from polyseme.activations.massive import Ordinary
from polyseme.activations.reading import Reader, Reading
from polyseme.core.batch import Latents
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import Reconstructor
from polyseme.evaluation.sums import DocumentSums
from polyseme.kernels.shield import shielded

DENSE = 0.1
"""A latent that fires on more than this share of the vectors is called dense."""
Visitor = Callable[[Reading, Mapping[str, Latents]], None]
"""Sees every batch of the one network pass: the vectors of every site and the latents of every dictionary."""


def counted_documents(windows: Windows) -> Int[np.ndarray, " document"]:
    """Indices of the documents with a counted token, ascending: the rows of every `DocumentSums`.

    Raises:
        InputError: there is no counted token.
    """
    documents = np.unique(windows.document[~windows.special])
    if not len(documents):
        raise InputError(
            "there is no held-out token to evaluate on",
            where=f"{len(windows)} windows of {len(windows.names)} documents",
            fix="give a larger corpus or a larger held-out fraction",
        )
    return documents


def check_width(network: Reader, name: str, site: Site, dictionary: Reconstructor) -> None:
    """Raise `InputError` unless the dictionary reads and writes vectors of the site's width."""
    check_size(network, name, site, "reads", dictionary.d_in)
    check_size(network, name, site, "writes", dictionary.d_out)


@shielded
def sweep(
    network: Reader,
    windows: Windows,
    dictionaries: Mapping[str, tuple[Site, Reconstructor]],
    visitors: Sequence[Visitor],
    *,
    sites: Sequence[Site] = (),
    batch_windows: int = 16,
    reporter: Reporter | None = None,
) -> None:
    """One pass over the windows that feeds every visitor: the forward pass and each encoding happen once.

    Args:
        network: read in one pass for all sites.
        windows: tokens.
        dictionaries: name to (the site it reads and writes, the dictionary).
        visitors: each is called with every batch.
        sites: further sites to read, where no dictionary is.
        batch_windows: windows a forward pass, at most.
        reporter: receives how many tokens are done.
    """
    counted_documents(windows)
    for name, (site, dictionary) in dictionaries.items():
        check_width(network, name, site, dictionary)
    for reading, latents in encode_windows(
        network, windows, dictionaries, sites=sites, batch_windows=batch_windows, reporter=reporter
    ):
        with torch.inference_mode():
            for visitor in visitors:
                visitor(reading, latents)


@shielded
def evaluate_reconstruction(
    network: Reader,
    windows: Windows,
    dictionaries: Mapping[str, tuple[Site, Reconstructor]],
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
        network: read at every dictionary's site.
        windows: held-out tokens.
        dictionaries: name to (site, dictionary).
        ordinary: what selects a site's ordinary vectors, where they are also measured by themselves.
        batch_windows: windows a forward pass, at most.
        seed: seed of the bootstrap over documents; share it to pair metrics.
        n_resamples: bootstrap replicates.
        reporter: receives how many tokens are done.

    Returns:
        For each dictionary its records; see `ReconstructionSums.finish` for what they are.

    Raises:
        InputError: no held-out token, or a dictionary's width is not its site's.
    """
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
        dictionaries: Mapping[str, tuple[Site, Reconstructor]],
        windows: Windows,
        ordinary: Mapping[Site, Ordinary] | None = None,
    ):
        """
        Args:
            dictionaries: name to (site, dictionary).
            windows: the windows that will be swept, whole.
            ordinary: what selects a site's ordinary vectors, where they are also measured by themselves.
        """
        self._documents, self._n_tokens = counted_documents(windows), windows.n_tokens
        self._dictionaries = dict(dictionaries)
        sites = dict.fromkeys(site for site, _ in dictionaries.values())
        self._ordinary = {site: ordinary[site] for site in sites if site in ordinary} if ordinary else {}
        self._kept: dict[Site, list[np.ndarray]] = {site: [] for site in self._ordinary}
        self._tallies = {
            name: _Tally(site, d, len(self._documents), self._ordinary.get(site))
            for name, (site, d) in dictionaries.items()
        }

    @torch.inference_mode()
    def see(self, reading: Reading, latents: Mapping[str, Latents]) -> None:
        """Add one batch: the vectors of every site and the latents of every dictionary."""
        rows, kept = np.searchsorted(self._documents, reading.document), dict[Site, Tensor]()
        for site, ordinary in self._ordinary.items():
            kept[site] = ordinary.mask(reading.vectors[site].float(), torch.from_numpy(reading.position))
            self._kept[site].append(kept[site].cpu().numpy())
        for name, (site, dictionary) in self._dictionaries.items():
            y = reading.vectors[site].float()
            self._tallies[name].add(y, dictionary.decode(latents[name]), latents[name], rows, kept.get(site))

    def ordinary(self, site: Site) -> Bool[np.ndarray, " token"]:
        """Which of the vectors seen are ordinary, in the order in which they were seen."""
        return np.concatenate([np.zeros(0, dtype=bool), *self._kept[site]])

    def firing_counts(self, name: str) -> Int[np.ndarray, " n_latents"]:
        """On how many vectors each latent of a dictionary fired; divide by n for its density."""
        return self._tallies[name].counts

    def alive(self, name: str) -> Bool[np.ndarray, " n_latents"]:
        """Which latents fired at least once."""
        return self._tallies[name].counts > 0

    def finish(self, *, scope: Mapping[str, str | int] | None = None) -> dict[str, list[DocumentSums]]:
        """Each dictionary's metrics.

        - `fvu` = Σ‖y−ŷ‖² / Σ‖y−ȳ‖², ȳ the mean over the split (recomputed in every resample);
        - `l0`: mean non-zero latents a vector;
        - `fvu_ordinary`, `shrinkage_ordinary`, where a site's ordinary vectors are measured apart: of these alone,
          about their own mean; n is how many. The other metrics count every vector once, whatever its size;
        - `cosine`: mean cos(y, ŷ); a zero vector has cosine 0;
        - `norm_ratio` = Σ‖ŷ‖ / Σ‖y‖;
        - `shrinkage` = Σ‖ŷ‖² / Σ ŷ·y: below 1 the reconstruction is too short, whatever its direction
          (relative reconstruction bias, Rajamanoharan et al. 2024, eq. 10);
        - `dead_latents`: share of latents that never fired; details: the 95% upper limit 3/n on their density;
        - `dense_latents`: share of latents firing on more than 10% of the vectors; details: `density_histogram`.

        Args:
            scope: added to every record's scope (`seed`, `control`, …).
        """
        seen = {int(tally.sums[:, 0].sum()) for tally in self._tallies.values()}
        assert seen <= {self._n_tokens}, f"saw {seen} of {self._n_tokens} tokens: these are not the windows given"
        return {
            name: list(tally.finish(self._documents, {"dictionary": name, "site": str(tally.site), **(scope or {})}))
            for name, tally in self._tallies.items()
        }


class _Tally:
    """One dictionary's sums."""

    COLUMNS = ("n", "error", "square", "l0", "cosine", "norm", "norm_hat", "square_hat", "dot_hat")

    def __init__(self, site: Site, dictionary: Reconstructor, n_documents: int, ordinary: Ordinary | None = None):
        self.site, self.n_latents, self.apart = site, dictionary.n_latents, ordinary is not None
        self.sums = np.zeros((n_documents, len(self.COLUMNS)))
        self.mean = np.zeros((n_documents, dictionary.d_out))
        self.ordinary_sums, self.ordinary_mean = (np.zeros_like(x) if ordinary else x for x in (self.sums, self.mean))
        self.counts = np.zeros(self.n_latents, dtype=np.int64)
        self.firings: list[tuple[np.ndarray, np.ndarray]] = []  # (document · n_latents + latent, count)
        # Squares are taken about a vector near the mean: Σ‖y‖² − ‖Σy‖²/n would cancel where the mean is large.
        self.origin: Tensor | None = None if ordinary is None else ordinary.centre.double()

    def add(self, y: Tensor, y_hat: Tensor, latents: Latents, rows: np.ndarray, ordinary: Tensor | None = None) -> None:
        if not len(y):
            return
        y, y_hat = y.double(), y_hat.double()
        self.origin = y.mean(0) if self.origin is None else self.origin.to(y.device)
        shifted = y - self.origin
        norm, norm_hat, dot = y.norm(dim=1), y_hat.norm(dim=1), (y * y_hat).sum(1)
        lengths = norm * norm_hat
        fired = latents.values != 0
        l0 = torch.zeros_like(norm).index_add_(0, latents.rows, fired.double())
        statistics = torch.stack(
            [
                torch.ones_like(norm),
                (y - y_hat).square().sum(1),
                shifted.square().sum(1),
                l0,
                torch.where(lengths > 0, dot / lengths, torch.zeros_like(dot)),
                norm,
                norm_hat,
                norm_hat.square(),
                dot,
            ],
            dim=1,
        )
        at = torch.from_numpy(rows).to(y.device)
        n_documents = len(self.sums)
        sums, mean = _by_document(statistics, at, n_documents), _by_document(shifted, at, n_documents)
        self.sums += sums
        self.mean += mean
        if ordinary is not None:
            if not bool(ordinary.all()):
                sums = _by_document(statistics[ordinary], at[ordinary], n_documents)
                mean = _by_document(shifted[ordinary], at[ordinary], n_documents)
            self.ordinary_sums += sums
            self.ordinary_mean += mean
        pairs = (at[latents.rows] * self.n_latents + latents.indices)[fired].cpu().numpy()
        keys, counts = np.unique(pairs, return_counts=True)
        self.firings.append((keys, counts))
        np.add.at(self.counts, keys % self.n_latents, counts)

    def finish(self, documents: np.ndarray, scope: dict[str, str | int]) -> Iterator[DocumentSums]:
        n = int(self.sums[:, 0].sum())
        fvu = np.concatenate([self._columns("n", "error", "square"), self.mean], axis=1)
        base = DocumentSums("fvu", "fvu", ("n", "error", "square", "mean"), fvu, documents, n, scope=scope)
        yield replace(base, better="lower")
        if self.apart:
            yield from self._ordinary(base)
        yield replace(self._ratio(base, "l0", "l0", "n"), unit="latents/token", details={"n_latents": self.n_latents})
        yield replace(self._ratio(base, "cosine", "cosine", "n"), better="higher")
        yield self._ratio(base, "norm_ratio", "norm_hat", "norm")
        yield self._ratio(base, "shrinkage", "square_hat", "dot_hat")
        rows, latents, counts = self._per_document()
        yield self._dead(base, rows, latents)
        yield self._dense(base, rows, latents, counts)

    def _ordinary(self, base: DocumentSums) -> Iterator[DocumentSums]:
        """FVU and shrinkage without the vectors that are not ordinary; the same sums where there are none."""
        n = int(self.ordinary_sums[:, 0].sum())
        details = {"left_out": base.n - n}
        sums = base.sums
        if n < base.n:
            sums = np.concatenate([self._columns("n", "error", "square", of=self.ordinary_sums), self.ordinary_mean], 1)
        apart = replace(base, name="fvu_ordinary", sums=sums, n=n, details=details)
        yield replace(apart, better="lower")
        yield self._ratio(apart, "shrinkage_ordinary", "square_hat", "dot_hat", of=self.ordinary_sums)

    def _columns(self, *names: str, of: np.ndarray | None = None) -> np.ndarray:
        sums = self.sums if of is None else of
        return np.ascontiguousarray(sums[:, [self.COLUMNS.index(name) for name in names]])

    def _ratio(
        self, base: DocumentSums, name: str, top: str, bottom: str, *, of: np.ndarray | None = None
    ) -> DocumentSums:
        columns = tuple(dict.fromkeys(["n", top, bottom]))
        parameters = {"numerator": {top: 1.0}, "denominator": {bottom: 1.0}}
        sums = self._columns(*columns, of=of)
        return replace(base, name=name, finish="ratio", columns=columns, sums=sums, parameters=parameters)

    def _per_document(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(document row, latent, firings), each pair once."""
        keys = np.concatenate([np.zeros(0, np.int64), *(k for k, _ in self.firings)])
        counts = np.concatenate([np.zeros(0, np.int64), *(c for _, c in self.firings)])
        unique, inverse = np.unique(keys, return_inverse=True)
        return unique // self.n_latents, unique % self.n_latents, np.bincount(inverse, counts, len(unique))

    def _dead(self, base: DocumentSums, rows: np.ndarray, latents: np.ndarray) -> DocumentSums:
        spread = np.bincount(latents, minlength=self.n_latents)  # in how many documents each latent fires
        sole = np.bincount(rows[spread[latents] == 1], minlength=len(self.sums)).astype(np.float64)
        return replace(
            base,
            name="dead_latents",
            finish="dead_share",
            columns=("sole",),
            sums=sole[:, None],
            better="lower",
            parameters={"shared": int((spread > 1).sum()), "n_latents": self.n_latents},
            details={
                "dead": int((spread == 0).sum()),
                "n_latents": self.n_latents,
                "density_limit": 3 / base.n,  # the rule of three: a latent not seen in n vectors
            },
        )

    def _dense(self, base: DocumentSums, rows: np.ndarray, latents: np.ndarray, counts: np.ndarray) -> DocumentSums:
        # Latents far below the threshold stay below it in every resample: only the others need their own column.
        near = np.flatnonzero(self.counts > DENSE / 4 * base.n)
        kept = np.isin(latents, near)
        sums = np.zeros((len(self.sums), 1 + len(near)))
        sums[:, 0] = self.sums[:, 0]
        sums[rows[kept], 1 + np.searchsorted(near, latents[kept])] = counts[kept]
        return replace(
            base,
            name="dense_latents",
            finish="dense_share",
            columns=("n", "firings"),
            sums=sums,
            parameters={"threshold": DENSE, "n_latents": self.n_latents},
            details={
                "dense": int((self.counts > DENSE * base.n).sum()),
                "n_latents": self.n_latents,
                "density_histogram": density_histogram(self.counts, base.n),
            },
        )


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
