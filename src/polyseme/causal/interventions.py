"""What the network predicts at a token when one vector there is changed: two ways to run it, one answer.

An intervention (window w, position t, vector v) subtracts v from the site's vector at that one position and reads
the prediction made there; with several sites v holds what is subtracted at each, side by side. Rows run it literally,
one copy of the window each. Ghosts run hundreds in one pass: the window's clean tokens are followed by ghost tokens,
each a copy of one of them (same id, same position) that attends to the clean tokens before its original and to itself,
and to no other ghost; no clean token attends to a ghost. In a causal network the prediction at t depends on positions
≤ t only, and the positions before t are untouched by a change at t, so a ghost computes exactly what its own full
forward pass would. Blocks below the site are run once, on the clean tokens alone: there every copy is what its original
is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

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
        position: where each one changes the vectors and reads the prediction.
        vectors: what each one subtracts, at all sites side by side.
    """

    window: int
    position: Int[np.ndarray, " intervention"]
    vectors: Float[Tensor, "intervention d"]

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class Outcome:
    """What each intervention did to the prediction of the next token.

    Attributes:
        ce: cross-entropy of the window's next token, edited minus clean, in nats.
        kl: KL(clean ‖ edited) of the predicted distributions, in nats.
    """

    ce: Float[np.ndarray, " intervention"]
    kl: Float[np.ndarray, " intervention"]


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
) -> list[Outcome]:
    """Run interventions on several windows, each exact and by itself.

    Args:
        network: run without gradients.
        windows: the tokens; every position intervened on must have a next token in its window.
        sites: where vectors are changed, all in the same pass.
        todo: interventions, window by window; with ghosts all of them share one pass.
        route: how to run them (`choose_route`).
        tokens_per_pass: for rows: tokens a forward pass, but for `MIN_ROWS`.
    """
    with torch.inference_mode():
        if route == "ghosts":
            return _ghosts(network, windows, sites, todo)
        return [_rows(network, windows, sites, one, tokens_per_pass) for one in todo]


def _ghosts(network: Network, windows: Windows, sites: Sequence[Site], todo: Sequence[Interventions]) -> list[Outcome]:
    device, context = network.device, windows.tokens.shape[1]
    n_ghosts = max(len(one) for one in todo)
    rows = [one.window for one in todo]
    # A window with fewer interventions is filled up with unread ghosts of its first token.
    position = torch.zeros(len(todo), n_ghosts, dtype=torch.int64)
    real = torch.zeros(len(todo), n_ghosts, dtype=torch.bool)
    for b, one in enumerate(todo):
        position[b, : len(one)] = torch.from_numpy(one.position.astype(np.int64))
        real[b, : len(one)] = True
    tokens = torch.from_numpy(windows.tokens[rows].astype(np.int64))
    clean = torch.zeros(len(todo), context, dtype=torch.bool)
    clean[real.nonzero()[:, 0], position[real]] = True

    def subtract(x: Tensor, part: slice) -> Tensor:
        for b, one in enumerate(todo):
            x[b, context : context + len(one)] -= one.vectors[:, part].to(x)
        return x

    def with_ghosts(stream: Tensor) -> Tensor:
        copied = position.to(stream.device)[..., None].expand(-1, -1, stream.shape[-1])
        return torch.cat([stream, stream.gather(1, copied)], dim=1)

    logits_at = torch.cat([clean, real], dim=1)
    output = network.run(
        torch.cat([tokens, tokens.gather(1, position)], dim=1).to(device),
        edits=_at_each(network, sites, subtract),
        attention_mask=ghost_mask(context, position.to(device)),
        position_ids=torch.cat([torch.arange(context).expand(len(todo), -1), position], dim=1).to(device),
        logits_at=logits_at.to(device),
        # Below the site a ghost is what its original is.
        prefix=network.prefix(tokens.to(device), sites).mapped(with_ghosts),
    )
    logp = output.logits.float().log_softmax(-1)
    n_clean = clean.sum(1).tolist()
    outcomes: list[Outcome] = []
    start = 0
    for b, one in enumerate(todo):
        at = position[b, : len(one)]
        middle, end = start + n_clean[b], start + n_clean[b] + len(one)
        place = clean[b].cumsum(0)[at] - 1
        outcomes.append(_outcome(logp[start:middle], logp[middle:end], place, tokens[b][at + 1]))
        start = end
    return outcomes


