"""What the network loses when reconstructions stand in the place of its own vectors: site by site, and all at once.

CE recovered = (CE_ablated − CE_patched) / (CE_ablated − CE_clean), for the zero and the mean ablation, always beside
the four CEs it is made of; not measured where the ablation costs nothing or the network predicts no better than a
uniform guess. Joint: every site of a set patched in the same forward pass. Interaction = ΔCE(joint) −
Σ ΔCE(single): above 0, errors made at one site are made worse by the next. What a dictionary reads is what the patched
pass itself gives it, or, for a crosscoder that writes the sites it reads, what the clean pass holds (`patching`); what
it writes is patched and ablated. A token is ordinary where it is at all sites of a binding.

Only counted tokens are edited: BOS, separators and padding keep the network's own vectors, and so do the vectors that
training left out, as the clean pass identifies them. CE and KL are taken where the next token exists and counts, and
belong to the next token's document.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.core.binding import Binding, located_keys
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.evaluation.metrics import METRICS, of_pass
from polyseme.evaluation.patching import Ordered, clean_reads, patch_edits, put
from polyseme.evaluation.reconstruction import Reconstructor, check_width, counted_documents
from polyseme.evaluation.sums import DocumentSums
from polyseme.kernels.shield import shielded
from polyseme.networks import Edit, Prefix
from polyseme.networks.edits import Change

Bindings = tuple[Binding[Site], ...]
LOGITS_BYTES = 128 * 2**20
"""Bound on one batch's logits; windows with a large vocabulary are run in smaller batches."""
EDITED = "counted tokens; special tokens keep the network's own vectors"
EDITED_IN_PART = f"{EDITED}, and so do those that training left out"
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


@shielded
def splice(
    network: Runner,
    windows: Windows,
    sets: Mapping[str, Mapping[Any, Reconstructor]],
    means: Mapping[Site, Tensor],
    *,
    trained_on: Mapping[Site, Ordinary] | None = None,
    ordinary: Mapping[Site, Ordinary] | None = None,
    batch_windows: int = 8,
    seed: int = 0,
    n_resamples: int = 1000,
    scope: Mapping[str, str | int] | None = None,
    reporter: Reporter | None = None,
) -> dict[str, list[MetricRecord]]:
    """The records of `splice_sums`, set by set; arguments and errors are its own."""
    sums = splice_sums(
        network,
        windows,
        sets,
        means,
        trained_on=trained_on,
        ordinary=ordinary,
        batch_windows=batch_windows,
        scope=scope,
        reporter=reporter,
    )
    return {
        name: [entry.record(seed=seed, n_resamples=n_resamples) for entry in entries] for name, entries in sums.items()
    }


@shielded
def splice_sums(
    network: Runner,
    windows: Windows,
    sets: Mapping[str, Mapping[Any, Reconstructor]],
    means: Mapping[Site, Tensor],
    *,
    trained_on: Mapping[Site, Ordinary] | None = None,
    ordinary: Mapping[Site, Ordinary] | None = None,
    batch_windows: int = 8,
    scope: Mapping[str, str | int] | None = None,
    reporter: Reporter | None = None,
) -> dict[str, list[DocumentSums]]:
    """Patch every set of dictionaries into the network, one at a time and all together.

    Each set gives, for every binding (scope `site`) and for `joint`, the metrics of `METRICS` that this pass measures
    (scope `ablation`: zero, mean), and `ce_interaction` once. The clean pass and the ablated ones are run once for all
    sets. Metrics of patching other vectors are given where some are not ordinary, and where training left some out.

    Args:
        network: run with edits.
        windows: held-out tokens.
        sets: name of a set (a seed) to its dictionaries by binding: what each makes of what it reads takes the place of
            what it writes.
        means: the mean vector of each site that is written, measured on training tokens.
        trained_on: what selects the vectors of a site that the dictionaries' training left in; elsewhere all were.
        ordinary: what selects a site's ordinary vectors.
        batch_windows: windows a forward pass, at most.
        scope: added to every record's scope.
        reporter: receives how many windows are done.

    Returns:
        Each set's metrics. NaN throughout, with a note, for a network that does not predict the next token.

    Raises:
        InputError: no held-out token, a width that is not that of the sites, a site that is written twice, has no mean,
            or is read, and not written, after one that depends on it.
    """
    sets = {name: located_keys(chosen, network) for name, chosen in sets.items()}
    _check(network, sets, means)
    tally = _Tally(windows)
    if network.predicts_tokens:
        kinds = {"edited": trained_on or {}, "ordinary": ordinary or {}}
        _run(network, windows, sets, means, kinds, tally, batch_windows, reporter or Silent())
        in_part = any(not of_site.keeps_all for of_site in (trained_on or {}).values())
        details: dict[str, Any] = {"edited": EDITED_IN_PART if in_part else EDITED}
    else:
        details = {"note": "not measured: the network has no next-token prediction"}
    return {
        name: [
            replace(entry, scope={**entry.scope, **(scope or {})}, details={**entry.details, **details})
            for entry in _metrics(name, tuple(chosen), tally)
        ]
        for name, chosen in sets.items()
    }


