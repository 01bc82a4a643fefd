"""What a network loses when dictionaries stand in the place of its own vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from polyseme.activations import site_means
from polyseme.api.given import check_dictionary, check_network, mapping_of
from polyseme.api.windows import CorpusLike, windows_of
from polyseme.core.binding import Binding, bound
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.core.table import Table
from polyseme.core.validation import check_count
from polyseme.dictionaries import Reconstructor
from polyseme.evaluation.metrics import of_pass
from polyseme.evaluation.splice import splice
from polyseme.kernels.shield import shielded
from polyseme.networks import Network
from polyseme.screen.progress import reporting

_PLAIN = [m.name for m in of_pass("splice") if m.numerator is None and m.vectors == "counted"]
"""Metrics that are a mean over tokens."""


@dataclass(frozen=True, repr=False)
class SpliceLoss(Table):
    """Losses by site, and of all sites patched at once where there are several.

    Attributes:
        columns: the site; cross-entropy in nats a token of the network as it is (`ce_clean`), with the reconstruction
            (`ce_patched`), with zeros (`ce_zero`) and with the text's mean vector (`ce_mean`) in the place of its
            vectors; `recovered_zero` and `recovered_mean` = (CE ablated − CE patched) / (CE ablated − CE clean); `kl`.
        records: the same with their intervals over documents.
    """

    row: ClassVar[str] = "Splice"
    records: tuple[MetricRecord, ...]
    n_tokens: int

    @property
    def title(self) -> str:
        return f"Loss with reconstructions in place, nats a token over {self.n_tokens:,} predicted tokens"


@shielded
def splice_loss(
    network: Network,
    text: CorpusLike,
    dictionaries: Mapping[Any, Reconstructor],
    *,
    context: int | None = None,
    reporter: Reporter | None = None,
) -> SpliceLoss:
    """Loss of the network with each dictionary in its site's place, beside the loss without it and under ablations.

    Special tokens keep the network's own vectors. The mean of the mean ablation is taken over the text itself.

    >>> network = polyseme.load_network("pylm")
    >>> dictionary = polyseme.TopKConfig(n_latents=512, k=64).build(224, seed=0)
    >>> polyseme.splice_loss(network, "import os\\nimport sys\\n", {"blocks.2.resid_post": dictionary})
    Loss with reconstructions in place, nats a token over 6 predicted tokens
    site                 ce_clean  ce_patched  ce_zero  ce_mean  kl   recovered_zero  recovered_mean
    blocks.2.resid_post  2.08      3.93        13.2     3.02     1.2  0.833           -0.967
    1 of 1 rows shown

    Args:
        network: a language model that predicts the next token.
        text: a text, texts, a corpus, its config, or windows.
        dictionaries: site to what reconstructs it; for a transcoder or a crosscoder its `Binding`, of names or sites.
        context: tokens a window.
        reporter: receives the progress; by default a bar in a notebook and on a terminal.

    Raises:
        InputError: no such site, a dictionary of another width, no text, or a network that predicts no next token.
    """
    check_network(network)
    if context is not None:
        check_count(context, "context")
    for dictionary in mapping_of(dictionaries, "dictionaries").values():
        check_dictionary(dictionary, Reconstructor)
    if not dictionaries:
        raise InputError("there is no dictionary", where="dictionaries", fix="give {site: dictionary}")
    if not network.predicts_tokens:
        raise InputError(f"the network has no loss to measure: {network.no_prediction}", fix="take a language model")
    chosen: dict[Binding[Site], Reconstructor] = {
        bound(key, "dictionaries").map(network.site): dictionary for key, dictionary in dictionaries.items()
    }
    sites = {str(site): site for binding in chosen for site in binding.writes}
    with reporting(reporter) as told:
        windows = windows_of(network, text, context=context, reporter=told)
        means = site_means(network, windows, sites, reporter=told)
        of_sites = {site: means[name] for name, site in sites.items()}
        records = splice(network, windows, {"": chosen}, of_sites, reporter=told)[""]
    rows = [str(binding) for binding in chosen] + (["joint"] if len(chosen) > 1 else [])
    columns: dict[str, list[object]] = {"site": list(rows)}
    for column in _PLAIN:
        columns[column] = [_value(records, column, row) for row in rows]
    for kind in ("zero", "mean"):
        columns[f"recovered_{kind}"] = [_value(records, "ce_recovered", row, kind) for row in rows]
    n = next(record.n for record in records)
    return SpliceLoss({name: np.asarray(values) for name, values in columns.items()}, tuple(records), n)


def _value(records: list[MetricRecord], name: str, site: str, ablation: str | None = None) -> float:
    return next(
        record.value
        for record in records
        if record.name == name and record.scope["site"] == site and record.scope.get("ablation") == ablation
    )
