"""Bit extraction: random labels looked up by a deep, narrow ReLU network, with no label readable on the way.

Index (row, column) → label. All labels of a row are the binary digits of one number, its code: in float64 the network
picks the code of its row (one hat function a row) and unrolls it by tent maps T(a) = min(2a, 2 − 2a), one for each
column up to its own; the next digit is 1[a > ½]. Every number is a dyadic fraction, so float64 computes it exactly.
Bartlett et al. 2019 give the construction (bit extraction) with shifts in the place of tents; after a shift the first
digit is a linear function of the rest of the code, after a tent it is not. The columns' tents are the last ones, so
that all examples are done at once, and two more follow in the last layer: before it no label can be read linearly.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from polyseme.causal.directions import linear_probe
from polyseme.core.config import Seeds
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.core.site import Site
from polyseme.diagnosis import DiagnosisConfig, diagnose
from polyseme.nulls.shuffled_labels import ShuffledLabels
from polyseme.zoo.tools.checks import Check, Experiment, Line, Value, fill, share
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.toy import Entry, Sample, Toy, TrainedToy, Truth

PADS = 2
"""Random digits before a row's labels: as many tents as the last layer does at once."""
ONE = "1"
"""The constant, among the units a unit reads."""
Layer = dict[str, dict[str, float]]
"""Name of each unit to the units of the layer before that it reads, with their weights."""


class LookUp(nn.Module):
    """A ReLU network in float64 with these widths of input and hidden layers; `units.i` is layer i after its ReLU."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(i, o, dtype=torch.float64) for i, o in pairwise(widths))
        self.units = nn.ModuleList(nn.ReLU() for _ in self.maps)
        self.head = nn.Linear(widths[-1], 1, dtype=torch.float64)

    def forward(self, bits: Float[Tensor, "row bit"]) -> Float[Tensor, "row 1"]:
        x = bits.double()
        for weights, relu in zip(self.maps, self.units, strict=True):
            x = relu(weights(x))
        return self.head(x)


class BitExtractionToy(Toy):
    """Look-up tables of 2^(row_bits + column_bits) labels, one a seed."""

    title: ClassVar[str] = "bit extraction"
    paper: ClassVar[str] = "bit extraction of Bartlett et al. 2019, Nearly-tight VC-dimension bounds"

    row_bits: int = Field(default=5, ge=1, le=8)
    """Number of input bits that choose a code, in 2^row_bits layers."""
    column_bits: int = Field(default=5, ge=1, le=5)
    """Number of input bits that choose a digit of the code; float64 has room for 2^5 digits."""
    seeds: Seeds = tuple(range(8))
    """Seeds of the labels."""

    @property
    def n_rows(self) -> int:
        """Number of codes."""
        return 2**self.row_bits

    @property
    def n_columns(self) -> int:
        """Number of labels in a code."""
        return 2**self.column_bits

    @property
    def n_bits(self) -> int:
        """Width of the input."""
        return self.row_bits + self.column_bits

    def build(self) -> LookUp:
        return LookUp([self.n_bits, *(len(layer) for layer in wiring(self, np.zeros(self.n_rows))[:-1])])

    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """One network a seed, wired by hand."""
        names = (*(f"bit {i}" for i in range(self.n_bits)), "label")
        middle = Site(path=f"units.{self.n_rows + 1 + self.n_columns // 2}")
        truth = Truth(middle, names, computed_at="head", cause="compositional")
        toys: list[TrainedToy] = []
        for seed in self.seeds:
            table, module = labels(self, seed), wired(self, seed)
            with torch.no_grad():
                wrong = float(((module(inputs(self))[:, 0] > 0) != table).double().mean())
            toys.append(TrainedToy(module, truth, partial(self._draw, table), seed, {}, loss=wrong, ceiling=0.0))
        return toys

    def _draw(self, table: Bool[Tensor, " index"], n: int, generator: torch.Generator) -> Sample:
        index = torch.randint(len(table), (n,), generator=generator)
        bits = inputs(self)[index]
        return Sample(inputs=bits, features=torch.cat([bits, table[index, None].double()], dim=1))


def inputs(config: BitExtractionToy) -> Float[Tensor, "index bit"]:
    """Every index as bits 0 and 1, the row's first, the highest first."""
    n = config.n_bits
    return (torch.arange(2**n)[:, None] >> torch.arange(n - 1, -1, -1) & 1).double()


def labels(config: BitExtractionToy, seed: int) -> Bool[Tensor, " index"]:
    """A fair coin for every index."""
    return torch.rand(2**config.n_bits, generator=make_generator(seed, "labels")) < 0.5


def codes(digits: Bool[Tensor, "row digit"]) -> Float[np.ndarray, " row"]:
    """The number of each row whose digit j is 1[Tʲ(a) > ½], exact, and as far from ½ as its last digit allows."""
    a = torch.full((len(digits),), 0.5, dtype=torch.float64)
    for digit in digits.T.flip(0):
        a = torch.where(digit, 1 - a / 2, a / 2)
    return a.numpy()