def _check(
    network: Runner, sets: Mapping[str, Mapping[Binding[Site], Reconstructor]], means: Mapping[Site, Tensor]
) -> None:
    for name, chosen in sets.items():
        written: dict[Site, Binding[Site]] = {}
        for binding, dictionary in chosen.items():
            check_width(network, name, binding, dictionary)
            clean_reads(network, [binding])
            for site in binding.writes:
                if site in written:
                    raise InputError(
                        f"{written[site]} and {binding} both write {site}, where one of them can be spliced in",
                        where=f"dictionaries of {name}",
                        fix="splice them in one after the other",
                    )
                written[site] = binding
                if site not in means:
                    raise InputError(
                        "the site has no mean for its mean ablation", where=str(site), fix="give it in means"
                    )
                if means[site].shape != (network.width(site),):
                    raise InputError(
                        f"the mean has shape {tuple(means[site].shape)}, but the site's vectors have width "
                        f"{network.width(site)}",
                        where=str(site),
                        fix="measure the mean at this site of this network",
                    )


@dataclass
class _Tally:
    """Sums over the documents' targets by what was done to the network."""

    windows: Windows
    sums: dict[tuple[Hashable, ...], np.ndarray] = field(default_factory=dict[tuple[Hashable, ...], np.ndarray])
    vocabulary: int = 0
    apart: dict[tuple[str, Bindings], int] = field(default_factory=dict[tuple[str, Bindings], int])
    """By kind and the bindings patched together, how many vectors the kind edits differently; no entry for none."""

    def __post_init__(self) -> None:
        self.documents = counted_documents(self.windows)

    def add(self, key: tuple[Hashable, ...], document: np.ndarray, values: np.ndarray) -> None:
        rows = np.searchsorted(self.documents, document)
        self.sums[key] = self.of(key) + np.bincount(rows, values, len(self.documents))

    def of(self, key: tuple[Hashable, ...]) -> np.ndarray:
        """Sums under a key; zeros for what was not run."""
        return self.sums.get(key, np.zeros(len(self.documents)))


def _key(*parts: str, sites: Bindings) -> tuple[Hashable, ...]:
    return (*parts, *sites)


@dataclass(frozen=True)
class _Chunk:
    """A few windows and what is predicted in them."""

    inputs: Tensor
    counted: Bool[Tensor, "window position"]
    at: Bool[Tensor, "window position"]
    target: Tensor
    document: np.ndarray


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


def _chunk(windows: Windows, rows: slice) -> _Chunk:
    tokens = torch.from_numpy(windows.tokens[rows].astype(np.int64))
    counted = ~windows.special[rows]
    at = np.zeros_like(counted)
    at[:, :-1] = counted[:, 1:]  # a position is read where its next token counts
    document = windows.document[rows][:, 1:][at[:, :-1]]
    target = tokens[:, 1:][torch.from_numpy(at[:, :-1])]
    return _Chunk(tokens, torch.from_numpy(counted), torch.from_numpy(at), target, document)


