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
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.core.binding import Binding, located_keys
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import Reconstructor
from polyseme.evaluation.metrics import METRICS, of_pass
from polyseme.evaluation.passes import APART, Bindings, Losses, Passes, Runner
from polyseme.evaluation.patching import clean_reads
from polyseme.evaluation.sums import DocumentSums
from polyseme.evaluation.sweep import check_width, counted_documents
from polyseme.kernels.shield import shielded

EDITED = "counted tokens; special tokens keep the network's own vectors"
EDITED_IN_PART = f"{EDITED}, and so do those that training left out"


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
    losses = Losses(counted_documents(windows))
    if network.predicts_tokens:
        kinds = {"edited": trained_on or {}, "ordinary": ordinary or {}}
        losses = Passes(network, sets, means, kinds).losses(windows, batch_windows, reporter or Silent())
        in_part = any(not of_site.keeps_all for of_site in (trained_on or {}).values())
        details: dict[str, Any] = {"edited": EDITED_IN_PART if in_part else EDITED}
    else:
        details = {"note": "not measured: the network has no next-token prediction"}
    return {
        name: [
            replace(entry, scope={**entry.scope, **(scope or {})}, details={**entry.details, **details})
            for entry in _metrics(name, tuple(chosen), losses)
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
                        f"{written[site]} and {binding} both write {site}, and only one of them can be spliced in",
                        where=f"dictionaries of {name}",
                        fix="splice them in with separate calls",
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


_COLUMNS = ("n", "ce_clean", "ce_patched", "ce_zero", "ce_mean", "kl")
_ABLATED = "ce_ablated"
"""Stands in a metric for the column of each ablation in turn."""


def _metrics(name: str, bindings: Bindings, losses: Losses) -> Iterator[DocumentSums]:
    uniform = {"uniform": math.log(losses.vocabulary)} if losses.vocabulary else {}
    for together, where in [*(((binding,), str(binding)) for binding in bindings), (bindings, "joint")]:
        apart = {kind: losses.apart[kind, together] for kind in APART if (kind, together) in losses.apart}
        parts = [("n",), ("clean",), ("patched", name, together), ("zero", together), ("mean", together)]
        parts += [("kl", name, together), *((kind, name, together) for kind in apart)]
        columns = (*_COLUMNS, *(f"ce_patched_{kind}" for kind in apart))
        sums = np.stack([losses.of(*part) for part in parts], axis=1)
        scope: dict[str, str | int] = {"set": name, "site": where, "n_sites": len(together)}
        for metric in of_pass("splice"):
            differently = apart.get(metric.vectors)
            if metric.numerator == {} or (metric.vectors != "counted" and differently is None):
                continue
            details = {} if differently is None else {"patched_differently": differently}
            base = DocumentSums(metric, columns, sums, losses.documents, int(sums[:, 0].sum()), scope, details=details)
            if _ABLATED not in metric.weights["numerator"]:
                yield replace(base, parameters={**uniform, **metric.weights})
                continue
            for ablation in ("zero", "mean"):
                weights = {
                    of: {f"ce_{ablation}" if column == _ABLATED else column: weight for column, weight in w.items()}
                    for of, w in metric.weights.items()
                }
                yield replace(base, scope={**scope, "ablation": ablation}, parameters={**uniform, **weights})
    yield _interaction(name, bindings, losses)


def _interaction(name: str, bindings: Bindings, losses: Losses) -> DocumentSums:
    """CE(joint) − Σ CE(single) + (bindings − 1) CE(clean): the ΔCEs written out."""
    singles = [f"ce_patched {binding}" for binding in bindings]
    sums = [losses.of("n"), losses.of("clean"), losses.of("patched", name, bindings)]
    sums += [losses.of("patched", name, (binding,)) for binding in bindings]
    weights = {"ce_joint": 1.0, "ce_clean": len(bindings) - 1.0} | dict.fromkeys(singles, -1.0)
    return DocumentSums(
        METRICS["ce_interaction"],
        ("n", "ce_clean", "ce_joint", *singles),
        np.stack(sums, axis=1),
        losses.documents,
        n=int(sums[0].sum()),
        scope={"set": name, "site": "joint", "n_sites": len(bindings)},
        parameters={"numerator": weights, "denominator": {"n": 1.0}},
    )
