"""The passes that a splice is measured by: clean, ablated and patched, with their losses summed over documents."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.core.binding import Binding
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import Reconstructor
from polyseme.evaluation.patching import Ordered, clean_reads, patch_edits, put
from polyseme.evaluation.sweep import counted_documents
from polyseme.networks import Edit, Prefix
from polyseme.networks.edits import Change

Bindings = tuple[Binding[Site], ...]
LOGITS_BYTES = 128 * 2**20
"""Bound on one batch's logits; windows with a large vocabulary are run in smaller batches."""
APART = ("ordinary", "all")
"""Other choices of the vectors that are patched: the ordinary ones, and all that are counted."""


@runtime_checkable
class Result(Protocol):
    """What running a network returns."""

    @property
    def logits(self) -> Tensor: ...


@runtime_checkable
class Runner(Ordered, Protocol):
    """What splicing needs of a network; `polyseme.networks.Network` is one."""

    @property
    def predicts_tokens(self) -> bool:
        """True when the logits at a position are of the next token, which the network does not see there."""
        ...

    def prefix(self, inputs: Any, sites: Sequence[Site]) -> Prefix | None:
        """What passes over these inputs that edit these sites have in common."""
        ...

    def run(
        self,
        inputs: Any,
        *,
        edits: Mapping[Site, Edit] = ...,
        logits_at: Tensor | None = ...,
        prefix: Prefix | None = ...,
    ) -> Result:
        """One forward pass with edits; logits `[selected, vocab]` where the mask `[batch, position]` is True."""
        ...


@dataclass
class Losses:
    """Sums over the targets of each document, by what was done to the network.

    Attributes:
        documents: index of each row's document.
        vocabulary: number of logits of a prediction; 0 where no pass was made.
        apart: by kind (`APART`) and the bindings patched together, how many vectors the kind edits differently; no
            entry for none.
    """

    documents: np.ndarray
    vocabulary: int = 0
    apart: dict[tuple[str, Bindings], int] = field(default_factory=dict[tuple[str, Bindings], int])
    _sums: dict[tuple[Hashable, ...], np.ndarray] = field(default_factory=dict[tuple[Hashable, ...], np.ndarray])

    def add(self, document: np.ndarray, values: Tensor, *key: Hashable) -> None:
        """Add a value of each target to the row of its document."""
        rows, weights = np.searchsorted(self.documents, document), values.cpu().double().numpy()
        self._sums[key] = self.of(*key) + np.bincount(rows, weights, len(self.documents))

    def of(self, *key: Hashable) -> np.ndarray:
        """Sums under a key; zeros for what was not run.

        The keys are `n`, `clean`, (`zero` or `mean`, bindings), and (`patched`, `kl` or a kind of `APART`, the set's
        name, bindings).
        """
        return self._sums.get(key, np.zeros(len(self.documents)))


@dataclass(frozen=True)
class _Chunk:
    """A few windows and what is predicted in them."""

    inputs: Tensor
    counted: Bool[Tensor, "window position"]
    at: Bool[Tensor, "window position"]
    target: Tensor
    document: np.ndarray

    @classmethod
    def of(cls, windows: Windows, rows: slice) -> "_Chunk":
        tokens = torch.from_numpy(windows.tokens[rows].astype(np.int64))
        counted = ~windows.special[rows]
        at = np.zeros_like(counted)
        at[:, :-1] = counted[:, 1:]  # a position is read where its next token counts
        target = tokens[:, 1:][torch.from_numpy(at[:, :-1])]
        document = windows.document[rows][:, 1:][at[:, :-1]]
        return cls(tokens, torch.from_numpy(counted), torch.from_numpy(at), target, document)


@dataclass(frozen=True)
class _Places:
    """Which positions of a chunk are edited by each binding, once the clean pass has looked at its sites' vectors.

    Attributes:
        chunk: the windows.
        kinds: what selects the vectors that each kind of pass edits, at the sites where that is not all of them.
        keep: sites whose vectors are kept.
        found: what was selected.
        kept: what the clean pass held.
    """

    chunk: _Chunk
    kinds: Mapping[str, Mapping[Site, Ordinary]]
    keep: frozenset[Site]
    found: dict[tuple[str, Site], Tensor] = field(default_factory=dict[tuple[str, Site], Tensor])
    kept: dict[Site, Tensor] = field(default_factory=dict[Site, Tensor])

    def looks_at(self, site: Site) -> bool:
        """Whether anything is needed of the clean pass's vectors at a site."""
        return site in self.keep or any(site in sites for sites in self.kinds.values())

    def of(self, kind: str, binding: Binding[Site]) -> Bool[Tensor, "window position"]:
        """The positions that a kind of pass edits: those edited, the ordinary ones among them, or all counted."""
        at = self.of("edited", binding) if kind == "ordinary" else self.chunk.counted
        for site in binding.places:
            at = at & self.found.get((kind, site), at)
        return at

    def look(self, site: Site) -> Change:
        """An edit that changes nothing."""

        def edit(x: Tensor) -> Tensor:
            if site in self.keep:
                self.kept[site] = x.clone()
            counted = self.chunk.counted
            vectors = x[counted.to(x.device)].float()
            position = torch.arange(x.shape[1]).expand(x.shape[:2])[counted]
            for kind, sites in self.kinds.items():
                if site in sites:
                    mask = counted.clone()
                    mask[counted] = sites[site].mask(vectors, position).cpu()
                    self.found[kind, site] = mask
            return x

        return edit


