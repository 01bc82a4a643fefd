"""Checks of the read-offs of Universal AND, and their figure."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.tools.checks import Check, Line, Value, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.universal_and.toy import (
    UniversalAndToy,
    active_inputs,
    deviation,
    enumerated_reads,
    exact_deviation,
    expected_reads,
    pairs,
    reads,
)

FORMULAS = {"both": "1 + (s − 2)q", "one": "(s − 1)q", "none": "sq − 1 + (1 − q)^s"}
COPIES = 16
"""Networks for each seed: the tolerance of the closed forms is 2%, and single networks vary by more."""
ENUMERABLE = 20
"""Number of active features up to which all their sets are summed over."""
ENUMERATED = Line(
    "largest difference between the closed forms and the sum over every set of active features",
    "0 (≤ 1e-12)",
    at_most=1e-12,
    source="derived",
    n_unit="sets",
)
READ = Line(
    "mean read-off, {case} on (s = {s}, d = {d}, q = {q:g})",
    "{formula} = {target:.4f} ± 2%",
    relative=0.02,
    source="derived",
)
DEVIATION = Line(
    "standard deviation of the read-off with one on",
    "√((s − 1)(1 − q)/(dq)) = {target:.4f} ± 5%",
    relative=0.05,
    source="derived",
)


def sampled_reads(
    config: UniversalAndToy,
) -> tuple[Float[Tensor, "instance pair"], dict[str, Bool[Tensor, "instance pair"]]]:
    """Read-offs of every pair in new networks on new inputs, and which pairs have both, one or none on."""
    first, second = pairs(config.n_features)
    read: list[Tensor] = []
    on: list[Tensor] = []
    for copy in range(COPIES):
        seeds = tuple(derive_seed(seed, "reads", copy) for seed in config.seeds)
        x = active_inputs(Draws(seeds, "input"), 1, config.n_features, config.active)[:, 0]
        read.append(reads(config, x, seeds))
        on.append(x[:, first] + x[:, second])
    counts = torch.cat(on)
    return torch.cat(read), {"both": counts == 2, "one": counts == 1, "none": counts == 0}


def case_means(read: Float[Tensor, "instance pair"], case: Bool[Tensor, "instance pair"]) -> Float[Tensor, " instance"]:
    """Mean read-off of a case in every network; pairs that no neuron shares are left out."""
    return torch.where(case, read, math.nan).nanmean(-1)


def reads_table(config: UniversalAndToy, reporter: Reporter) -> list[Check]:  # noqa: ARG001
    """Sampled read-offs compared with the closed forms, and these with a sum over every set."""
    s, q, d = config.active, config.q, config.n_neurons
    expected = expected_reads(s, q)
    read, cases = sampled_reads(config)
    why = "" if s <= ENUMERABLE else f"2^{s} sets are too many to sum over"
    worst = math.nan if why else max(abs(expected[case] - v) for case, v in enumerated_reads(s, q).items())
    checks = [ENUMERATED.fill(Value(worst, 2**s), why)]
    for case, on in cases.items():
        found = mean(case_means(read, on))
        words: dict[str, Any] = {"case": case, "formula": FORMULAS[case], "s": s, "d": d, "q": q}
        checks.append(READ.fill(found, target=expected[case], **words))
    one = torch.where(cases["one"], read - expected["one"], math.nan)
    # The root of the mean variance over the networks: a mean of roots would be too low.
    variance = mean(one.square().nanmean(-1))
    assert variance.interval is not None
    low, high = (math.sqrt(max(0.0, end)) for end in (variance.interval.low, variance.interval.high))
    interval = variance.interval.model_copy(update={"low": low, "high": high})
    note = f"with the number of shared neurons itself drawn, Bin(d, q²): {exact_deviation(s, q, d):.4f}"
    return [
        *checks,
        DEVIATION.fill(Value(math.sqrt(variance.value), len(read), interval, note), target=deviation(s, q, d)),
    ]


def reads_over_active(config: UniversalAndToy, reporter: Reporter) -> Any:
    """Read-off over the number of active features: closed forms, and the sampled mean ± standard deviation."""
    counts = list(range(2, min(config.n_features - 2, 12) + 1))
    progress = reporter.task("read-offs", len(counts), "numbers of active features")
    measured: dict[str, list[tuple[float, float]]] = {case: [] for case in FORMULAS}
    for i, s in enumerate(counts):
        read, cases = sampled_reads(config.model_copy(update={"active": s}))
        for case, on in cases.items():
            values = read[on]
            values = values[~values.isnan()]
            measured[case].append((float(values.mean()), float(values.std())))
        progress.update(i + 1)
    figure, (axes,) = panels(1, width=6, height=4)
    for colour, (case, points) in enumerate(measured.items()):
        mean, spread = zip(*points, strict=True)
        axes.errorbar(counts, mean, spread, fmt="o", markersize=4, color=f"C{colour}", capsize=2)
        exact = [expected_reads(s, config.q)[case] for s in counts]
        axes.plot(counts, exact, color=f"C{colour}", label=f"{case} on: {FORMULAS[case]}")
    axes.set(xlabel="active features s", ylabel="read-off (mean ± standard deviation over pairs)", ylim=(0, None))
    axes.set_title(f"Universal AND: d = {config.n_neurons:,}, q = {config.q:g}, {COPIES * len(config.seeds)} networks")
    axes.legend(frameon=False)
    return figure
