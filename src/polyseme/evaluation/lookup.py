"""What the token alone explains: reconstruct each vector by the mean vector of its token, or of its bigram.

A dictionary that does no better than E[x | token] has found the vocabulary; one that does no better than
E[x | previous token, token] has found pairs of tokens. The tables are learned on training windows and scored on
held-out ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.activations.reading import Reader, Reading, fitting_windows, read_windows
from polyseme.core.batch import Latents
from polyseme.core.binding import Binding, BindingLike, located
from polyseme.core.config import Config, PassWindows
from polyseme.core.errors import InputError
from polyseme.core.precision import wide
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.evaluation.metrics import METRICS
from polyseme.evaluation.sums import DocumentSums
from polyseme.evaluation.sweep import counted_documents, sweep
from polyseme.kernels.shield import shielded

Kind = Literal["token", "bigram"]
KINDS: tuple[Kind, ...] = ("token", "bigram")


class LookupConfig(Config):
    """How the look-up tables are learned."""

    max_bigrams: int = Field(default=100_000, ge=0, le=10**9)
    """Largest number of bigrams in a table, the most frequent held-out ones first; the others fall back on their token.
    This bounds the memory."""
    batch_windows: PassWindows = 16
    """Largest number of windows in a forward pass; a wide network or long windows use fewer."""

    def build(
        self,
        network: Reader,
        train: Windows,
        heldout: Windows,
        bindings: Sequence[BindingLike],
        *,
        ordinary: Mapping[Site, Ordinary] | None = None,
        reporter: Reporter | None = None,
    ) -> "Lookup":
        """Learn the tables; see `learn_lookup`."""
        return learn_lookup(network, train, heldout, bindings, ordinary=ordinary, config=self, reporter=reporter)


@dataclass(frozen=True)
class Lookup:
    """Mean vectors of what bindings write, by token and by bigram that occur in the held-out windows.

    Attributes:
        keys: for each kind, the held-out keys that may have a row, ascending (`lookup_keys`).
        counts: by binding and kind, how many ordinary training vectors had each key.
        tables: by binding and kind, the mean vector of each key; rows with count 0 hold the fall-back.
        means: each binding's mean vector over the training windows.
        ordinary: by site, what selects its ordinary vectors; a binding's tables are of the tokens that are ordinary at
            all its sites.
    """

    keys: dict[Kind, Int[np.ndarray, " key"]]
    counts: dict[tuple[Binding[Site], Kind], Int[np.ndarray, " key"]]
    tables: dict[tuple[Binding[Site], Kind], Float[Tensor, "key d"]]
    means: dict[Binding[Site], Float[Tensor, " d"]]
    ordinary: dict[Site, Ordinary] = field(default_factory=dict[Site, Ordinary])


def lookup_keys(windows: Windows, kind: Kind) -> Int[np.ndarray, "window position"]:
    """Each position's key: its token, or (previous token + 1) · 2³¹ + token, 0 for no previous in the window.

    The previous token may be special: what follows BOS is a bigram too.
    """
    tokens = windows.tokens.astype(np.int64)
    if kind == "token":
        return tokens
    before = np.concatenate([np.full((len(tokens), 1), -1), tokens[:, :-1]], axis=1)
    return (before + 1) * 2**31 + tokens


@shielded
def learn_lookup(
    network: Reader,
    train: Windows,
    heldout: Windows,
    bindings: Sequence[BindingLike],
    *,
    ordinary: Mapping[Site, Ordinary] | None = None,
    config: LookupConfig | None = None,
    reporter: Reporter | None = None,
) -> Lookup:
    """Mean vectors of tokens and bigrams over the training windows, in one network pass for all bindings.

    Only keys that the held-out windows will ask for are kept. A token never seen in training falls back on the
    mean, a bigram never seen on its token. Vectors that are not ordinary are in no mean: one of them would make its
    token's row useless for all others.

    Args:
        network: read at every site.
        train: windows the tables are learned on.
        heldout: windows they will be scored on (only which tokens occur there is used).
        bindings: dictionaries whose writes are predicted from the token alone.
        ordinary: what selects the ordinary vectors of a site; elsewhere all are ordinary.
        config: bounds.
        reporter: receives how many tokens are done.

    Raises:
        InputError: no counted token in either.
    """
    config, bindings = config or LookupConfig(), [located(binding, network) for binding in bindings]
    counted_documents(heldout)
    if not train.n_tokens:
        raise InputError("there is no training token to learn the look-up tables from", where="training windows")
    all_keys: dict[Kind, np.ndarray] = {kind: lookup_keys(train, kind) for kind in KINDS}
    keys: dict[Kind, np.ndarray] = {
        "token": np.unique(lookup_keys(heldout, "token")[~heldout.special]),
        "bigram": _shared_bigrams(train, heldout, config.max_bigrams),
    }
    # Bigram tables are the large ones: sums in float32, whose error stays far below that of a mean of so few vectors.
    dtypes: dict[Kind, torch.dtype] = {"token": torch.float64, "bigram": torch.float32}
    widths = {binding: sum(map(network.width, binding.writes)) for binding in bindings}
    every: list[tuple[Binding[Site], Kind]] = [(binding, kind) for binding in widths for kind in KINDS]
    counts: dict[tuple[Binding[Site], Kind], np.ndarray] = {
        (b, kind): np.zeros(len(keys[kind]), dtype=np.int64) for b, kind in every
    }
    sums = {(b, kind): torch.zeros(len(keys[kind]), widths[b], dtype=dtypes[kind]) for b, kind in every}
    totals = {binding: torch.zeros(width, dtype=torch.float64) for binding, width in widths.items()}
    n = dict.fromkeys(totals, 0)
    progress = (reporter or Silent()).task("token and bigram look-up", train.n_tokens, "tokens")
    done = 0
    sites = [site for binding in bindings for site in binding.places]
    at_once = min(config.batch_windows, fitting_windows(network, train, sites))
    for reading in read_windows(network, train, sites, batch_windows=at_once):
        found: dict[Kind, tuple[np.ndarray, np.ndarray]] = {
            kind: _find(keys[kind], all_keys[kind][reading.window, reading.position]) for kind in KINDS
        }
        for binding in totals:
            vectors = reading.at(binding.writes).cpu()
            kept = _kept(ordinary or {}, binding, reading)
            totals[binding] += wide(vectors if kept.all() else vectors[torch.from_numpy(kept)]).sum(0)
            n[binding] += int(kept.sum())
            for kind, (at, known) in found.items():
                table, taken = sums[binding, kind], known & kept
                rows = torch.from_numpy(np.flatnonzero(taken))
                table.index_add_(0, torch.from_numpy(at[taken]), vectors[rows].to(table.dtype))
                counts[binding, kind] += np.bincount(at[taken], minlength=len(keys[kind]))
        done += len(reading)
        progress.update(done)
    means = {binding: (total / max(1, n[binding])).float() for binding, total in totals.items()}
    token_of = torch.from_numpy(_find(keys["token"], keys["bigram"] % 2**31)[0])
    tables: dict[tuple[Binding[Site], Kind], Tensor] = {}
    for binding, kind in every:
        fallback = means[binding][None] if kind == "token" else tables[binding, "token"][token_of]
        tables[binding, kind] = _mean(sums[binding, kind], counts[binding, kind], fallback)
    return Lookup(keys, counts, tables, means, dict(ordinary or {}))


def _kept(ordinary: Mapping[Site, Ordinary], binding: Binding[Site], reading: Reading) -> np.ndarray:
    """Which tokens are ordinary at all sites of a binding."""
    kept = reading.ordinary(binding.places, ordinary)
    return np.ones(len(reading), dtype=bool) if kept is None else kept.cpu().numpy()


def _shared_bigrams(train: Windows, heldout: Windows, limit: int) -> np.ndarray:
    """Bigrams of both, the `limit` most frequent held-out ones, ascending."""
    asked, n = np.unique(lookup_keys(heldout, "bigram")[~heldout.special], return_counts=True)
    both = np.isin(asked, lookup_keys(train, "bigram")[~train.special])
    asked, n = asked[both], n[both]
    return np.sort(asked[np.argsort(-n, kind="stable")[:limit]])


def _find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each wanted key (0 where it is not there) and whether it is there."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    at = np.searchsorted(keys, wanted)
    at[at == len(keys)] = 0
    return at, keys[at] == wanted


def _mean(sums: Tensor, counts: np.ndarray, fallback: Tensor) -> Tensor:
    n = torch.from_numpy(counts)[:, None]
    return torch.where(n > 0, (sums / n.clamp_min(1)).float(), fallback)


@dataclass
class LookupSums:
    """Scores look-up tables on held-out windows; a visitor of `sweep`.

    Attributes:
        lookup: the tables.
        windows: the held-out windows they were learned for.
    """

    lookup: Lookup
    windows: Windows

    def __post_init__(self) -> None:
        self._documents = counted_documents(self.windows)
        self._keys: dict[Kind, np.ndarray] = {kind: lookup_keys(self.windows, kind) for kind in KINDS}
        self._covered = dict.fromkeys(self.lookup.tables, 0)
        shapes = {key: (len(self._documents), 3 + table.shape[1]) for key, table in self.lookup.tables.items()}
        apart = [key for key in shapes if not self.lookup.ordinary.keys().isdisjoint(key[0].places)]
        self._sums = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in shapes.items()}
        self._ordinary = {key: torch.zeros(shapes[key], dtype=torch.float64) for key in apart}

    def see(self, reading: Reading, latents: Mapping[str, Latents]) -> None:  # noqa: ARG002  the visitor's signature
        """Add one batch."""
        rows = torch.from_numpy(np.searchsorted(self._documents, reading.document))
        lookup, place = self.lookup, (reading.window, reading.position)
        found: dict[Kind, tuple[np.ndarray, np.ndarray]] = {
            kind: _find(lookup.keys[kind], keys[place]) for kind, keys in self._keys.items()
        }
        for binding, mean in lookup.means.items():
            vectors = reading.at(binding.writes).cpu().double()
            shifted = vectors - wide(mean)
            square = shifted.square().sum(1, keepdim=True)
            kept = torch.from_numpy(_kept(lookup.ordinary, binding, reading))
            estimate = mean.expand_as(vectors)
            for kind, (at, known) in found.items():  # a bigram without a row is estimated by its token
                self._covered[binding, kind] += int((lookup.counts[binding, kind][at[known]] > 0).sum())
                if known.any():
                    of_key = lookup.tables[binding, kind][torch.from_numpy(at)]
                    estimate = torch.where(torch.from_numpy(known)[:, None], of_key, estimate)
                error = (vectors - wide(estimate)).square().sum(1, keepdim=True)
                statistics = torch.cat([torch.ones_like(error), error, square, shifted], dim=1)
                self._sums[binding, kind].index_add_(0, rows, statistics)
                if (binding, kind) in self._ordinary:
                    self._ordinary[binding, kind].index_add_(0, rows[kept], statistics[kept])

    def finish(self, *, scope: Mapping[str, str | int] | None = None) -> list[DocumentSums]:
        """`fvu_token` and `fvu_bigram` of every binding, with the share of held-out tokens whose key training held.

        Where a site's ordinary vectors are selected, `fvu_token_ordinary` and `fvu_bigram_ordinary` are of these alone.

        Args:
            scope: added to every record's scope.
        """
        found: list[DocumentSums] = []
        for (binding, kind), sums in ((key, table.numpy()) for key, table in self._sums.items()):
            n = int(sums[:, 0].sum())
            base = DocumentSums(
                METRICS[f"fvu_{kind}"],
                ("n", "error", "square", "mean"),
                sums,
                self._documents,
                n=n,
                scope={"site": str(binding), "baseline": kind, **(scope or {})},
                details={
                    "coverage": self._covered[binding, kind] / max(1, n),
                    "keys": int((self.lookup.counts[binding, kind] > 0).sum()),
                },
            )
            found.append(base)
            if (binding, kind) in self._ordinary:
                ordinary = self._ordinary[binding, kind].numpy()
                kept = int(ordinary[:, 0].sum())
                apart = {"sums": sums if kept == n else ordinary, "n": kept, "details": {"left_out": n - kept}}
                found.append(replace(base, metric=METRICS[f"fvu_{kind}_ordinary"], **apart))
        return found


@shielded
def evaluate_lookup(
    network: Reader,
    heldout: Windows,
    lookup: Lookup,
    *,
    batch_windows: int = 16,
    seed: int = 0,
    n_resamples: int = 1000,
    reporter: Reporter | None = None,
) -> list[MetricRecord]:
    """FVU of the look-up tables on held-out windows, in a pass of its own; hand a `LookupSums` to `sweep` to share one.

    Args:
        network: read at the tables' sites.
        heldout: the windows that `learn_lookup` was given.
        lookup: the tables.
        batch_windows: windows a forward pass, at most.
        seed: seed of the bootstrap over documents.
        n_resamples: bootstrap replicates.
        reporter: receives how many tokens are done.
    """
    sums = LookupSums(lookup, heldout)
    sites = [site for binding in lookup.means for site in binding.places]
    sweep(network, heldout, {}, [sums.see], sites=sites, batch_windows=batch_windows, reporter=reporter)
    return [entry.record(seed=seed, n_resamples=n_resamples) for entry in sums.finish()]
