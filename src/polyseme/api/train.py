"""A dictionary trained on vectors at hand, or on what a network computes at a site."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations import ActivationSource, HarvestConfig, TensorSource
from polyseme.api.windows import CorpusLike, windows_of
from polyseme.core.binding import Binding, BindingLike, bound
from polyseme.core.config import Config
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.core.table import Table
from polyseme.core.validation import check_count, validate_config
from polyseme.dictionaries import BatchTopKConfig, DictionaryConfig, SparseDictionary
from polyseme.dictionaries.base import DictionaryBase
from polyseme.kernels.shield import shielded
from polyseme.networks import Network
from polyseme.screen.progress import reporting
from polyseme.training.config import TrainingConfig
from polyseme.training.fit import fit
from polyseme.training.jobs import HistoryPoint, Job

Vectors = Float[Tensor, "..."] | Float[np.ndarray, "..."]
FEWEST_STEPS = 500
"""Steps of a training on vectors at hand; where there are too few vectors for them, the vectors are repeated."""


class _Given(Config):
    dictionary: DictionaryConfig


@dataclass(frozen=True, repr=False)
class Trained(Table):
    """A trained dictionary and how the training went.

    Attributes:
        columns: about a hundred points of the training (`training.jobs.HistoryPoint`).
        dictionary: what was trained.
        n_vectors: how many it was trained on.
    """

    row: ClassVar[str] = "Point"
    previewed: ClassVar[tuple[str, ...]] = ("step", "loss", "fvu", "l0", "dead")
    dictionary: SparseDictionary
    n_vectors: int

    @property
    def title(self) -> str:
        fvu, l0, dead = (float(self.columns[name][-1]) for name in ("fvu", "l0", "dead"))
        return f"{self.dictionary!r} trained on {self.n_vectors:,} vectors: FVU {fvu:.3f}, L0 {l0:.1f}, {dead:.0%} dead"


@shielded
def train(
    source: Vectors | Network,
    config: DictionaryBase | type[DictionaryBase] | Mapping[str, Any] | str | None = None,
    *,
    target: Vectors | None = None,
    site: BindingLike | None = None,
    text: CorpusLike | None = None,
    n_tokens: int | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
    **training: Any,
) -> Trained:
    """Train a dictionary on a tensor, or on a network's vectors at a site while it reads text.

    >>> x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    >>> trained = polyseme.train(x, polyseme.TopKConfig(n_latents=64, k=4), n_tokens=20_000, batch_size=200)
    >>> trained.dictionary, len(trained["fvu"]), trained.dictionary.encode(x).shape
    (SparseDictionary(topk, 16 → 64 latents → 16, k 4), 100, (2000, 64))

    A network is read at a site; a transcoder reads one site and writes another:

    >>> network = polyseme.load_network("pylm")
    >>> across = {"reads": "blocks.2.mlp_in", "writes": "blocks.2.mlp_out"}
    >>> trained = polyseme.train(network, polyseme.TopKConfig(n_latents=64, k=4), site=across, text="import os\\n" * 99)
    >>> trained.dictionary.is_transcoder
    True

    Args:
        source: vectors `[..., d]`, or a network.
        config: the dictionary's: `polyseme.TopKConfig(n_latents=4096, k=32)`, or a mapping of its fields with its
            `architecture`, or the name of one alone. By default BatchTopK with 8 latents an input dimension.
        target: for a transcoder trained on vectors: what it writes, a vector for each of `source`.
        site: of a network: the site that is read and written, or for a transcoder `{"reads": …, "writes": …}` or a
            `Binding`, each of one site or of several side by side.
        text: of a network, what it reads meanwhile: a text, texts, a corpus, its config, or windows.
        n_tokens: vectors to train on. By default every one once; of vectors at hand as many as make `FEWEST_STEPS`
            steps, if that is more.
        seed: of the initial weights and of the order.
        reporter: shown the progress; by default a bar in a notebook and on a terminal.
        **training: fields of `TrainingConfig`, such as batch_size, lr or target_l0.

    Raises:
        InputError: vectors that are no vectors or not finite, a network without site or text, an unknown field, or a
            training that cannot be.
        Diverged: the training went wrong.
    """
    if n_tokens is not None:
        check_count(n_tokens, "n_tokens")
    chosen = _config(config)
    with reporting(reporter) as told:
        if isinstance(source, Network):
            if target is not None:
                raise InputError("a network has no target", where="target", fix='give site={"reads": …, "writes": …}')
            found, binding = _of_network(source, site, text, n_tokens, seed, told)
            device, fewest = source.device, 0
        else:
            found, binding, device = _of_vectors(source, target, seed)
            if site is not None or text is not None:
                raise InputError("site and text are of a network", where="train", fix="leave them out")
            fewest = FEWEST_STEPS
        training.setdefault("batch_size", min(TrainingConfig().batch_size, found.n_tokens, n_tokens or found.n_tokens))
        if n_tokens is not None or fewest:
            training["n_tokens"] = n_tokens or max(found.n_tokens, fewest * int(training["batch_size"]))
        d_in, d_out = (sum(map(found.widths.__getitem__, side)) for side in (binding.reads, binding.writes))
        dictionary = chosen.build(d_in, None if binding.is_autoencoder else d_out, seed=seed, device=device)
        how = validate_config(training, TrainingConfig, where="train")
        (done,) = fit([Job("dictionary", dictionary, binding, seed)], found, how, reporter=told)
    columns = {name: np.array([getattr(p, name) for p in done.history]) for name in HistoryPoint.model_fields}
    return Trained(columns, dictionary, done.n_tokens)


def _config(given: object) -> DictionaryBase:
    """What a dictionary is to be, from a config, its class, its fields or the name of its architecture."""
    if isinstance(given, DictionaryBase):
        return given
    if given is None or (isinstance(given, type) and issubclass(given, DictionaryBase)):
        return (given or BatchTopKConfig)()
    fields = {"architecture": given} if isinstance(given, str) else given
    fix = 'give polyseme.TopKConfig(k=32), or {"architecture": "topk", "k": 32}'
    return validate_config({"dictionary": fields}, _Given, where="config", fix=fix).dictionary


def _of_network(
    network: Network,
    site: BindingLike | None,
    text: CorpusLike | None,
    n_tokens: int | None,
    seed: int,
    reporter: Reporter,
) -> tuple[ActivationSource, Binding[str]]:
    if site is None or text is None:
        missing = "site" if site is None else "text"
        fix = "site=, a name of network.site_names()" if site is None else 'text=, texts or {"kind": "stdlib"}'
        raise InputError(
            f"a network is trained on at a site, while it reads text: {missing} is missing", fix=f"give {fix}"
        )
    binding = bound(site, "site")
    sites = {str(name): network.site(name) for name in binding.places}
    windows = windows_of(network, text, n_tokens=n_tokens, reporter=reporter)
    return HarvestConfig(seed=seed).build(network, windows, sites), binding.map(str)


def _of_vectors(
    source: object, target: object | None, seed: int
) -> tuple[ActivationSource, Binding[str], torch.device]:
    x = _rows(source, "source")
    if target is None:
        return TensorSource({"x": x}, seed=seed), Binding.at("x"), x.device
    y = _rows(target, "target")
    if len(y) != len(x):
        raise InputError(f"{len(y):,} targets for {len(x):,} vectors", where="target", fix="give one for each")
    return TensorSource({"x": x, "y": y}, seed=seed), Binding(("x",), ("y",)), x.device


def _rows(given: object, where: str) -> Float[Tensor, "row d"]:
    x = torch.from_numpy(given.copy()) if isinstance(given, np.ndarray) else given
    if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point() or x.numel() == 0:
        kind = f"shape {list(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else f"a {type(given).__name__}"
        raise InputError(
            f"there are no vectors in {kind}", where=where, fix="give a tensor of numbers, [..., d], or a network"
        )
    rows = x.detach().reshape(-1, x.shape[-1])
    bad = int((~torch.isfinite(rows)).any(1).sum())
    if bad:
        what = f"{bad:,} of {len(rows):,} vectors hold NaN or infinities"
        raise InputError(what, where=where, fix="leave them out: x[x.isfinite().all(-1)]")
    return rows
