"""What a diagnosis sees: a site's vectors, the variables of its data, the outputs, and what each variable writes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.activations.reading import pass_limits
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.core.site import Site
from polyseme.diagnosis.components import Components, independent_sources
from polyseme.diagnosis.config import DiagnosisConfig
from polyseme.diagnosis.reading import halves
from polyseme.diagnosis.variables import Array, Variables, Written, canonical_order, variables_of, write
from polyseme.networks import Network

Sampler = Callable[[int, torch.Generator], Tensor]
"""Maps a number of rows and a generator to inputs."""

MAX_ELEMENTS = 1 << 21
"""Maximum number of values kept of a site: a very wide one is read on fewer rows."""
MAX_OUTPUTS = 4096
"""Number of outputs per row beyond which they are not used (the logits of a real vocabulary)."""
PASS = 1 << 14
"""Positions (or rows, where there are none) in a forward pass."""


@dataclass(frozen=True)
class Observations:
    """Everything the signatures are computed from.

    Attributes:
        network: the network, for interventions.
        site: the site read.
        neurons: the order in which the site's neurons are taken here (`canonical_order`), `[d]`.
        inputs: the data, `[row, ...]`.
        vectors: the site's vectors, `[row, d]`; a sequence's are those of its last position.
        all_vectors: the vectors of every position that counts, `[vector, d]`.
        outputs: the network's outputs, `[row, output]`; None where the network's output is not one vector a row.
        variables: the variables of the data: the coordinates of vector inputs, or the presence of each token where
            there are few; None where the inputs are of another kind.
        written: see `Written`; None without variables.
        siblings: what the same variables write in networks that differ by their seed, `[feature, d]` each.
        controls: vectors of networks with re-initialised weights on the same inputs, `[row * position, d]` each.
        config: the configuration of the diagnosis.
    """

    network: Network
    site: Site
    neurons: Int[np.ndarray, " d"]
    inputs: Tensor
    vectors: Float[np.ndarray, "row d"]
    all_vectors: Float[np.ndarray, "vector d"]
    outputs: Float[np.ndarray, "row output"] | None
    variables: Variables | None
    written: Written | None
    config: DiagnosisConfig
    siblings: tuple[Float[np.ndarray, "feature d"], ...] = ()
    controls: tuple[Float[np.ndarray, "vector d"], ...] = ()

    def read(self, inputs: Tensor) -> Float[np.ndarray, "row d"]:
        """The site's vectors of other inputs, of the last position for a sequence."""
        return _rows(_read(self.network, inputs, self.site))[:, self.neurons]

    @property
    def features(self) -> Written:
        """What the variables write, for the signatures of sites whose data have variables."""
        assert self.written is not None
        return self.written

    @property
    def networks(self) -> list[Float[np.ndarray, "feature d"]]:
        """What the features write here, and in every sibling where each of them writes something."""
        return [self.features.directions, *(D for D in self.siblings if np.linalg.norm(D, axis=1).min() > 0)]

    def rng(self, name: str) -> np.random.Generator:
        """The random numbers of one signature."""
        return _rng(self.config, name)

    @cached_property
    def components(self) -> Components:
        """Independent sources of the vectors alone, found once."""
        rng = self.rng("components")
        vectors = self.all_vectors[rng.permutation(len(self.all_vectors))[: self.config.max_rows]]
        fit, held_out = halves(len(vectors), rng)
        return Components(vectors, fit, held_out, independent_sources(vectors, fit, rng))


