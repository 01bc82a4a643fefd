"""Does the network use a latent? Remove it from single tokens and see what happens to the prediction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from polyseme.activations.firings import Firings
from polyseme.activations.reading import fitting_windows, read_windows
from polyseme.causal.clusters import bootstrap_means, cluster_by_document, sign_flip_p, smallest_p
from polyseme.causal.interventions import Interventions, Route, choose_route, intervene
from polyseme.causal.sampling import Samples, sample_firings
from polyseme.core.binding import BindingLike, located
from polyseme.core.config import Config, Resamples, Width
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.kernels.shield import shielded
from polyseme.networks import Network
from polyseme.nulls import LatentNull, OfLatents, Written, null_of_latents

VECTORS = 8192
"""Most vectors that a covariance is of."""
FLIPS_A_LATENT = 40
"""With one latent of m at the smallest p, the corrected p is m / (40 m + 1) < 0.025."""


@runtime_checkable
class Writer(Protocol):
    """What causal tests need of a dictionary."""

    @property
    def n_latents(self) -> int: ...

    def write_directions(self) -> Float[Tensor, "n_latents d_out"]: ...


Statistic = Literal["kl", "ce"]
"""KL(clean ‖ ablated) of the predictions, or ΔCE of the actual next tokens."""


class CausalConfig(Config):
    """How causal effects are measured."""

    n_samples: int = Field(default=64, ge=0, le=10**6)
    """Largest number of firing tokens sampled for each latent, spread over its documents; each costs two interventions
    (effect and null)."""
    statistic: Statistic = "kl"
    """What p compares with the null: `kl`, the loss expected under the clean predictions, or `ce`, the loss of the
    actual token."""
    null: OfLatents = "isotropic"
    """What is removed for comparison, at the same tokens and of the same norm: a random direction (`isotropic`), one of
    the covariance of the site's vectors, or the direction of another latent that fires."""
    n_flips: int = Field(default=9999, ge=1, le=10**7)
    """Smallest number of random sign flips behind a p-value. A wide dictionary gets 40 for each latent, so that a
    single latent can pass after correction."""
    n_resamples: Resamples = 1000
    """Number of bootstrap resamples of documents behind each interval."""
    route: Literal["auto", "ghosts", "rows"] = "auto"
    """How interventions are run: `ghosts` puts hundreds into one pass, for networks that honour 4-D masks; `rows` takes
    one row for each."""
    max_ghosts: int = Field(default=512, ge=1, le=2**16)
    """Largest number of interventions that share the pass over one window."""
    tokens_per_pass: Width = 1024
    """Number of tokens, clean and edited, in one forward pass; this bounds the memory."""
    logit_bytes: int = Field(default=2**28, ge=2**10, le=2**40)
    """Largest size, in bytes, of the logits of one pass; with a large vocabulary fewer interventions share a pass."""

    def flips(self, n_latents: int) -> int:
        """Random sign flips behind the p-values of a dictionary: the smallest p is at most 1 / (40 · n_latents)."""
        return max(self.n_flips, FLIPS_A_LATENT * n_latents)

    def smallest_p(self, n_latents: int) -> float:
        """The smallest p-value that a latent can have with this many samples, each in a document of its own."""
        return float(smallest_p(np.array(self.n_samples), n_flips=self.flips(n_latents)))


@dataclass(frozen=True)
class Effect:
    """One reading of the causal effect of every latent of one dictionary, in nats.

    Attributes:
        value: mean over the sampled firing tokens.
        low, high: its 95% interval by bootstrap over documents.
        null: the same mean for the null, by default a random direction of equal norm.
        samples: what ablating the latent did at each sampled token.
    """

    value: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, " latent"]
    high: Float[np.ndarray, " latent"]
    null: Float[np.ndarray, " latent"]
    samples: Float[np.ndarray, " sample"]


