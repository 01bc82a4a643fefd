"""Circuits of ANDs: one Universal AND layer read by the next, without correcting errors in between."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.tools.checks import Check, Line, fill, mean, share
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.universal_and.toy import UniversalAndToy, mask_blocks

COMMENT = "comments on Vaintrob, Mendel & Hänni 2024"
CHAINED = (
    Line(
        "second layer's error without a bias offset, over that with one",
        "> 1",
        at_least=1 + 1e-9,
        paper=COMMENT,
        n_unit="circuits",
    ),
    Line(
        "layers a circuit of ANDs survives by an offset, beyond those without",
        "≥ 0",
        at_least=0,
        paper=COMMENT,
        n_unit="circuits",
        unit="layers",
    ),
    Line(
        "circuits that fail within {depth} layers in spite of the offset",
        "> 0.5: pairs that share a variable stay correlated",
        at_least=0.5,
        paper=COMMENT,
        n_unit="circuits",
    ),
)


@dataclass(frozen=True)
class Survival:
    """Circuits run layer by layer.

    Attributes:
        error: root mean square of read-off − truth over the gates of each layer.
        separated: 1 while, in this layer and all before, every gate that is on reads above every gate that is off.
    """

    error: Float[Tensor, "layer instance"]
    separated: Float[Tensor, "layer instance"]

    @property
    def depth(self) -> Float[Tensor, " instance"]:
        """Layers a circuit survives."""
        return self.separated.sum(0)


def wiring(draws: Draws, width: int, s: int) -> tuple[Int[Tensor, "instance gate"], Int[Tensor, "instance gate"]]:
    """Two inputs of every gate: the first s take different pairs of the first s inputs, the others any other pair.

    With the first s inputs on, exactly the first s gates are: a circuit keeps its activity whatever its depth, and what
    fails with depth is the noise alone. Each layer draws its own masks: the order of the inputs does not matter.
    """
    on = torch.tensor(list(combinations(range(s), 2)))
    off = torch.tensor([pair for pair in combinations(range(width), 2) if pair[1] >= s])
    if s > 2:
        chosen_on = on[draws.uniform(len(on)).argsort(-1)[:, :s]]
    else:
        chosen_on = on[torch.zeros(len(draws), s, dtype=torch.long)]
    chosen_off = off[draws.uniform(len(off)).argsort(-1)[:, : width - s]]
    gates = torch.cat([chosen_on, chosen_off], dim=1)
    return gates[..., 0], gates[..., 1]


def run(config: UniversalAndToy, reporter: Reporter) -> dict[str, Survival]:
    """Run every seed's circuit as it is, and with a bias offset after each layer.

    The offset of a layer is one number, which takes the mean read-off of the gates that are off, over all networks, to
    0. It depends on the construction's statistics, not on which gates are on.
    """
    n, width, s = len(config.seeds), config.circuit_width, config.active
    truth = torch.zeros(width)
    truth[:s] = 1
    start = truth.expand(n, width).clone()
    values = {"without": start, "with": start}
    errors: dict[str, list[Tensor]] = {kind: [] for kind in values}
    alive: dict[str, list[Tensor]] = {kind: [] for kind in values}
    progress = reporter.task("circuits", config.depth, "layers")
    for layer in range(config.depth):
        draws = Draws([derive_seed(seed, "universal and", "wiring", layer) for seed in config.seeds])
        first, second = wiring(draws, width, s)
        read = layer_reads(config, values, first, second, layer)
        values = {"without": read["without"], "with": read["with"] - read["with"][:, s:].nanmean()}
        for kind, value in values.items():
            # A gate that no neuron shares cannot be read: it reads 0, whether it is on or off.
            value = values[kind] = value.nan_to_num(0.0)
            errors[kind].append((value - truth).square().mean(-1).sqrt())
            clear = (value[:, :s].amin(-1) > value[:, s:].amax(-1)).float()
            alive[kind].append(clear * alive[kind][-1] if layer else clear)
        progress.update(layer + 1)
    return {kind: Survival(torch.stack(errors[kind]), torch.stack(alive[kind])) for kind in values}


def layer_reads(
    config: UniversalAndToy,
    values: dict[str, Tensor],
    first: Int[Tensor, "instance gate"],
    second: Int[Tensor, "instance gate"],
    layer: int,
) -> dict[str, Tensor]:
    """Read-offs of the gates of one layer for each kind of input, in the same networks."""
    n, width = first.shape
    summed = {kind: torch.zeros(n, width) for kind in values}
    shared = torch.zeros(n, width)
    for block in mask_blocks(config, config.seeds, "layer", str(layer), width=width):
        masks = block.float()
        index = (-1, masks.shape[1], -1)
        gates = masks.gather(-1, first[:, None].expand(*index)) * masks.gather(-1, second[:, None].expand(*index))
        shared += gates.sum(1)
        for kind, value in values.items():
            hidden = torch.relu(masks @ value[..., None] - 1)
            summed[kind] += (gates.mT @ hidden)[..., 0]
    return {kind: total / torch.where(shared > 0, shared, math.nan) for kind, total in summed.items()}


def chaining(config: UniversalAndToy, reporter: Reporter) -> list[Check]:
    """Error of the second layer with and without a bias offset, and how far circuits survive."""
    runs = run(config, reporter)
    plain, offset = runs["without"], runs["with"]
    about = f"{config.circuit_width} gates a layer, {config.active} on, d = {config.n_neurons}, q = {config.q:g}"
    errors = f"errors {float(plain.error[1].mean()):.3g} and {float(offset.error[1].mean()):.3g}"
    depths = f"mean depth {float(plain.depth.mean()):.2f} without and {float(offset.depth.mean()):.2f} with"
    found = (
        mean(plain.error[1] / offset.error[1], f"{errors}; {about}"),
        mean(offset.depth - plain.depth, f"{depths}; {about}"),
        share(offset.depth < config.depth, note=about),
    )
    return fill(CHAINED, found, depth=config.depth)


def survival_over_depth(config: UniversalAndToy, reporter: Reporter) -> Any:
    """Share of the circuits that survive to each depth, with a bias offset and without, for three q."""
    figure, (axes,) = panels(1, width=6, height=4)
    depth = range(1, config.depth + 1)
    for colour, q in enumerate((config.q / 2, config.q, min(0.9, 2 * config.q))):
        runs = run(config.model_copy(update={"q": q}), reporter)
        for kind, style in (("without", "--"), ("with", "-")):
            share = runs[kind].separated.mean(1)
            axes.plot(
                depth, share, style, marker="o", markersize=4, color=f"C{colour}", label=f"q = {q:g}, {kind} offset"
            )
    axes.set(xlabel="depth (layers)", ylabel="circuits with all gates separated (share)", ylim=(-0.03, 1.03))
    axes.set_title(f"Circuits of {config.circuit_width} ANDs a layer, {config.active} on, d = {config.n_neurons:,}")
    axes.legend(frameon=False, fontsize="small")
    return figure