def _at_each(network: Network, sites: Sequence[Site], edit: Callable[[Tensor, slice], Tensor]) -> dict[Site, Edit]:
    """The edit at every site; it is given the slice of the joined vectors that belongs to the site."""

    def of_part(part: slice) -> Edit:
        return lambda x: edit(x, part)

    return {site: of_part(part) for site, part in side_by_side(sites, network.width).items()}


def ghost_mask(context: int, position: Int[Tensor, "batch ghost"]) -> Float[Tensor, "batch 1 query key"]:
    """The additive attention mask of clean tokens followed by ghosts: 0 where a query sees a key, else the minimum.

    Args:
        context: clean tokens.
        position: the clean token each ghost copies.
    """
    batch, n_ghosts = position.shape
    total, key = context + n_ghosts, torch.arange(context, device=position.device)
    seen = torch.zeros(batch, total, total, dtype=torch.bool, device=position.device)
    seen[:, :context, :context] = key[None, :] <= key[:, None]
    seen[:, context:, :context] = key < position[..., None]
    ghost = torch.arange(context, total, device=position.device)
    seen[:, ghost, ghost] = True
    blocked = torch.full((), torch.finfo(torch.float32).min, dtype=torch.float32, device=position.device)
    return torch.where(seen, torch.zeros((), dtype=torch.float32, device=position.device), blocked)[:, None]


def _rows(
    network: Network, windows: Windows, sites: Sequence[Site], one: Interventions, tokens_per_pass: int
) -> Outcome:
    device, context = network.device, windows.tokens.shape[1]
    tokens = torch.from_numpy(windows.tokens[one.window].astype(np.int64))
    at = torch.from_numpy(one.position.astype(np.int64))
    places, place = at.unique(return_inverse=True)
    clean = torch.zeros(1, context, dtype=torch.bool)
    clean[0, places] = True
    inputs = tokens[None].to(device)
    prefix = network.prefix(inputs, sites)
    reference = network.run(inputs, logits_at=clean.to(device), prefix=prefix).logits.float().log_softmax(-1)
    # Nothing after the token an intervention changes has a part in its prediction: rows end at their pass's last one.
    order = at.argsort(stable=True)
    ce, kl = np.empty(len(one), dtype=np.float32), np.empty(len(one), dtype=np.float32)
    done = 0
    while done < len(one):
        n_rows = max(MIN_ROWS, tokens_per_pass // (int(at[order[done]]) + 1))
        some = order[done : done + n_rows]
        done, length, row = done + len(some), int(at[some[-1]]) + 1, torch.arange(len(some))
        logits_at = torch.zeros(len(row), length, dtype=torch.bool)
        logits_at[row, at[some]] = True

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
        known, where = place[some].unique(return_inverse=True)
        after = output.logits.float().log_softmax(-1)
        part = _outcome(reference[known.to(device)], after, where, tokens[at[some] + 1])
        ce[some.numpy()], kl[some.numpy()] = part.ce, part.kl
    return Outcome(ce, kl)


def _outcome(
    before: Float[Tensor, "place vocab"],
    after: Float[Tensor, "intervention vocab"],
    place: Int[Tensor, " intervention"],
    target: Int[Tensor, " intervention"],
) -> Outcome:
    """What interventions did, from the clean log-probabilities of some places and the edited ones of each."""
    place, target = place.to(after.device), target.to(after.device)
    p = before.exp()
    negentropy = (p * before).sum(-1)
    crossed = p[place].mul_(after).sum(-1)
    ce = before[place, target] - after.gather(1, target[:, None])[:, 0]
    kl = (negentropy[place] - crossed).clamp_min(0)  # rounding can leave −1e-7 where nothing changed
    return Outcome(ce.cpu().numpy(), kl.cpu().numpy())
