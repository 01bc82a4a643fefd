"""What the network loses when reconstructions stand in the place of its own vectors: site by site, and all at once.

CE recovered = (CE_ablated − CE_patched) / (CE_ablated − CE_clean), for the zero and the mean ablation, always beside
the four CEs it is made of; not measured where the ablation costs nothing or the network predicts no better than a
uniform guess. Joint: every site of a set patched in the same forward pass. Interaction = ΔCE(joint) −
Σ ΔCE(single): above 0, errors made at one site are made worse by the next.

Only counted tokens are edited: BOS, separators and padding keep the network's own vectors. CE and KL are taken where
the next token exists and counts, and belong to the next token's document.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.activations.reading import Reader
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.evaluation.reconstruction import Reconstructor, check_width, counted_documents
from polyseme.evaluation.sums import DocumentSums
from polyseme.networks import Prefix

Edit = Callable[[Tensor], Tensor]
Sites = tuple[Site, ...]
LOGITS_BYTES = 128 * 2**20
"""Bound on one batch's logits; windows with a large vocabulary are run in smaller batches."""
EDITED = "counted tokens; special tokens keep the network's own vectors"


@runtime_checkable
class Result(Protocol):
    """What running a network returns."""

    @property
    def logits(self) -> Tensor: ...


@runtime_checkable
class Runner(Reader, Protocol):
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


def splice(
    network: Runner,
    windows: Windows,
    sets: Mapping[str, Mapping[Site, Reconstructor]],
    means: Mapping[Site, Tensor],
    *,
    batch_windows: int = 8,
    seed: int = 0,
    n_resamples: int = 1000,
    scope: Mapping[str, str | int] | None = None,
    reporter: Reporter | None = None,
) -> dict[str, list[MetricRecord]]:
    """The records of `splice_sums`, set by set; arguments and errors are its own."""
    sums = splice_sums(network, windows, sets, means, batch_windows=batch_windows, scope=scope, reporter=reporter)
    return {
        name: [entry.record(seed=seed, n_resamples=n_resamples) for entry in entries] for name, entries in sums.items()
    }


def splice_sums(
    network: Runner,
    windows: Windows,
    sets: Mapping[str, Mapping[Site, Reconstructor]],
    means: Mapping[Site, Tensor],
    *,
    batch_windows: int = 8,
    scope: Mapping[str, str | int] | None = None,
    reporter: Reporter | None = None,
) -> dict[str, list[DocumentSums]]:
    """Patch every set of dictionaries into the network, one site at a time and all together.

    Each set gives, for every site and for `joint`: `ce_clean`, `ce_patched`, `ce_zero`, `ce_mean`, `ce_increase` =
    CE_patched − CE_clean, `ce_recovered` (scope `ablation`: zero, mean), `kl` = KL(clean ‖ patched), and once
    `ce_interaction`. The clean pass and the ablated ones are run once for all sets.

    Args:
        network: run with edits.
        windows: held-out tokens.
        sets: name of a set (a seed) to its dictionaries by site.
        means: each site's mean vector, measured on training tokens.
        batch_windows: windows a forward pass, at most.
        scope: added to every record's scope.
        reporter: told how many windows are done.

    Returns:
        Each set's metrics. NaN throughout, with a note, for a network that does not predict the next token.

    Raises:
        InputError: no held-out token, a width that is not the site's, or a site without a mean.
    """
    _check(network, sets, means)
    tally = _Tally(windows)
    if network.predicts_tokens:
        _run(network, windows, sets, means, tally, batch_windows, reporter or Silent())
        details: dict[str, Any] = {"edited": EDITED}
    else:
        details = {"note": "not measured: the network has no next-token prediction"}
    return {
        name: [
            replace(entry, scope={**entry.scope, **(scope or {})}, details={**entry.details, **details})
            for entry in _metrics(name, tuple(chosen), tally)
        ]
        for name, chosen in sets.items()
    }