@dataclass(frozen=True)
class CausalEffects:
    """Causal effect of every latent of one dictionary, in nats; NaN where it was not measured.

    Attributes:
        effect: mean over sampled firing tokens of CE(x − fᵢdᵢ) − CE(x).
        low, high: its 95% interval by bootstrap over documents.
        null: the same mean for the null, by default a random direction of equal norm.
        kl: mean KL(clean ‖ edited) of the predictions: the effect expected under the clean network's own predictions.
        kl_low, kl_high: its 95% interval by bootstrap over documents.
        null_kl: the same for the null.
        p: one-sided, the statistic above its null.
        p_two_sided: the statistic differs from its null.
        least_p: the smallest p that sign flips of this many documents can give, whatever the effect.
        n_tokens: firing tokens sampled.
        n_documents: documents they come from.
        sample_latent: whose firing each sampled token is, in latent order.
        sample_row: which token it is, a row of the firings.
        sample_ce, sample_kl: what ablating the latent there did: ΔCE and KL, whose means are `effect` and `kl`.
    """

    effect: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, " latent"]
    high: Float[np.ndarray, " latent"]
    null: Float[np.ndarray, " latent"]
    p: Float[np.ndarray, " latent"]
    p_two_sided: Float[np.ndarray, " latent"]
    least_p: Float[np.ndarray, " latent"]
    kl: Float[np.ndarray, " latent"]
    kl_low: Float[np.ndarray, " latent"]
    kl_high: Float[np.ndarray, " latent"]
    null_kl: Float[np.ndarray, " latent"]
    n_tokens: Int[np.ndarray, " latent"]
    n_documents: Int[np.ndarray, " latent"]
    sample_latent: Int[np.ndarray, " sample"] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    sample_row: Int[np.ndarray, " sample"] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    sample_ce: Float[np.ndarray, " sample"] = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    sample_kl: Float[np.ndarray, " sample"] = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under its name, for saving; `CausalEffects(**arrays)` gives the object back."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def of(self, statistic: Statistic) -> Effect:
        """The effect by KL(clean ‖ ablated) of the predictions, or by ΔCE of the actual next tokens."""
        if statistic == "kl":
            return Effect(self.kl, self.kl_low, self.kl_high, self.null_kl, self.sample_kl)
        return Effect(self.effect, self.low, self.high, self.null, self.sample_ce)

    def at_tokens(self, latent: int) -> tuple[dict[int, float], dict[int, float]]:
        """ΔCE and KL of ablating one latent at each token sampled for it: row of the firings to nats."""
        mine = slice(*np.searchsorted(self.sample_latent, [latent, latent + 1]))
        rows = self.sample_row[mine].tolist()
        ce, kl = (dict(zip(rows, x[mine].tolist(), strict=True)) for x in (self.sample_ce, self.sample_kl))
        return ce, kl