def _run(
    network: Runner,
    windows: Windows,
    sets: Mapping[str, Mapping[Binding[Site], Reconstructor]],
    means: Mapping[Site, Tensor],
    kinds: Mapping[str, Mapping[Site, Ordinary]],
    tally: _Tally,
    batch_windows: int,
    reporter: Reporter,
) -> None:
    progress = reporter.task("patched passes", len(windows), "windows")
    start, step = 0, 1  # the first batch is one window: it shows how large the vocabulary is
    with torch.inference_mode():
        while start < len(windows):
            chunk = _chunk(windows, slice(start, start + step))
            if chunk.at.any():
                tally.vocabulary = _measure(network, chunk, sets, means, kinds, tally)
                step = max(1, min(batch_windows, LOGITS_BYTES // (4 * tally.vocabulary * windows.tokens.shape[1])))
            start += len(chunk.inputs)
            progress.update(start)


def _measure(
    network: Runner,
    chunk: _Chunk,
    sets: Mapping[str, Mapping[Binding[Site], Reconstructor]],
    means: Mapping[Site, Tensor],
    kinds: Mapping[str, Mapping[Site, Ordinary]],
    tally: _Tally,
) -> int:
    """Every pass over one chunk, what they have in common once; returns the size of the vocabulary."""
    touched = dict.fromkeys(site for chosen in sets.values() for binding in chosen for site in binding.places)
    prefix = network.prefix(chunk.inputs, list(touched))

    def log_probabilities(edits: Mapping[Site, Edit]) -> Float[Tensor, "target vocab"]:
        logits = network.run(chunk.inputs, edits=edits, logits_at=chunk.at, prefix=prefix).logits
        return logits.float().log_softmax(-1)

    def add(key: tuple[Hashable, ...], values: Tensor) -> None:
        tally.add(key, chunk.document, values.cpu().double().numpy())

    def ce(log_q: Tensor) -> Tensor:
        return -log_q.gather(1, chunk.target.to(log_q.device)[:, None])[:, 0]

    crossed = clean_reads(network, [binding for chosen in sets.values() for binding in chosen])
    places = _Places(chunk, kinds, frozenset(crossed))
    looks = {site: places.look(site) for site in touched if places.looks_at(site)}
    clean = log_probabilities(looks)
    p = clean.exp()
    add(("n",), torch.ones(len(chunk.target), dtype=torch.float32))
    add(("clean",), ce(clean))
    for sites in dict.fromkeys(sites for chosen in sets.values() for sites in _combinations(tuple(chosen))):
        for kind in ("zero", "mean"):
            written = [(site, binding) for binding in sites for site in binding.writes]
            edits = {
                site: put(
                    torch.zeros_like(means[site]) if kind == "zero" else means[site], places.of("edited", binding)
                )
                for site, binding in written
            }
            add(_key(kind, sites=sites), ce(log_probabilities(edits)))
    for name, chosen in sets.items():
        for sites in _combinations(tuple(chosen)):
            some = {binding: chosen[binding] for binding in sites}
            edited = {binding: places.of("edited", binding) for binding in sites}
            log_q = log_probabilities(patch_edits(network, some, edited, clean=places.kept))
            add(_key("patched", name, sites=sites), ce(log_q))
            add(_key("kl", name, sites=sites), (p * (clean - log_q)).sum(-1))
            for kind in APART:
                others = {binding: places.of(kind, binding) for binding in sites}
                n, apart = sum(int((others[binding] ^ edited[binding]).sum()) for binding in sites), log_q
                if n:
                    tally.apart[kind, sites] = tally.apart.get((kind, sites), 0) + n
                    apart = log_probabilities(patch_edits(network, some, others, clean=places.kept))
                add(_key(kind, name, sites=sites), ce(apart))
    return clean.shape[-1]


def _combinations(sites: Bindings) -> list[Bindings]:
    """Each binding by itself, then all of them; one pass where that is the same."""
    return list(dict.fromkeys([*((site,) for site in sites), sites]))


_COLUMNS = ("n", "ce_clean", "ce_patched", "ce_zero", "ce_mean", "kl")
_ABLATED = "ce_ablated"
"""Stands in a metric for the column of each ablation in turn."""


def _metrics(name: str, sites: Bindings, tally: _Tally) -> Iterator[DocumentSums]:
    uniform = {"uniform": math.log(tally.vocabulary)} if tally.vocabulary else {}
    for chosen, where in [*(((site,), str(site)) for site in sites), (sites, "joint")]:
        parts = [("n",), ("clean",), _key("patched", name, sites=chosen)]
        parts += [_key("zero", sites=chosen), _key("mean", sites=chosen), _key("kl", name, sites=chosen)]
        apart = {kind: tally.apart[kind, chosen] for kind in APART if (kind, chosen) in tally.apart}
        parts += [_key(kind, name, sites=chosen) for kind in apart]
        columns = (*_COLUMNS, *(f"ce_patched_{kind}" for kind in apart))
        sums = np.stack([tally.of(part) for part in parts], axis=1)
        scope: dict[str, str | int] = {"set": name, "site": where, "n_sites": len(chosen)}
        for metric in of_pass("splice"):
            differently = apart.get(metric.vectors)
            if metric.numerator == {} or (metric.vectors != "counted" and differently is None):
                continue
            details = {} if differently is None else {"patched_differently": differently}
            base = DocumentSums(metric, columns, sums, tally.documents, int(sums[:, 0].sum()), scope, details=details)
            if _ABLATED not in metric.weights["numerator"]:
                yield replace(base, parameters={**uniform, **metric.weights})
                continue
            for ablation in ("zero", "mean"):
                weights = {
                    of: {f"ce_{ablation}" if column == _ABLATED else column: weight for column, weight in w.items()}
                    for of, w in metric.weights.items()
                }
                yield replace(base, scope={**scope, "ablation": ablation}, parameters={**uniform, **weights})
    yield _interaction(name, sites, tally)


def _interaction(name: str, sites: Bindings, tally: _Tally) -> DocumentSums:
    """CE(joint) − Σ CE(single) + (sites − 1) CE(clean): the ΔCEs written out."""
    singles = [f"ce_patched {site}" for site in sites]
    sums = [tally.of(("n",)), tally.of(("clean",)), tally.of(_key("patched", name, sites=sites))]
    sums += [tally.of(_key("patched", name, sites=(site,))) for site in sites]
    weights = {"ce_joint": 1.0, "ce_clean": len(sites) - 1.0} | dict.fromkeys(singles, -1.0)
    return DocumentSums(
        METRICS["ce_interaction"],
        ("n", "ce_clean", "ce_joint", *singles),
        np.stack(sums, axis=1),
        tally.documents,
        n=int(sums[0].sum()),
        scope={"set": name, "site": "joint", "n_sites": len(sites)},
        parameters={"numerator": weights, "denominator": {"n": 1.0}},
    )