def observe(
    network: Network,
    site: str | Site,
    inputs: Tensor | Sampler,
    config: DiagnosisConfig,
    *,
    siblings: Sequence[Network] = (),
    controls: Iterable[Network] = (),
    counted: Bool[Tensor, "row position"] | None = None,
    reporter: Reporter | None = None,
) -> Observations:
    """Read the site, switch every variable of the data off in turn, and keep what changes; see `diagnose`.

    Raises:
        InputError: there are too few rows; the vectors have the wrong shape, are constant or are not finite; or a
            sibling has another width.
    """
    place = network.site(site)
    if not isinstance(inputs, Tensor):
        inputs = inputs(config.max_rows, make_generator(config.seed, "inputs"))
    where = str(place)
    if inputs.dim() == 0 or len(inputs) < config.min_rows:
        n = 0 if inputs.dim() == 0 else len(inputs)
        raise InputError(
            f"A diagnosis needs {config.min_rows} rows of data and was given {n}",
            where=where,
            fix=f"give at least {config.min_rows} rows of inputs, or a function that draws them",
        )
    first = network.run(inputs[:2], reads=[place])
    example = first.reads[place]
    if example.dim() not in (2, 3) or len(example) != 2:
        raise InputError(
            f"The site's vectors have shape {tuple(example.shape)} for 2 rows of data",
            where=where,
            fix="diagnose a site whose vectors are [row, d] or [row, position, d]",
        )
    width = example.shape[-1]
    most = max(config.min_rows, min(config.max_rows, MAX_ELEMENTS // width))
    if len(inputs) > most:
        kept = torch.randperm(len(inputs), generator=make_generator(config.seed, "rows"))[:most].sort().values
        inputs, counted = inputs[kept], None if counted is None else counted[kept]
    # Logits of a real vocabulary are not used, and a pass of them may not fit the memory.
    vectors, outputs = (
        _run(network, inputs, place, reporter)
        if _answers(first.logits, 2)
        else (_read(network, inputs, place, reporter), None)
    )
    everything, last = _counted(vectors, counted), _rows(vectors)
    if not np.isfinite(everything).all():
        raise InputError("The site's vectors are not finite", where=where, fix="check the network and its inputs")
    spread = last.std(0)
    if spread.max() <= 1e-7 * max(1e-30, float(np.abs(last).max())):
        raise InputError(
            "The site's vectors are the same on every row, so there is nothing to explain",
            where=where,
            fix="diagnose a site that depends on the inputs, with inputs that vary",
        )
    neurons = canonical_order(everything, _rng(config, "neurons"))
    everything, last = everything[:, neurons], last[:, neurons]
    variables = variables_of(inputs, _rng(config, "variables"))
    written, alike = None, ()
    if variables is not None:
        progress = (reporter or Silent()).task("switch variables off", len(variables.names), "variables")
        written = write(
            lambda x: _rows(_read(network, x, place))[:, neurons],
            inputs,
            variables,
            last,
            config,
            _rng(config, "written"),
            progress,
        )
    active = int((spread > 1e-6 * spread.max()).sum())
    if written is None and len(everything) < 4 * active:
        raise InputError(
            f"The site has {active} varying neurons and the data only {len(everything)} vectors",
            where=where,
            fix=f"give at least {4 * active} vectors, and set max_rows to allow them",
        )
    if variables is not None and written is not None:
        alike = tuple(_sibling(other, place, inputs, variables, written, last.shape[1], config) for other in siblings)
    blind = written is None
    elsewhere = tuple(_counted(_read(other, inputs, place, reporter), counted) for other in controls) if blind else ()
    return Observations(
        network=network,
        site=place,
        neurons=neurons,
        inputs=inputs,
        vectors=last,
        all_vectors=everything,
        outputs=outputs,
        variables=variables,
        written=written,
        siblings=alike,
        controls=elsewhere,
        config=config,
    )


def _rng(config: DiagnosisConfig, name: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(config.seed, name))


def _numpy(x: Tensor) -> Array:
    return x.detach().cpu().double().numpy()


def _rows(vectors: Tensor) -> Array:
    return _numpy(vectors if vectors.dim() == 2 else vectors[:, -1])


def _counted(vectors: Tensor, counted: Bool[Tensor, "row position"] | None) -> Array:
    kept = vectors.reshape(-1, vectors.shape[-1])
    return _numpy(kept if counted is None or vectors.dim() == 2 else kept[counted.reshape(-1).to(kept.device)])


def parts(network: Network, inputs: Tensor) -> tuple[Tensor, ...]:
    """The rows in passes of `PASS` positions, or of fewer tokens where the network is wide."""
    if inputs.dim() != 2 or inputs.is_floating_point():
        return inputs.split(PASS)
    most = min(PASS, pass_limits(network)[0] // network.row_bytes)
    return inputs.split(max(1, most // inputs.shape[1]))


def _read(network: Network, inputs: Tensor, site: Site, reporter: Reporter | None = None) -> Tensor:
    return torch.cat([network.read(part, [site])[site].to("cpu") for part in _shown(network, inputs, reporter)])


def _shown(network: Network, inputs: Tensor, reporter: Reporter | None) -> Iterator[Tensor]:
    """The rows in passes, with their progress."""
    progress, done = (reporter or Silent()).task("read the site", len(inputs), "rows"), 0
    for part in parts(network, inputs):
        yield part
        done += len(part)
        progress.update(done)


def _run(network: Network, inputs: Tensor, site: Site, reporter: Reporter | None) -> tuple[Tensor, Array | None]:
    """The site's vectors, and the outputs of each row (of a sequence, those of its last position)."""
    vectors: list[Tensor] = []
    outputs: list[Array] = []
    for part in _shown(network, inputs, reporter):
        got = network.run(part, reads=[site])
        vectors.append(got.reads[site].to("cpu"))
        found = _outputs(got.logits, len(part))
        outputs += [] if found is None else [found]
    read = np.concatenate(outputs) if outputs else None
    return torch.cat(vectors), read if read is not None and len(read) == len(inputs) else None


def _answers(logits: Tensor, n: int) -> bool:
    """Whether the network's output is one vector a row, of few enough numbers."""
    rows = logits.dim() in (1, 2, 3) and len(logits) == n and logits.is_floating_point()
    return rows and (logits.dim() == 1 or logits.shape[-1] <= MAX_OUTPUTS)


def _outputs(logits: Tensor, n: int) -> Array | None:
    if not _answers(logits, n):
        return None
    outputs = _numpy(logits[:, -1] if logits.dim() == 3 else logits.reshape(n, -1))
    return outputs if np.isfinite(outputs).all() else None


def _sibling(
    other: Network,
    site: Site,
    inputs: Tensor,
    variables: Variables,
    written: Written,
    width: int,
    config: DiagnosisConfig,
) -> Array:
    """What the same features write in another network; zero for one that it does not represent."""
    vectors = _read(other, inputs, site)
    if vectors.shape[-1] != width:
        raise InputError(
            f"A sibling's site has width {vectors.shape[-1]}, the network's {width}",
            where=str(site),
            fix="siblings are networks of the same shape, trained from other seeds",
        )
    narrow = config.model_copy(update={"n_resamples": 1})
    neurons = canonical_order(_rows(vectors), _rng(config, "neurons"))

    def read(x: Tensor) -> Array:
        return _rows(_read(other, x, site))[:, neurons]

    found = write(read, inputs, variables, _rows(vectors)[:, neurons], narrow, _rng(config, "written"))
    rows = dict(zip(found.names, found.directions, strict=True)) if found else {}
    return np.stack([rows.get(name, np.zeros(width)) for name in written.names])
