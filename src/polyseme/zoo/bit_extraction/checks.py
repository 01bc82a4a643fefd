"""Checks of bit extraction: the labels, linear probes of every layer, and the diagnosis; its figure."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.causal.directions import linear_probe
from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.diagnosis import DiagnosisConfig, diagnose
from polyseme.zoo.bit_extraction.toy import BitExtractionToy, LookUp, inputs, labels, wired, wiring
from polyseme.zoo.tools.checks import Check, Line, Value, fill, share
from polyseme.zoo.tools.figures import panels

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
        shuffled = [table[torch.randperm(n, generator=generator)] for _ in range(N_SHUFFLES)]
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
    image = right.imshow(unrolled, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    on = table[: config.n_columns].nonzero()[:, 0]
    right.scatter(torch.full_like(on, unrolled.shape[1]), on, s=10, color="tab:red", clip_on=False)
    right.set(xlabel="tent maps", ylabel="column")
    right.set_title("a, in the first row of the table (red: label 1)", fontsize=10)
    figure.colorbar(image, ax=right, fraction=0.05)
    return figure