def wired(config: BitExtractionToy, seed: int) -> LookUp:
    """The network that looks up the labels of a seed."""
    pads = torch.rand(config.n_rows, PADS, generator=make_generator(seed, "pads")) < 0.5
    layers = wiring(config, codes(torch.cat([pads, labels(config, seed).reshape(config.n_rows, -1)], dim=1)))
    module = config.build()
    before = [f"bit {i}" for i in range(config.n_bits)]
    with torch.no_grad():
        for layer, linear in zip(layers, [*module.maps, module.head], strict=True):
            assert isinstance(linear, nn.Linear)
            linear.weight.zero_()
            linear.bias.zero_()
            for i, reads in enumerate(layer.values()):
                for name, weight in reads.items():
                    if name == ONE:
                        linear.bias[i] = weight
                    else:
                        linear.weight[i, before.index(name)] = weight
            before = list(layer)
    return module


def wiring(config: BitExtractionToy, code: Float[np.ndarray, " row"]) -> list[Layer]:
    """What every unit reads, layer by layer, the output last; at most six units a layer. `code` is that of each row."""
    n_columns = config.n_columns
    row = {f"bit {i}": 2.0 ** (config.row_bits - 1 - i) for i in range(config.row_bits)}
    column = {f"bit {config.row_bits + i}": 2.0 ** (config.column_bits - 1 - i) for i in range(config.column_bits)}
    layers: list[Layer] = []
    a: dict[str, float] = {}
    for j, value in enumerate(code.tolist()):
        # The hat ReLU(row − j + 1) − 2 ReLU(row − j) + ReLU(row − j − 1) is 1 in row j and 0 in every other.
        layer = {"row": row, "column": column, "a": a}
        layer |= {f"hinge {h}": {**row, ONE: h - 1 - j} for h in (2, 1, 0)}
        layers.append(layer if a else {name: reads for name, reads in layer.items() if name != "a"})
        a = {**({"a": 1.0} if a else {}), "hinge 2": value, "hinge 1": -2 * value, "hinge 0": value}
        row, column = {"row": 1.0}, {"column": 1.0}

    def gate(step: int) -> Layer:
        # Column c does its c tents last: at step s where c ≥ n − s.
        return {"from": {**column, ONE: 1.0 + step - n_columns}, "past": {**column, ONE: float(step - n_columns)}}

    layers.append({"a": a, "column": column, **gate(1)})
    a = {"a": 1.0}
    for step in range(1, n_columns):
        off = {**a, "from": 2.0, "past": -2.0, ONE: -2.0}  # a − 2 (1 − gate): below 0 where the gate is shut
        layer = {"a": a, "rise": off, "fold": {**off, ONE: -2.5}, "column": column}
        layers.append(layer | (gate(step + 1) if step + 1 < n_columns else {}))
        a = {"a": 1.0, "rise": 1.0, "fold": -4.0}  # a + gate (a − 4 ReLU(a − ½)): the tent map where it is open
    layers.append({f"over {k}/4": {**a, ONE: -k / 4} for k in range(4)})
    scale = 2.0 ** (n_columns + 1)  # the last label's a is 2^-(n + 1) from ½, or more
    hinges = {"over 0/4": 4.0, "over 1/4": -8.0, "over 2/4": 8.0, "over 3/4": -8.0}
    layers.append({"logit": {**{name: w * scale for name, w in hinges.items()}, ONE: -scale / 2}})
    return layers


N_SHUFFLES = 400
LOOKED_UP = (
    Line("{n} random labels looked up right", "100%", at_least=1, n_unit="labels"),
    Line("width of the widest hidden layer", "≤ 6", at_most=6),
    Line("smallest |logit|", "≥ 1, exactly", at_least=1, source="derived"),
)
PROBED = (
    Line(
        "best linear label probe before the last layer",
        "≤ {limit}shuffled labels' 99th percentile",
        n_unit="held-out labels",
    ),
    Line("linear label probe of the last layer", "≥ 0.95", at_least=0.95, n_unit="held-out labels"),
)
DIAGNOSED = Line("diagnosed as compositional, or left open", "all", at_least=1)


@torch.no_grad()
def hidden(module: LookUp, x: Float[Tensor, "index bit"]) -> list[Float[Tensor, "index unit"]]:
    """The input and every hidden layer."""
    seen = [x]
    for weights, relu in zip(module.maps, module.units, strict=True):
        seen.append(relu(weights(seen[-1])))
    return seen


def probed(config: BitExtractionToy) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, "shuffle layer"]]:
    """Held-out accuracy of a linear label probe at the input and each hidden layer, mean over the seeds; its null.

    A least-squares probe of every unit of the layer, fitted to half of the indices and scored on the other half; the
    null is the same probe with the labels shuffled among the indices.
    """
    n = 2**config.n_bits
    total = np.zeros((1 + N_SHUFFLES, config.n_rows + config.n_columns + 2))
    for seed in config.seeds:
        generator = make_generator(seed, "probe")
        table = labels(config, seed)
        shuffled = [ShuffledLabels(seed=derive_seed(seed, "probe", i)).labels(table) for i in range(N_SHUFFLES)]
        targets = torch.stack([table, *shuffled], dim=1)
        fit, held = torch.randperm(n, generator=generator).chunk(2)
        for layer, x in enumerate(hidden(wired(config, seed), inputs(config))):
            read = linear_probe(x[fit], targets[fit].double())(x[held]) > 0.5
            total[:, layer] += (read == targets[held]).double().mean(0).numpy()
    mean = total / len(config.seeds)
    return mean[0], mean[1:]


