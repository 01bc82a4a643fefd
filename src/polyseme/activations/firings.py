"""A dictionary's latents over held-out tokens, kept sparse: what evaluation, causal tests and interpretation share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.activations.reading import Reader, Reading, fitting_windows, read_windows
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding, BindingLike, located_pairs
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import LatentEncoder
from polyseme.kernels.shield import shielded
from polyseme.store import load_json, save_array, save_json

_IDS = ("token", "document", "window", "position")


@dataclass(frozen=True)
class Firings:
    """One dictionary's non-zero latents over the counted tokens, in window order.

    Token t is `windows.tokens[window[t], position[t]]`; what it predicts is the token at `position[t] + 1` of the
    same row, where that exists and is not special.

    Attributes:
        matrix: float32 `[token, n_latents]`, only non-zero activations stored, columns ascending within a row.
        token: id of each token.
        document: index of its document in `Windows.names`.
        window: its row in the windows.
        position: its column in that row.
    """

    matrix: csr_array
    token: Int[np.ndarray, " token"]
    document: Int[np.ndarray, " token"]
    window: Int[np.ndarray, " token"]
    position: Int[np.ndarray, " token"]

    @property
    def n_tokens(self) -> int:
        """Rows of the matrix: tokens that are neither special nor padding."""
        return len(self.token)

    @property
    def n_latents(self) -> int:
        """Columns of the matrix, dead latents too."""
        return cast(tuple[int, int], self.matrix.shape)[1]

    @property
    def n_documents(self) -> int:
        """Distinct documents among the tokens."""
        return len(np.unique(self.document))

    @cached_property
    def columns(self) -> csc_array:
        """The same numbers latent by latent: `columns.indptr[i] : columns.indptr[i + 1]` are latent i's firings."""
        return self.matrix.tocsc()

    @cached_property
    def counts(self) -> Int[np.ndarray, " n_latents"]:
        """On how many tokens each latent fires."""
        return np.diff(self.columns.indptr).astype(np.int64)

    @cached_property
    def densities(self) -> Float[np.ndarray, " n_latents"]:
        """On which share of the tokens each latent fires."""
        return self.counts / max(1, self.n_tokens)

    @cached_property
    def document_counts(self) -> Int[np.ndarray, " n_latents"]:
        """In how many documents each latent fires."""
        latent, n = np.repeat(np.arange(self.n_latents), self.counts), int(self.document.max(initial=0)) + 1
        pairs = np.unique(latent * n + self.document[self.columns.indices])
        return np.bincount(pairs // n, minlength=self.n_latents)

    def of(self, latent: int) -> tuple[Int[np.ndarray, " firing"], Float[np.ndarray, " firing"]]:
        """The rows where a latent fires, ascending, and its activations there."""
        span = slice(self.columns.indptr[latent], self.columns.indptr[latent + 1])
        return np.asarray(self.columns.indices[span]), np.asarray(self.columns.data[span], dtype=np.float64)

    def correlations(self, latents: Sequence[int], other: "Firings") -> Float[np.ndarray, "latent n_latents"]:
        """Pearson correlation of some latents with all of another dictionary's; 0 where either never varies."""
        x, y, n = self.columns[:, list(latents)], other.columns, self.n_tokens
        mean_x, mean_y = x.sum(axis=0) / n, y.sum(axis=0) / n
        covariance = (x.T @ y).toarray() / n - np.outer(mean_x, mean_y)
        spread_x = np.sqrt(np.maximum(x.power(2).sum(axis=0) / n - mean_x**2, 0))
        spread_y = np.sqrt(np.maximum(y.power(2).sum(axis=0) / n - mean_y**2, 0))
        scale = np.outer(spread_x, spread_y)
        return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.*.npy` and `<name>.json` into `folder`, each complete or not at all."""
        for part in ("data", "indices", "indptr"):
            save_array(folder / f"{name}.{part}.npy", getattr(self.matrix, part))
        for part in _IDS:
            save_array(folder / f"{name}.{part}.npy", getattr(self, part))
        save_json(folder / f"{name}.json", {"n_tokens": self.n_tokens, "n_latents": self.n_latents})

    @classmethod
    def load(cls, folder: Path, name: str) -> "Firings":
        """Read what `save` wrote.

        Raises:
            DamagedArtifact: a file is missing, cut short or does not fit the others.
        """
        try:
            shape = load_json(folder / f"{name}.json")
            files = {part: folder / f"{name}.{part}.npy" for part in ("data", "indices", "indptr", *_IDS)}
            parts = {part: np.load(path, allow_pickle=False) for part, path in files.items()}
            n_tokens, n_latents = int(shape["n_tokens"]), int(shape["n_latents"])
            matrix = csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=(n_tokens, n_latents))
            if any(len(parts[part]) != n_tokens for part in _IDS):
                raise ValueError("the id arrays and the matrix differ in length")
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise DamagedArtifact(
                f"the firings {name!r} cannot be read ({error})", where=str(folder), fix="delete them and run again"
            ) from error
        return cls(matrix, parts["token"], parts["document"], parts["window"], parts["position"])


@shielded
def collect_firings(
    network: Reader,
    windows: Windows,
    dictionaries: Mapping[str, tuple[BindingLike, LatentEncoder]],
    *,
    trained_on: Mapping[Site, Ordinary] | None = None,
    batch_windows: int = 16,
    reporter: Reporter | None = None,
) -> dict[str, Firings]:
    """Encode every counted token of the windows with every dictionary, from one forward pass for all sites.

    Args:
        network: where the vectors come from.
        windows: the tokens.
        dictionaries: name to (its binding, the dictionary); only what it reads is looked at.
        trained_on: the rule for the vectors of a site that training left in, of the sites where it left some out; at
            other tokens latents do not fire.
        batch_windows: windows a forward pass, at most.
        reporter: receives the number of tokens done.

    Raises:
        InputError: a dictionary's `d_in` is not the width of what it reads.
    """
    dictionaries, trained_on = located_pairs(dictionaries, network), trained_on or {}
    collector = FiringsCollector.of(dictionaries, trained_on)
    places = [place for binding, _ in dictionaries.values() for place in binding.places if place in trained_on]
    for reading, latents in encode_windows(
        network, windows, dictionaries, sites=places, batch_windows=batch_windows, reporter=reporter
    ):
        collector.see(reading, latents)
    return collector.finish()


def encode_windows(
    network: Reader,
    windows: Windows,
    dictionaries: Mapping[str, tuple[BindingLike, LatentEncoder]],
    *,
    sites: Sequence[Site] = (),
    batch_windows: int = 16,
    reporter: Reporter | None = None,
) -> Iterator[tuple[Reading, dict[str, Latents]]]:
    """One pass over the windows: every batch's vectors, and every dictionary's latents of them.

    Args:
        network: read in one pass for all sites.
        windows: held-out tokens.
        dictionaries: name to (its binding, the dictionary); only what it reads is looked at.
        sites: further sites to read, where no dictionary is.
        batch_windows: windows a forward pass, at most.
        reporter: receives the number of tokens done.

    Raises:
        InputError: a dictionary's `d_in` is not the width of what it reads.
    """
    dictionaries = located_pairs(dictionaries, network)
    for name, (binding, dictionary) in dictionaries.items():
        check_size(network, name, binding, "reads", dictionary.d_in)
    wanted = [*(site for binding, _ in dictionaries.values() for site in binding.reads), *sites]
    progress = (reporter or Silent()).task("held-out vectors", windows.n_tokens, "tokens")
    done = 0
    at_once = min(batch_windows, fitting_windows(network, windows, wanted))
    for reading in read_windows(network, windows, wanted, batch_windows=at_once):
        with torch.inference_mode():
            latents = {name: d.encode(reading.at(b.reads).float()) for name, (b, d) in dictionaries.items()}
        yield reading, latents
        done += len(reading)
        progress.update(done)


def check_size(network: Reader, name: str, binding: Binding[Site], does: Literal["reads", "writes"], size: int) -> None:
    """Raise `InputError` unless the vectors that a dictionary reads or writes are as wide as its sites together."""
    sites = binding.reads if does == "reads" else binding.writes
    width = sum(network.width(site) for site in sites)
    if size != width:
        raise InputError(
            f"dictionary {name!r} {does} vectors of width {size}, but the site's vectors have width {width}",
            where=" + ".join(map(str, sites)),
            fix="use the dictionary at the site and on the network it was trained on",
        )


class FiringsCollector:
    """Gathers firings batch by batch: a visitor of any pass that reads vectors and encodes them.

    Args:
        n_latents: dictionary name to its width.
        trained_on: dictionary name to the rule for the vectors of its sites that training left in; at other tokens
            its latents do not fire.
    """

    def __init__(self, n_latents: Mapping[str, int], trained_on: Mapping[str, Mapping[Site, Ordinary]] | None = None):
        self._n_latents, self._trained_on = dict(n_latents), dict(trained_on or {})
        self._entries: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {name: [] for name in n_latents}
        self._ids: dict[str, list[np.ndarray]] = {part: [] for part in _IDS}

    @classmethod
    def of(
        cls, dictionaries: Mapping[str, tuple[Binding[Site], LatentEncoder]], trained_on: Mapping[Site, Ordinary]
    ) -> "FiringsCollector":
        """One of these dictionaries, with the rule of every site that training left some vectors of out."""
        return cls(
            {name: dictionary.n_latents for name, (_, dictionary) in dictionaries.items()},
            {
                name: {site: trained_on[site] for site in binding.places if site in trained_on}
                for name, (binding, _) in dictionaries.items()
            },
        )

    def see(self, reading: Reading, latents: Mapping[str, Latents]) -> None:
        """Add one batch, in window order."""
        for name in self._n_latents:
            found = latents[name]
            of_sites = self._trained_on.get(name, {})
            kept = reading.ordinary(of_sites, of_sites)
            if kept is not None:
                found = _firing_at(found, kept)
            self._entries[name].append(_entries(found))
        for part in _IDS:
            self._ids[part].append(getattr(reading, part))

    def finish(self) -> dict[str, Firings]:
        """Each dictionary's firings; their ids are shared."""
        joined = {part: np.concatenate([np.empty(0, np.int32), *chunks]) for part, chunks in self._ids.items()}
        return {
            name: Firings(_matrix(entries, len(joined["token"]), self._n_latents[name]), **joined)
            for name, entries in self._entries.items()
        }


def _firing_at(latents: Latents, rows: Bool[Tensor, " batch"]) -> Latents:
    """The latents of these rows, none of the others."""
    if bool(rows.all()):
        return latents
    rows = rows.to(latents.offsets.device)
    kept, offsets = rows[latents.rows], torch.zeros_like(latents.offsets)
    torch.cumsum(latents.offsets.diff() * rows, 0, out=offsets[1:])
    return Latents(latents.values[kept], latents.indices[kept], offsets, latents.n_latents)


def _entries(latents: Latents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = (latents.offsets[1:] - latents.offsets[:-1]).cpu().numpy()
    return (latents.values.float().cpu().numpy(), latents.indices.to(torch.int32).cpu().numpy(), counts)


def _matrix(chunks: list[tuple[np.ndarray, np.ndarray, np.ndarray]], n_tokens: int, n_latents: int) -> csr_array:
    data = np.concatenate([np.empty(0, np.float32), *(c[0] for c in chunks)])
    indices = np.concatenate([np.empty(0, np.int32), *(c[1] for c in chunks)])
    counts = np.concatenate([np.empty(0, np.int64), *(c[2] for c in chunks)])
    indptr = np.zeros(n_tokens + 1, dtype=np.int64 if len(data) > np.iinfo(np.int32).max else np.int32)
    np.cumsum(counts, out=indptr[1:])
    matrix = csr_array((data, indices, indptr), shape=(n_tokens, n_latents))
    matrix.eliminate_zeros()
    return matrix
