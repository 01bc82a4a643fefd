"""Does the network use a latent? Remove it from single tokens and see what happens to the predictions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polyseme.activations.firings import Firings
from polyseme.activations.massive import Ordinary
from polyseme.activations.reading import fitting_windows, read_windows
from polyseme.causal.clusters import bootstrap_means, cluster_by_document, error_of_means
from polyseme.causal.config import CausalConfig
from polyseme.causal.interventions import Interventions, Lifts, Outcome, Route, choose_route, intervene
from polyseme.causal.meaning import REFERENCES, Meanings
from polyseme.causal.result import SIZES, CausalEffects, Expected, Size
from polyseme.causal.sampling import Samples, n_followed, sample_firings, spread_out
from polyseme.core.binding import BindingLike, located
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.kernels.shield import shielded
from polyseme.networks import Network
from polyseme.nulls import LatentNull, Written, null_of_latents

VECTORS = 8192
"""Most vectors that a covariance is of."""
_MOST_ROWS = 64
"""Rows gain nothing from many interventions on one window; fewer at a time report progress sooner."""


@runtime_checkable
class Writer(Protocol):
    """What causal tests need of a dictionary."""

    @property
    def n_latents(self) -> int: ...

    def write_directions(self) -> Float[Tensor, "n_latents d_out"]: ...


@shielded
def causal_effects(
    network: Network,
    windows: Windows,
    binding: BindingLike,
    dictionary: Writer,
    firings: Firings,
    meanings: Meanings,
    *,
    config: CausalConfig | None = None,
    min_documents: int = 1,
    seed: int = 0,
    ordinary: Mapping[Site, Ordinary] | None = None,
    reporter: Reporter | None = None,
) -> CausalEffects:
    """What removing every latent does to predictions, exactly, with the same of other directions of equal norm.

    At each sampled firing token t the vector x_t becomes x_t − fᵢ(t) dᵢ, dᵢ the write direction, changed at t alone, in
    a full forward pass. The nulls subtract fᵢ(t) ‖dᵢ‖ u at the same tokens, u one of K unit vectors that each null has
    for latent i, the same at all its tokens.

    The size of an effect (KL, loss) says little: a direction that the site's vectors vary along has a large one,
    whatever it means. The expected effect (`CausalEffects.expected`) says whether predictions change towards what
    follows where the latent does not fire, and away from what follows its firings: the change Δ of log-probabilities is
    correlated with what the latent stands for.

    Args:
        network: a causal language model.
        windows: the held-out tokens that `firings` were read on.
        binding: what the dictionary reads and writes: its latents are removed where it writes, at all these sites in
            the same pass.
        dictionary: gives the write directions.
        firings: its latents over the windows.
        meanings: what its latents stand for, learned from its firings on train text.
        config: how many samples and directions, which route, memory bounds.
        min_documents: latents that fire in fewer documents are not measured.
        seed: seed of sampling, null directions and resampling; every result is a pure function of it.
        ordinary: which vectors of a site are not massive; all by default. The covariance of null directions is of
            ordinary ones: massive ones point in one direction, and would be most of it.
        reporter: receives how many interventions are done.

    Raises:
        InputError: the network is not causal, the directions do not have the width of what is written, or the meanings
            are of other latents or tokens.
    """
    config, at = config or CausalConfig(), located(binding, network)
    route = choose_route(network, config.route)
    directions = dictionary.write_directions().detach().float().cpu()
    width = sum(map(network.width, at.writes))
    if directions.shape != (firings.n_latents, width):
        raise InputError(
            f"the dictionary writes {directions.shape[0]} directions of width {directions.shape[1]}; "
            f"the firings have {firings.n_latents} latents and the site's vectors {width} numbers",
            where=str(at),
            fix="give the site the dictionary writes to, and its own firings",
        )
    vocabulary = n_predicted(network, windows)
    if (meanings.n_latents, meanings.vocabulary) != (firings.n_latents, vocabulary):
        raise InputError(
            f"the meanings are of {meanings.n_latents} latents and {meanings.vocabulary} tokens; the firings have "
            f"{firings.n_latents} latents and the network predicts {vocabulary} tokens",
            where="meanings",
            fix="learn them with Meanings.learn from the dictionary's firings on train windows, and with as many "
            "tokens as the network predicts",
        )
    samples = sample_firings(
        firings,
        windows,
        n_samples=config.n_samples,
        seed=derive_seed(seed, "sample"),
        wanted=firings.document_counts >= min_documents,
    )
    nulls = [null_of_latents(kind, seed) for kind in config.nulls]
    reads_vectors = any(null.needs_vectors for null in nulls)
    none = directions.new_zeros(0, width)
    vectors = _vectors(network, windows, at.writes, ordinary or {}) if reads_vectors else none
    plan = _Plan.of(windows, firings, samples, _written(directions, firings, vectors), nulls, config)
    measured = _measure(network, windows, at.writes, plan, meanings, config, route, reporter or Silent())
    return _result(measured, plan, config, seed)


def n_predicted(network: Network, windows: Windows) -> int:
    """How many tokens a network gives a probability at each position."""
    tokens = torch.from_numpy(windows.tokens[:1].astype(np.int64)).to(network.device)
    last = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    last[0, -1] = True
    return network.run(tokens, logits_at=last).logits.shape[-1]


def _vectors(
    network: Network, windows: Windows, sites: Sequence[Site], ordinary: Mapping[Site, Ordinary]
) -> Float[Tensor, "sample d"]:
    """What the network has at some sites, side by side, at the first held-out tokens with ordinary vectors."""
    at_once = min(16, fitting_windows(network, windows, sites))
    found: list[Tensor] = []
    for reading in read_windows(network, windows, sites, batch_windows=at_once):
        kept, vectors = reading.ordinary(sites, ordinary), reading.at(sites).float().cpu()
        found.append(vectors if kept is None else vectors[kept.cpu()])
        if sum(map(len, found)) >= VECTORS:
            break
    return torch.cat(found)[:VECTORS]


def _written(directions: Tensor, firings: Firings, vectors: Tensor) -> Written:
    mean = np.asarray(firings.columns.sum(axis=0)).ravel() / np.maximum(firings.counts, 1)
    return Written(
        directions, firings.densities, np.abs(mean) * directions.norm(dim=1).numpy().astype(np.float64), vectors
    )


@dataclass(frozen=True)
class _Plan:
    """Which interventions there are: at each sample the latent's own direction, then every direction of every null.

    Attributes:
        firings, samples, written: of the dictionary.
        kinds: by column, the null and the number of its draw; the first column, the latent itself, is left out.
        columns: by null, its columns.
        followed: of each sample, later positions that are read; 0 where none is wanted.
        has_later: the samples whose effect on later tokens is measured.
        reads_later: by column, whether it is measured on later tokens: the latent itself and the first of each null.
    """

    firings: Firings
    samples: Samples
    written: Written
    kinds: list[tuple[LatentNull, int]]
    columns: dict[str, list[int]]
    followed: Int[np.ndarray, " sample"]
    has_later: Bool[np.ndarray, " sample"]
    reads_later: Bool[np.ndarray, " column"]

    @classmethod
    def of(
        cls,
        windows: Windows,
        firings: Firings,
        samples: Samples,
        written: Written,
        nulls: Sequence[LatentNull],
        config: CausalConfig,
    ) -> "_Plan":
        kinds: list[tuple[LatentNull, int]] = []
        columns: dict[str, list[int]] = {}
        for kind, null in zip(config.nulls, nulls, strict=True):
            n = int(min(config.n_directions, null.n_draws(written)))
            columns[kind] = [1 + len(kinds) + draw for draw in range(n)]
            kinds += [(null, draw) for draw in range(n)]
        reads_later = np.array([True, *(draw == 0 for _, draw in kinds)])
        has_later = spread_out(samples, config.n_later) & (config.horizon > 0)
        followed = n_followed(windows, most=config.horizon)[firings.window[samples.row], firings.position[samples.row]]
        return cls(firings, samples, written, kinds, columns, followed * has_later, has_later, reads_later)

    @property
    def width(self) -> int:
        """Interventions at a sample."""
        return 1 + len(self.kinds)

    def directions(self, latents: Int[np.ndarray, " latent"]) -> Float[Tensor, "column latent d"]:
        """Unit vectors that are removed in the place of some latents, their own first."""
        own = self.written.directions[torch.from_numpy(latents)]
        found = own.new_empty(self.width, *own.shape)
        found[0] = torch.nn.functional.normalize(own, dim=1)
        for column, (null, draw) in enumerate(self.kinds, start=1):
            found[column] = null.directions(latents, self.written, draw)
        return found


@dataclass(frozen=True)
class _Measured:
    """What was measured, of each sample for the latents themselves, and added up over samples for their nulls.

    Attributes:
        own: expected effects and `SIZES` of each sample; 0 for later tokens where these are not measured.
        totals: the same summed over the samples of each latent, by column; the first is not filled.
    """

    own: Float[np.ndarray, "sample quantity"]
    totals: Float[np.ndarray, "column latent quantity"]


def _measure(
    network: Network,
    windows: Windows,
    sites: Sequence[Site],
    plan: _Plan,
    meanings: Meanings,
    config: CausalConfig,
    route: Route,
    reporter: Reporter,
) -> _Measured:
    samples, n_quantities = plan.samples, len(REFERENCES) + len(SIZES)
    measured = _Measured(
        np.full((len(samples), n_quantities), np.nan),
        np.zeros((plan.width, plan.firings.n_latents, n_quantities)),
    )
    if not len(samples):
        return measured
    progress = reporter.task("causal effects", plan.width * len(samples), "interventions")
    most = config.max_ghosts if route == "ghosts" else min(config.max_ghosts, _MOST_ROWS)
    most = max(1, min(most, config.logit_bytes // (4 * meanings.vocabulary)))
    latents, done = np.unique(samples.latent).astype(np.int64), 0
    at_once = config.latents_at_once(meanings.vocabulary, plan.written.directions.shape[1])
    weights = torch.from_numpy(meanings.overall).to(network.device)
    for start in range(0, len(latents), at_once):
        some = latents[start : start + at_once]
        lifts = Lifts(torch.from_numpy(meanings.in_units_of_lift(some)).to(network.device), weights)
        directions = plan.directions(some)
        for chunks in _passes(_chunks(plan, some, most), windows.tokens.shape[1], config.tokens_per_pass):
            todo = [_interventions(plan, chunk, some, directions) for chunk in chunks]
            outcomes = intervene(
                network, windows, sites, todo, route=route, tokens_per_pass=config.tokens_per_pass, lifts=lifts
            )
            for chunk, outcome in zip(chunks, outcomes, strict=True):
                _record(measured, plan, chunk, outcome)
                done += len(chunk)
            progress.update(done)
    return measured


@dataclass(frozen=True)
class _Chunk:
    """Interventions on one window: of which sample and in which column, and how many later positions each reads."""

    sample: Int[np.ndarray, " intervention"]
    column: Int[np.ndarray, " intervention"]
    later: Int[np.ndarray, " intervention"]

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def n_reads(self) -> int:
        return len(self) + int(self.later.sum())


def _chunks(plan: _Plan, latents: Int[np.ndarray, " latent"], most: int) -> list[_Chunk]:
    """Interventions on the same window that read at most `most` predictions together, but for a single one that reads
    more; fullest first, so that a pass holds chunks alike."""
    first, end = np.searchsorted(plan.samples.latent, [latents[0], latents[-1] + 1])
    rows = np.arange(first, end)
    rows = rows[np.argsort(plan.firings.window[plan.samples.row[rows]], kind="stable")]
    window = np.repeat(plan.firings.window[plan.samples.row[rows]], plan.width)
    sample, column = np.repeat(rows, plan.width), np.tile(np.arange(plan.width), len(rows))
    later = plan.followed[sample] * plan.reads_later[column]
    ends, at = np.cumsum(later + 1), 0
    of_window = np.searchsorted(window, window, side="right")
    chunks: list[_Chunk] = []
    while at < len(sample):
        before = int(ends[at - 1]) if at else 0
        stop = min(int(of_window[at]), max(at + 1, int(np.searchsorted(ends, before + most, side="right"))))
        chunks.append(_Chunk(sample[at:stop], column[at:stop], later[at:stop]))
        at = stop
    return sorted(chunks, key=lambda chunk: chunk.n_reads, reverse=True)


def _passes(chunks: list[_Chunk], context: int, tokens_per_pass: int) -> Iterator[list[_Chunk]]:
    at = 0
    while at < len(chunks):
        n = max(1, tokens_per_pass // (context + chunks[at].n_reads))
        yield chunks[at : at + n]
        at += n


def _interventions(
    plan: _Plan, chunk: _Chunk, latents: Int[np.ndarray, " latent"], directions: Float[Tensor, "column latent d"]
) -> Interventions:
    samples = plan.samples
    row, latent = samples.row[chunk.sample], samples.latent[chunk.sample].astype(np.int64)
    place = np.searchsorted(latents, latent)
    size = samples.value[chunk.sample] * plan.written.directions[torch.from_numpy(latent)].norm(dim=1).numpy()
    vectors = directions[torch.from_numpy(chunk.column), torch.from_numpy(place)] * torch.from_numpy(size)[:, None]
    return Interventions(int(plan.firings.window[row[0]]), plan.firings.position[row], vectors, chunk.later, place)


def _record(measured: _Measured, plan: _Plan, chunk: _Chunk, outcome: Outcome) -> None:
    found = np.stack(
        [*outcome.expected.T, outcome.kl, outcome.ce, outcome.kl_later, outcome.ce_later], axis=1, dtype=np.float64
    )
    own = chunk.column == 0
    measured.own[chunk.sample[own]] = found[own]
    np.add.at(measured.totals, (chunk.column[~own], plan.samples.latent[chunk.sample[~own]]), found[~own])


def _result(measured: _Measured, plan: _Plan, config: CausalConfig, seed: int) -> CausalEffects:
    samples, n = plan.samples, plan.firings.n_latents
    document = plan.firings.document[samples.row]
    every = cluster_by_document(samples.latent, document, measured.own, n)
    has = plan.has_later
    later = cluster_by_document(samples.latent[has], document[has], measured.own[has], n)
    n_tokens, n_later = (np.bincount(some, minlength=n) for some in (samples.latent, samples.latent[has]))
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = [
            Expected(
                every.means()[:, quantity],
                error_of_means(every, quantity),
                {
                    kind: np.where(n_tokens > 0, measured.totals[columns, :, quantity] / n_tokens, np.nan)
                    for kind, columns in plan.columns.items()
                },
            )
            for quantity in range(len(REFERENCES))
        ]
    sizes: dict[str, Size] = {}
    for quantity, name in enumerate(SIZES, start=len(REFERENCES)):
        of_later = name.endswith("_later")
        clusters, count = (later, n_later) if of_later else (every, n_tokens)
        bounds = bootstrap_means(
            clusters, quantity, seed=derive_seed(seed, "bootstrap"), n_resamples=config.n_resamples
        )
        columns = {kind: own[:1] if of_later else own for kind, own in plan.columns.items()}
        null = {kind: _mean(measured.totals[own, :, quantity], count) for kind, own in columns.items()}
        sizes[name] = Size(clusters.means()[:, quantity], bounds[:, 0], bounds[:, 1], null)
    return CausalEffects(
        expected=expected[0],
        given_token=expected[1],
        sizes=sizes,
        n_tokens=n_tokens,
        n_documents=every.n_documents,
        n_later=n_later,
        sample_latent=samples.latent.astype(np.int32),
        sample_row=samples.row.astype(np.int32),
        sample_kl=measured.own[:, 2].astype(np.float32),
        sample_loss=measured.own[:, 3].astype(np.float32),
        sample_expected=measured.own[:, 0].astype(np.float32),
    )


def _mean(
    totals: Float[np.ndarray, "direction latent"], count: Int[np.ndarray, " latent"]
) -> Float[np.ndarray, " latent"]:
    """Mean over directions and samples; NaN without either."""
    number = len(totals) * np.where(count > 0, count, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals.sum(axis=0) / number