def look_up(config: BitExtractionToy, reporter: Reporter) -> list[Check]:
    """Every label right, in how narrow a network."""
    toys = config.train(reporter)
    n, networks, x = 2**config.n_bits, len(toys), inputs(config)
    right = round(sum(1 - toy.loss for toy in toys) * n)
    width = max(len(layer) for layer in wiring(config, np.zeros(config.n_rows)))
    with torch.no_grad():
        margin = min(float(toy.module(x).abs().min()) for toy in toys)
    return fill(LOOKED_UP, (share(right, n * networks), Value(width, networks), Value(margin, networks)), n=n)


def probes(config: BitExtractionToy, _: Reporter) -> list[Check]:
    """No linear probe reads the label before the last layer; after it, one does."""
    n = 2**config.n_bits
    if n < 128:
        return fill(PROBED, (), f"{n} labels are too few to score a probe of six units on half of them", limit="")
    accuracy, null = probed(config)
    best_null = null[:, :-1].max(1)
    limit = float(np.quantile(best_null, 0.99))
    worst, held = int(accuracy[:-1].argmax()), n // 2 * len(config.seeds)
    note = (
        f"best of {len(accuracy) - 1} layers, layer {worst}; mean over them {accuracy[:-1].mean():.3f}; "
        f"the best of shuffled labels {best_null.mean():.3f} on average"
    )
    before, after = (
        Value(read, held, share(round(read * held), held).interval)
        for read in (float(accuracy[worst]), float(accuracy[-1]))
    )
    before = replace(before, note=note, holds=before.value <= limit)
    return fill(PROBED, (before, after), limit=f"{limit:.3f}, ")


def verdict(config: BitExtractionToy, reporter: Reporter) -> list[Check]:
    """The diagnosis of a layer half-way through the tents, from network and data alone."""
    answers = [
        diagnose(
            toy.network(),
            toy.truth.site,
            toy.draw(4096, make_generator(toy.seed, "diagnosis")).inputs,
            DiagnosisConfig(seed=derive_seed(toy.seed, "diagnosis")),
            reporter,
        ).answer
        for toy in config.train(reporter)
    ]
    note = ", ".join(f"{answer}: {answers.count(answer)}" for answer in sorted(set(answers)))
    return [DIAGNOSED.fill(share([answer in ("compositional", "abstain") for answer in answers], note=note))]


def probes_figure(config: BitExtractionToy, _: Reporter) -> Any:
    """What a linear probe reads of the label at each layer, and how the code of one row unrolls."""
    accuracy, null = probed(config)
    figure, (left, right) = panels(2, width=10, height=3.6)
    layers = np.arange(len(accuracy))
    low, high = np.quantile(null, [0.01, 0.99], axis=0)
    left.fill_between(layers, low, high, color="0.85", label="shuffled labels, 1% to 99%")
    left.plot(layers, accuracy, color="tab:blue", label=f"labels, mean of {len(config.seeds)} networks")
    left.axvline(config.n_rows + 0.5, color="0.6", linewidth=0.8, linestyle=":")
    left.text(config.n_rows, 0.97, "code picked ", ha="right", va="top", color="0.4", fontsize=8)
    left.text(config.n_rows + 1, 0.97, " code unrolled", ha="left", va="top", color="0.4", fontsize=8)
    left.set(xlabel="hidden layer (0: input)", ylabel="held-out accuracy of a linear probe", ylim=(0.4, 1.02))
    left.legend(frameon=False, loc="center left")

    seed, start = config.seeds[0], config.n_rows + 1
    table, seen = labels(config, seed), hidden(wired(config, seed), inputs(config))
    unrolled = torch.stack([x[: config.n_columns, 0] for x in seen[start:-1]], dim=1)
    image = right.imshow(unrolled.numpy(), aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    on = table[: config.n_columns].nonzero()[:, 0]
    right.scatter(torch.full_like(on, unrolled.shape[1]), on, s=10, color="tab:red", clip_on=False)
    right.set(xlabel="tent maps", ylabel="column")
    right.set_title("a, in the first row of the table (red: label 1)", fontsize=10)
    figure.colorbar(image, ax=right, fraction=0.05)
    return figure


ENTRY = Entry(
    BitExtractionToy,
    (
        Experiment("look-up", "fast", "every label right, six units wide", look_up),
        Experiment("probes", "fast", "no linear probe reads the label before the last layer", probes, version=2),
        Experiment("verdict", "slow", "the diagnosis says compositional, or abstains", verdict),
    ),
    {"probes": probes_figure},
)