@shielded
def causal_effects(
    network: Network,
    windows: Windows,
    binding: BindingLike,
    dictionary: Writer,
    firings: Firings,
    *,
    config: CausalConfig | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> CausalEffects:
    """Exact causal effect of every latent with that of a null of equal norm.

    effectᵢ = mean over firing tokens t of CE(x_t − fᵢ(t) dᵢ) − CE(x_t), a full forward pass each, dᵢ the write
    direction, changed at t alone, CE that of the prediction made at t. The null subtracts fᵢ(t) ‖dᵢ‖ u at the same
    token, u a fresh uniformly random unit vector, or one that `config.null` draws otherwise. p comes from the paired
    differences by sign flips of whole documents (`sign_flip_p`): by default those of KL(clean ‖ edited), which is the
    effect's expectation when the next token is drawn from the clean predictions, without the noise of drawing it.

    Args:
        network: a causal language model.
        windows: the held-out tokens that `firings` were read on.
        binding: what the dictionary reads and writes: its latents are removed where it writes, at all these sites in
            the same pass.
        dictionary: gives the write directions.
        firings: its latents over the windows.
        config: how many samples, which route, memory bounds.
        seed: seed of sampling, null directions and resampling; every result is a pure function of it.
        reporter: receives how many interventions are done.

    Raises:
        InputError: the network is not causal, or the directions do not have the width of what is written.
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
    samples = sample_firings(firings, windows, n_samples=config.n_samples, seed=derive_seed(seed, "sample"))
    null = null_of_latents(config.null, seed)
    vectors = _vectors(network, windows, at.writes) if null.needs_vectors else directions.new_zeros(0, width)
    written = Written(directions, np.flatnonzero(firings.counts > 0), vectors)
    measured = _measure(
        network, windows, at.writes, written, null, firings, samples, config, route, reporter or Silent()
    )
    clusters = cluster_by_document(samples.latent, firings.document[samples.row], measured, firings.n_latents)
    means = clusters.means()
    interval = bootstrap_means(clusters, 0, seed=derive_seed(seed, "bootstrap"), n_resamples=config.n_resamples)
    kl_interval = bootstrap_means(clusters, 2, seed=derive_seed(seed, "bootstrap"), n_resamples=config.n_resamples)
    n_flips = config.flips(firings.n_latents)
    p, p_two_sided = sign_flip_p(
        clusters, 4 if config.statistic == "ce" else 5, seed=derive_seed(seed, "flips"), n_flips=n_flips
    )
    return CausalEffects(
        effect=means[:, 0],
        low=interval[:, 0],
        high=interval[:, 1],
        null=means[:, 1],
        p=p,
        p_two_sided=p_two_sided,
        least_p=smallest_p(clusters.n_documents, n_flips=n_flips),
        kl=means[:, 2],
        kl_low=kl_interval[:, 0],
        kl_high=kl_interval[:, 1],
        null_kl=means[:, 3],
        n_tokens=np.bincount(samples.latent, minlength=firings.n_latents),
        n_documents=clusters.n_documents,
        sample_latent=samples.latent.astype(np.int32),
        sample_row=samples.row.astype(np.int32),
        sample_ce=measured[:, 0].astype(np.float32),
        sample_kl=measured[:, 2].astype(np.float32),
    )


def _vectors(network: Network, windows: Windows, sites: Sequence[Site]) -> Float[Tensor, "sample d"]:
    """What the network has at some sites, side by side, at the first held-out tokens."""
    at_once = min(16, fitting_windows(network, windows, sites))
    found: list[Tensor] = []
    for reading in read_windows(network, windows, sites, batch_windows=at_once):
        found.append(reading.at(sites).float().cpu())
        if sum(map(len, found)) >= VECTORS:
            break
    return torch.cat(found)[:VECTORS]


def _measure(
    network: Network,
    windows: Windows,
    sites: Sequence[Site],
    written: Written,
    null: LatentNull,
    firings: Firings,
    samples: Samples,
    config: CausalConfig,
    route: Route,
    reporter: Reporter,
) -> Float[np.ndarray, "sample quantity"]:
    """(effect, null, KL, null KL, effect − null, KL − null KL) of each sample."""
    measured = np.full((len(samples), 6), np.nan)
    if len(samples) == 0:
        return measured
    progress = reporter.task("causal effects", 2 * len(samples), "interventions")
    # Rows gain nothing from many interventions on one window; fewer at a time report progress sooner.
    most = config.max_ghosts if route == "ghosts" else min(config.max_ghosts, 64)
    per_window = min(most, config.logit_bytes // (4 * _vocabulary(network, windows)))
    chunks = _chunks(firings.window[samples.row], max(1, per_window // 2))
    done = 0
    for some in _passes(chunks, windows.tokens.shape[1], config.tokens_per_pass):
        todo = [
            _interventions(samples, chunk, int(firings.window[samples.row[chunk[0]]]), firings, written, null)
            for chunk in some
        ]
        outcomes = intervene(network, windows, sites, todo, route=route, tokens_per_pass=config.tokens_per_pass)
        for chunk, outcome in zip(some, outcomes, strict=True):
            ce, kl = outcome.ce.reshape(2, -1), outcome.kl.reshape(2, -1)
            paired = [pair[0].astype(np.float64) - pair[1] for pair in (ce, kl)]
            measured[chunk] = np.stack([*ce, *kl, *paired], axis=1)
            done += 2 * len(chunk)
        progress.update(done)
    return measured


def _vocabulary(network: Network, windows: Windows) -> int:
    tokens = torch.from_numpy(windows.tokens[:1].astype(np.int64)).to(network.device)
    last = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    last[0, -1] = True
    return network.run(tokens, logits_at=last).logits.shape[-1]


def _chunks(window: Int[np.ndarray, " sample"], most: int) -> list[Int[np.ndarray, " chunk"]]:
    """Samples of the same window, at most `most` together; fullest first, so that a pass holds chunks alike."""
    order = np.argsort(window, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(window[order])) + 1)
    chunks = [group[at : at + most] for group in groups for at in range(0, len(group), most)]
    return sorted(chunks, key=len, reverse=True)


def _passes(chunks: list[np.ndarray], context: int, tokens_per_pass: int) -> Iterator[list[np.ndarray]]:
    at = 0
    while at < len(chunks):
        n = max(1, tokens_per_pass // (context + 2 * len(chunks[at])))
        yield chunks[at : at + n]
        at += n


def _interventions(
    samples: Samples,
    chunk: Int[np.ndarray, " chunk"],
    window: int,
    firings: Firings,
    written: Written,
    null: LatentNull,
) -> Interventions:
    """Each sample's own direction, then the null's for each."""
    own = written.directions[torch.from_numpy(samples.latent[chunk].astype(np.int64))]
    own = own * torch.from_numpy(samples.value[chunk])[:, None]
    # Seeded by what it is drawn for, so that neither the order nor the size of passes changes the null.
    random = null.latents(own, samples.latent[chunk], written, window, int(chunk[0]))
    position = np.tile(firings.position[samples.row[chunk]], 2)
    return Interventions(window, position, torch.cat([own, random]))