@dataclass(frozen=True)
class Passes:
    """Every pass over a network that a splice is measured by.

    Attributes:
        network: run with edits.
        sets: as in `splice_sums`.
        means: as in `splice_sums`.
        kinds: by kind of pass, `edited` and `ordinary`, what selects the vectors that it edits at each site.
    """

    network: Runner
    sets: Mapping[str, Mapping[Binding[Site], Reconstructor]]
    means: Mapping[Site, Tensor]
    kinds: Mapping[str, Mapping[Site, Ordinary]]

    def losses(self, windows: Windows, batch_windows: int, reporter: Reporter) -> Losses:
        """The losses of all passes, made for a few windows at a time."""
        losses = Losses(counted_documents(windows))
        progress = reporter.task("patched passes", len(windows), "windows")
        start, step = 0, 1  # the first batch is one window: it shows how large the vocabulary is
        with torch.inference_mode():
            while start < len(windows):
                chunk = _Chunk.of(windows, slice(start, start + step))
                if chunk.at.any():
                    self._measure(chunk, losses)
                    fitting = LOGITS_BYTES // (4 * losses.vocabulary * windows.tokens.shape[1])
                    step = max(1, min(batch_windows, fitting))
                start += len(chunk.inputs)
                progress.update(start)
        return losses

    def _measure(self, chunk: _Chunk, losses: Losses) -> None:
        """Every pass over one chunk; what they have in common is run once."""
        network, bindings = self.network, [binding for chosen in self.sets.values() for binding in chosen]
        touched = dict.fromkeys(site for binding in bindings for site in binding.places)
        prefix = network.prefix(chunk.inputs, list(touched))

        def log_probabilities(edits: Mapping[Site, Edit]) -> Float[Tensor, "target vocab"]:
            logits = network.run(chunk.inputs, edits=edits, logits_at=chunk.at, prefix=prefix).logits
            return logits.float().log_softmax(-1)

        def add(values: Tensor, *key: Hashable) -> None:
            losses.add(chunk.document, values, *key)

        def ce(log_q: Tensor) -> Tensor:
            return -log_q.gather(1, chunk.target.to(log_q.device)[:, None])[:, 0]

        places = _Places(chunk, self.kinds, frozenset(clean_reads(network, bindings)))
        clean = log_probabilities({site: places.look(site) for site in touched if places.looks_at(site)})
        p, losses.vocabulary = clean.exp(), clean.shape[-1]
        zeros = {site: torch.zeros_like(mean) for site, mean in self.means.items()}
        add(torch.ones_like(chunk.target), "n")
        add(ce(clean), "clean")
        for together in dict.fromkeys(each for chosen in self.sets.values() for each in _combinations(chosen)):
            for kind, vectors in (("zero", zeros), ("mean", self.means)):
                edits = {
                    site: put(vectors[site], places.of("edited", binding))
                    for binding in together
                    for site in binding.writes
                }
                add(ce(log_probabilities(edits)), kind, together)
        for name, chosen in self.sets.items():
            for together in _combinations(chosen):
                some = {binding: chosen[binding] for binding in together}
                edited = {binding: places.of("edited", binding) for binding in together}
                log_q = log_probabilities(patch_edits(network, some, edited, clean=places.kept))
                add(ce(log_q), "patched", name, together)
                add((p * (clean - log_q)).sum(-1), "kl", name, together)
                for kind in APART:
                    others = {binding: places.of(kind, binding) for binding in together}
                    n, apart = sum(int((others[binding] ^ edited[binding]).sum()) for binding in together), log_q
                    if n:
                        losses.apart[kind, together] = losses.apart.get((kind, together), 0) + n
                        apart = log_probabilities(patch_edits(network, some, others, clean=places.kept))
                    add(ce(apart), kind, name, together)


def _combinations(bindings: Mapping[Binding[Site], Any]) -> list[Bindings]:
    """Each binding by itself, then all of them; one pass where that is the same."""
    return list(dict.fromkeys([*((binding,) for binding in bindings), tuple(bindings)]))
