"""What the network predicts when one vector is changed at one token: two ways to run it, one answer.

An intervention (window w, position t, vector v) subtracts v from the site's vector at that one position and reads
the prediction made there, and those made at some later positions too; with several sites v holds what is subtracted at
each, side by side. Rows run it literally, one copy of the window each. Ghosts run hundreds in one pass: the window's
clean tokens are followed by chains of ghost tokens, one chain an intervention, each ghost a copy of a clean token (same
id, same position). The first ghost of a chain copies t and is changed, the others copy the tokens after t. A ghost
attends to the clean tokens before t and to the ghosts of its own chain up to itself, and no clean token attends to a
ghost. In a causal network a prediction depends on positions up to its own only, and the positions before t are
untouched by a change at t, so a chain computes exactly what a full forward pass of its own would. Blocks below the site
are run once, on the clean tokens alone: there every copy is what its original is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.causal.meaning import REFERENCES
from polyseme.core.binding import side_by_side
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.networks import Edit, Network

Route = Literal["ghosts", "rows"]


@dataclass(frozen=True)
class Interventions:
    """Interventions on one window.

    Attributes:
        window: row in the windows.
        position: where each one changes the vectors.
        vectors: what each one subtracts, at all sites side by side.
        later: at how many positions after that one the prediction is read too.
        stands_for: which of the latents its expected effect is of; empty where nothing is expected.
    """

    window: int
    position: Int[np.ndarray, " intervention"]
    vectors: Float[Tensor, "intervention d"]
    later: Int[np.ndarray, " intervention"]
    stands_for: Int[np.ndarray, " intervention_or_0"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.position)

    @property
    def chains(self) -> "Chains":
        """The predictions that are read, intervention by intervention."""
        lengths = torch.from_numpy(self.later.astype(np.int64)) + 1
        start = lengths.cumsum(0) - lengths
        of = torch.repeat_interleave(lengths)
        origin = torch.from_numpy(self.position.astype(np.int64))[of]
        return Chains(of, origin, origin + torch.arange(len(of)) - start[of], start)


class Chains(NamedTuple):
    """The predictions that are read of some interventions.

    Attributes:
        of: the intervention of each.
        origin: where that changes the vectors.
        position: where the prediction is made.
        start: the first of each intervention.
    """

    of: Int[Tensor, " read"]
    origin: Int[Tensor, " read"]
    position: Int[Tensor, " read"]
    start: Int[Tensor, " intervention"]


@dataclass(frozen=True)
class Outcome:
    """What each intervention did to the predictions of next tokens.

    Attributes:
        ce: cross-entropy of the window's next token at the changed position, edited minus clean, in nats.
        kl: KL(clean ‖ edited) of the distributions predicted there, in nats.
        ce_later, kl_later: the same summed over the later positions that are read.
        expected: correlation of Δ = log p(clean) − log p(edited) at the changed position with both lifts of what the
            intervention stands for (`Lifts`); NaN without lifts.
    """

    ce: Float[np.ndarray, " intervention"]
    kl: Float[np.ndarray, " intervention"]
    ce_later: Float[np.ndarray, " intervention"]
    kl_later: Float[np.ndarray, " intervention"]
    expected: Float[np.ndarray, "intervention reference"]


@dataclass(frozen=True)
class Lifts:
    """What some latents stand for, as Δ is correlated with it.

    Every token counts as often as it occurs in the text, in each correlation alike. Weighed by what the network
    predicts at a firing the tokens would count otherwise at every firing, and a token that it takes for nearly
    impossible there could have any part in the sum: on `pylm` 1% of all firings had an effect above 50 then, with a
    median of 1.3.

    Attributes:
        q: P(next token | the latent fires) less a reference, divided by the standard deviation of the lift q / P under
            P, so that its product with a Δ of unit variance is their correlation.
        weights: P(next token) in the text.
    """

    q: Float[Tensor, "latent reference vocabulary"]
    weights: Float[Tensor, " vocabulary"]


LEAST_SPREAD = 1e-6
"""Standard deviation of log-probabilities, in nats, below which a change is rounding: its Δ is divided by this."""
_AT_ONCE = 2**18
"""Log-probabilities that are compared at once on a CPU, so that they stay in its cache."""
MIN_ROWS = 8
"""Rows a pass at least, however long they are: a recurrent network takes as long for one row as for a few."""


def choose_route(network: Network, wanted: Literal["auto", "ghosts", "rows"] = "auto") -> Route:
    """The fastest exact way to run this network.

    Raises:
        InputError: the network does not predict the next token, or ghosts are asked of one that ignores masks.
    """
    if not network.predicts_tokens:
        raise InputError(
            f"causal effects are measured on predictions of the next token, and this network makes none: "
            f"{network.no_prediction}",
            fix="use a causal language model, or leave the causal tests out",
        )
    if wanted == "ghosts" and not network.supports_4d_mask:
        raise InputError("this network does not honour a mask per query and key", fix="set route to rows or auto")
    if wanted == "auto":
        return "ghosts" if network.supports_4d_mask else "rows"
    return wanted


def intervene(
    network: Network,
    windows: Windows,
    sites: Sequence[Site],
    todo: Sequence[Interventions],
    *,
    route: Route,
    tokens_per_pass: int,
    lifts: Lifts | None = None,
) -> list[Outcome]:
    """Run interventions on several windows, each exact and by itself.

    Args:
        network: run without gradients.
        windows: the tokens; every position whose prediction is read must have a next token in its window.
        sites: where vectors are changed, all in the same pass.
        todo: interventions, window by window; with ghosts all of them share one pass.
        route: how to run them (`choose_route`).
        tokens_per_pass: for rows: tokens a forward pass, but for `MIN_ROWS`.
        lifts: what is expected, on the network's device.
    """
    with torch.inference_mode():
        if route == "ghosts":
            return _ghosts(network, windows, sites, todo, lifts)
        return [_rows(network, windows, sites, one, tokens_per_pass, lifts) for one in todo]


def _ghosts(
    network: Network,
    windows: Windows,
    sites: Sequence[Site],
    todo: Sequence[Interventions],
    lifts: Lifts | None,
) -> list[Outcome]:
    device, context = network.device, windows.tokens.shape[1]
    chains = [one.chains for one in todo]
    n_ghosts = max(len(chain.of) for chain in chains)
    # A window with fewer ghosts is filled up with unread ones of its first token, each a chain of its own.
    position = torch.zeros(len(todo), n_ghosts, dtype=torch.int64)
    origin = torch.zeros_like(position)
    chain_of = torch.arange(n_ghosts).repeat(len(todo), 1) + n_ghosts
    real = torch.zeros(len(todo), n_ghosts, dtype=torch.bool)
    for b, chain in enumerate(chains):
        n = len(chain.of)
        position[b, :n], origin[b, :n], chain_of[b, :n], real[b, :n] = chain.position, chain.origin, chain.of, True
    tokens = torch.from_numpy(windows.tokens[[one.window for one in todo]].astype(np.int64))
    clean = torch.zeros(len(todo), context, dtype=torch.bool)
    clean[real.nonzero()[:, 0], position[real]] = True

    def subtract(x: Tensor, part: slice) -> Tensor:
        for b, (one, chain) in enumerate(zip(todo, chains, strict=True)):
            x[b, context + chain.start.to(x.device)] -= one.vectors[:, part].to(x)
        return x

    def with_ghosts(stream: Tensor) -> Tensor:
        copied = position.to(stream.device)[..., None].expand(-1, -1, stream.shape[-1])
        return torch.cat([stream, stream.gather(1, copied)], dim=1)

    logits_at = torch.cat([clean, real], dim=1)
    output = network.run(
        torch.cat([tokens, tokens.gather(1, position)], dim=1).to(device),
        edits=_at_each(network, sites, subtract),
        attention_mask=ghost_mask(context, position.to(device), origin.to(device), chain_of.to(device)),
        position_ids=torch.cat([torch.arange(context).expand(len(todo), -1), position], dim=1).to(device),
        logits_at=logits_at.to(device),
        # Below the site a ghost is what its original is.
        prefix=network.prefix(tokens.to(device), sites).mapped(with_ghosts),
    )
    logp = output.logits.float().log_softmax(-1)
    outcomes: list[Outcome] = []
    start = 0
    for b, (one, chain) in enumerate(zip(todo, chains, strict=True)):
        middle = start + int(clean[b].sum())
        end = middle + len(chain.of)
        place = clean[b].cumsum(0)[chain.position] - 1
        target = tokens[b][chain.position + 1]
        q = None if lifts is None else (lifts, _latent_of(one, chain, slice(None)))
        outcomes.append(_outcome(chain, *_measured(logp[start:middle], logp[middle:end], place, target, q)))
        start = end
    return outcomes


def _at_each(network: Network, sites: Sequence[Site], edit: Callable[[Tensor, slice], Tensor]) -> dict[Site, Edit]:
    """The edit at every site; it is given the slice of the joined vectors that belongs to the site."""

    def of_part(part: slice) -> Edit:
        return lambda x: edit(x, part)

    return {site: of_part(part) for site, part in side_by_side(sites, network.width).items()}


def ghost_mask(
    context: int,
    position: Int[Tensor, "batch ghost"],
    origin: Int[Tensor, "batch ghost"],
    chain: Int[Tensor, "batch ghost"],
) -> Float[Tensor, "batch 1 query key"]:
    """The additive attention mask of clean tokens followed by ghosts: 0 where a query sees a key, else the minimum.

    Args:
        context: clean tokens.
        position: the clean token each ghost copies.
        origin: the position that its chain starts at.
        chain: which chain it belongs to.
    """
    batch, n_ghosts = position.shape
    total, key = context + n_ghosts, torch.arange(context, device=position.device)
    seen = torch.zeros(batch, total, total, dtype=torch.bool, device=position.device)
    seen[:, :context, :context] = key[None, :] <= key[:, None]
    seen[:, context:, :context] = key < origin[..., None]
    own = chain[:, :, None] == chain[:, None, :]
    seen[:, context:, context:] = own & (position[:, None, :] <= position[:, :, None])
    blocked = torch.full((), torch.finfo(torch.float32).min, dtype=torch.float32, device=position.device)
    return torch.where(seen, torch.zeros((), dtype=torch.float32, device=position.device), blocked)[:, None]


def _rows(
    network: Network,
    windows: Windows,
    sites: Sequence[Site],
    one: Interventions,
    tokens_per_pass: int,
    lifts: Lifts | None,
) -> Outcome:
    device, context = network.device, windows.tokens.shape[1]
    tokens = torch.from_numpy(windows.tokens[one.window].astype(np.int64))
    chains, at = one.chains, torch.from_numpy(one.position.astype(np.int64))
    last = at + torch.from_numpy(one.later.astype(np.int64))
    places, place = chains.position.unique(return_inverse=True)
    clean = torch.zeros(1, context, dtype=torch.bool)
    clean[0, places] = True
    inputs = tokens[None].to(device)
    prefix = network.prefix(inputs, sites)
    reference = network.run(inputs, logits_at=clean.to(device), prefix=prefix).logits.float().log_softmax(-1)
    # Nothing after the last prediction that is read has a part in it: rows end at the last one of their pass.
    order = last.argsort(stable=True)
    n = len(chains.of)
    measured = [np.full(shape, np.nan, dtype=np.float32) for shape in (n, n, (n, len(REFERENCES)))]
    done = 0
    while done < len(one):
        n_rows = max(MIN_ROWS, tokens_per_pass // (int(last[order[done]]) + 1))
        some = order[done : done + n_rows].sort().values
        done, length, row = done + len(some), int(last[some].max()) + 1, torch.arange(len(some))
        reads = torch.isin(chains.of, some).nonzero()[:, 0]
        logits_at = torch.zeros(len(row), length, dtype=torch.bool)
        logits_at[torch.searchsorted(some, chains.of[reads]), chains.position[reads]] = True

        def subtract(x: Tensor, part: slice, some: Tensor = some, row: Tensor = row) -> Tensor:
            x[row, at[some]] -= one.vectors[some][:, part].to(x)
            return x

        def repeat(stream: Tensor, row: Tensor = row, length: int = length) -> Tensor:
            return stream[:, :length].expand(len(row), -1, -1)

        output = network.run(
            inputs[:, :length].expand(len(row), -1),
            edits=_at_each(network, sites, subtract),
            logits_at=logits_at.to(device),
            prefix=prefix.mapped(repeat),
        )
        after, target = output.logits.float().log_softmax(-1), tokens[chains.position[reads] + 1]
        q = None if lifts is None else (lifts, _latent_of(one, chains, reads))
        for whole, part in zip(measured, _measured(reference, after, place[reads], target, q), strict=True):
            whole[reads.numpy()] = part
    return _outcome(chains, *measured)


def _latent_of(one: Interventions, chains: Chains, reads: Int[Tensor, " some"] | slice) -> Int[Tensor, " some"]:
    """Whose lift each read prediction is compared with: −1 for none, after the changed position."""
    rows = torch.from_numpy(one.stands_for.astype(np.int64))[chains.of[reads]]
    return torch.where(chains.position[reads] == chains.origin[reads], rows, -1)


def _measured(
    before: Float[Tensor, "place vocab"],
    after: Float[Tensor, "read vocab"],
    place: Int[Tensor, " read"],
    target: Int[Tensor, " read"],
    expected_of: tuple[Lifts, Int[Tensor, " read"]] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ΔCE, KL and expected effects at each prediction, from its edited log-probabilities and the clean ones of places.

    Args:
        before, after: those log-probabilities.
        place: which clean ones each prediction is compared with.
        target: the actual next tokens.
        expected_of: lifts, and whose each prediction is compared with; −1 for none.
    """
    device, n = after.device, len(after)
    place, target = place.to(device), target.to(device)
    ce = before[place, target] - after.gather(1, target[:, None])[:, 0]
    kl, expected = ce.new_empty(n), ce.new_full((n, len(REFERENCES)), torch.nan)
    row = None if expected_of is None else expected_of[1].to(device)
    step = max(1, (_AT_ONCE if device.type == "cpu" else 64 * _AT_ONCE) // after.shape[1])
    for at in range(0, n, step):
        some = slice(at, at + step)
        clean = before[place[some]]
        change = clean - after[some]
        kl[some] = torch.linalg.vecdot(clean.exp(), change)
        if expected_of is None or row is None:
            continue
        lifts, compared = expected_of[0], (row[some] >= 0).nonzero()[:, 0]
        if len(compared) < len(change):
            change = change[compared]
        change -= (change @ lifts.weights)[:, None]
        along = torch.linalg.vecdot(lifts.q[row[some][compared]], change[:, None])
        spread = (change.square_() @ lifts.weights).sqrt()
        expected[at + compared] = along / spread.clamp_min(LEAST_SPREAD)[:, None]
    kl.clamp_min_(0)  # rounding can leave −1e-7 where nothing changed
    return ce.cpu().numpy(), kl.cpu().numpy(), expected.cpu().numpy()


def _outcome(chains: Chains, ce: np.ndarray, kl: np.ndarray, expected: np.ndarray) -> Outcome:
    start, of, n = chains.start.numpy(), chains.of.numpy(), len(chains.start)
    ce_later, kl_later = (np.bincount(of, x, n) - x[start] for x in (ce, kl))
    return Outcome(ce[start], kl[start], ce_later.astype(np.float32), kl_later.astype(np.float32), expected[start])