def _check(network: Runner, sets: Mapping[str, Mapping[Site, Reconstructor]], means: Mapping[Site, Tensor]) -> None:
    for name, chosen in sets.items():
        for site, dictionary in chosen.items():
            check_width(network, name, site, dictionary)
            if site not in means:
                raise InputError("the site has no mean for its mean ablation", where=str(site), fix="give it in means")
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
    sums: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict[tuple[str, ...], np.ndarray])
    vocabulary: int = 0

    def __post_init__(self) -> None:
        self.documents = counted_documents(self.windows)

    def add(self, key: tuple[str, ...], document: np.ndarray, values: np.ndarray) -> None:
        rows = np.searchsorted(self.documents, document)
        self.sums[key] = self.of(key) + np.bincount(rows, values, len(self.documents))

    def of(self, key: tuple[str, ...]) -> np.ndarray:
        """Sums under a key; zeros for what was not run."""
        return self.sums.get(key, np.zeros(len(self.documents)))


def _key(*parts: str, sites: Sequence[Site]) -> tuple[str, ...]:
    return (*parts, *map(str, sites))


@dataclass(frozen=True)
class _Chunk:
    """A few windows and what is predicted in them."""

    inputs: Tensor
    counted: Bool[Tensor, "window position"]
    at: Bool[Tensor, "window position"]
    target: Tensor
    document: np.ndarray


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
    sets: Mapping[str, Mapping[Site, Reconstructor]],
    means: Mapping[Site, Tensor],
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
                tally.vocabulary = _measure(network, chunk, sets, means, tally)
                step = max(1, min(batch_windows, LOGITS_BYTES // (4 * tally.vocabulary * windows.tokens.shape[1])))
            start += len(chunk.inputs)
            progress.update(start)


def _measure(
    network: Runner,
    chunk: _Chunk,
    sets: Mapping[str, Mapping[Site, Reconstructor]],
    means: Mapping[Site, Tensor],
    tally: _Tally,
) -> int:
    """Every pass over one chunk, what they have in common once; returns the size of the vocabulary."""
    prefix = network.prefix(chunk.inputs, list(dict.fromkeys(site for chosen in sets.values() for site in chosen)))

    def log_probabilities(edits: Mapping[Site, Edit]) -> Float[Tensor, "target vocab"]:
        logits = network.run(chunk.inputs, edits=edits, logits_at=chunk.at, prefix=prefix).logits
        return logits.float().log_softmax(-1)

    def add(key: tuple[str, ...], values: Tensor) -> None:
        tally.add(key, chunk.document, values.double().cpu().numpy())

    def ce(log_q: Tensor) -> Tensor:
        return -log_q.gather(1, chunk.target.to(log_q.device)[:, None])[:, 0]

    clean = log_probabilities({})
    p = clean.exp()
    add(("n",), torch.ones(len(chunk.target)))
    add(("clean",), ce(clean))
    for sites in dict.fromkeys(sites for chosen in sets.values() for sites in _combinations(tuple(chosen))):
        for kind in ("zero", "mean"):
            values = {site: torch.zeros_like(means[site]) if kind == "zero" else means[site] for site in sites}
            edits = {site: _put(value, chunk.counted) for site, value in values.items()}
            add(_key(kind, sites=sites), ce(log_probabilities(edits)))
    for name, chosen in sets.items():
        for sites in _combinations(tuple(chosen)):
            log_q = log_probabilities({site: _patch(chosen[site], chunk.counted) for site in sites})
            add(_key("patched", name, sites=sites), ce(log_q))
            add(_key("kl", name, sites=sites), (p * (clean - log_q)).sum(-1))
    return clean.shape[-1]


def _combinations(sites: Sites) -> list[Sites]:
    """Each site by itself, then all of them; one pass where that is the same."""
    return list(dict.fromkeys([*((site,) for site in sites), sites]))


def patch_edits(
    dictionaries: Mapping[Site, Reconstructor], counted: Bool[Tensor, "window position"]
) -> dict[Site, Edit]:
    """Edits that put each dictionary's reconstruction in its site's place, at the counted positions."""
    return {site: _patch(dictionary, counted) for site, dictionary in dictionaries.items()}


def _patch(dictionary: Reconstructor, counted: Bool[Tensor, "window position"]) -> Edit:
    def edit(x: Tensor) -> Tensor:
        at, out = counted.to(x.device), x.clone()
        out[at] = dictionary.decode(dictionary.encode(x[at].float())).to(x.dtype)
        return out

    return edit


def _put(value: Tensor, counted: Bool[Tensor, "window position"]) -> Edit:
    def edit(x: Tensor) -> Tensor:
        return torch.where(counted.to(x.device)[..., None], value.to(x), x)

    return edit


_COLUMNS = ("n", "ce_clean", "ce_patched", "ce_zero", "ce_mean", "kl")


def _metrics(name: str, sites: Sites, tally: _Tally) -> Iterator[DocumentSums]:
    for chosen, where in [*(((site,), str(site)) for site in sites), (sites, "joint")]:
        parts = [("n",), ("clean",), _key("patched", name, sites=chosen)]
        parts += [_key("zero", sites=chosen), _key("mean", sites=chosen), _key("kl", name, sites=chosen)]
        sums = np.stack([tally.of(part) for part in parts], axis=1)
        base = DocumentSums(
            "ce_clean",
            "ratio",
            _COLUMNS,
            sums,
            tally.documents,
            n=int(sums[:, 0].sum()),
            unit="nats/token",
            better="lower",
            scope={"set": name, "site": where, "n_sites": len(chosen)},
            parameters={"uniform": math.log(tally.vocabulary)} if tally.vocabulary else {},
        )
        for column in ("ce_clean", "ce_patched", "ce_zero", "ce_mean", "kl"):
            better = "neither" if column in ("ce_zero", "ce_mean") else "lower"
            yield replace(base, name=column, better=better, parameters={**base.parameters, **_mean({column: 1.0})})
        increase = _mean({"ce_patched": 1.0, "ce_clean": -1.0})
        yield replace(base, name="ce_increase", parameters={**base.parameters, **increase})
        for ablation in ("zero", "mean"):
            yield replace(
                base,
                name="ce_recovered",
                finish="recovered",
                unit="",
                better="higher",
                scope={**base.scope, "ablation": ablation},
                parameters={
                    **base.parameters,
                    "numerator": {f"ce_{ablation}": 1.0, "ce_patched": -1.0},
                    "denominator": {f"ce_{ablation}": 1.0, "ce_clean": -1.0},
                },
                version=2,
            )
    yield _interaction(name, sites, tally)


def _interaction(name: str, sites: Sites, tally: _Tally) -> DocumentSums:
    """CE(joint) − Σ CE(single) + (sites − 1) CE(clean): the ΔCEs written out."""
    singles = [f"ce_patched {site}" for site in sites]
    sums = [tally.of(("n",)), tally.of(("clean",)), tally.of(_key("patched", name, sites=sites))]
    sums += [tally.of(_key("patched", name, sites=(site,))) for site in sites]
    weights = {"ce_joint": 1.0, "ce_clean": len(sites) - 1.0} | dict.fromkeys(singles, -1.0)
    return DocumentSums(
        "ce_interaction",
        "ratio",
        ("n", "ce_clean", "ce_joint", *singles),
        np.stack(sums, axis=1),
        tally.documents,
        n=int(sums[0].sum()),
        unit="nats/token",
        better="lower",
        scope={"set": name, "site": "joint", "n_sites": len(sites)},
        parameters=_mean(weights),
    )


def _mean(weights: dict[str, float]) -> dict[str, Any]:
    """Parameters of a mean over tokens."""
    return {"numerator": weights, "denominator": {"n": 1.0}}
