"""What the read-offs of Universal AND are held against, and their figure."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.tools.checks import Check, check, mean_interval, not_measured
from polyseme.zoo.tools.stack import Draws
from polyseme.zoo.universal_and.networks import (
    PAPER,
    UniversalAndConfig,
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
"""Networks of each seed: the closed forms are held to 2%, and single networks scatter by more."""
ENUMERABLE = 20
"""Up to this many active features all their sets are summed over."""


def sampled_reads(
    config: UniversalAndConfig,
) -> tuple[Float[Tensor, "instance pair"], dict[str, Bool[Tensor, "instance pair"]]]:
    """Read-offs of every pair, fresh networks and inputs, and which pairs have both, one or none on."""
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


def reads_table(config: UniversalAndConfig, reporter: Reporter) -> Sequence[Check]:  # noqa: ARG001
    """Sampled read-offs against the closed forms, and these against a sum over every set."""
    s, q = config.active, config.q
    expected = expected_reads(s, q)
    read, cases = sampled_reads(config)
    n = len(read)
    checks: list[Check] = []
    name = "largest difference between the closed forms and the sum over every set of active features"
    if s <= ENUMERABLE:
        worst = max(abs(expected[case] - value) for case, value in enumerated_reads(s, q).items())
        checks.append(
            check(
                name,
                worst,
                reference="0 (≤ 1e-12)",
                source="derived",
                paper=PAPER,
                at_most=1e-12,
                n=2**s,
                n_unit="sets",
            )
        )
    else:
        why = f"2^{s} sets are too many to sum over"
        checks.append(not_measured(name, reference="0 (≤ 1e-12)", source="derived", paper=PAPER, why=why))
    for case, on in cases.items():
        mean, interval = mean_interval(case_means(read, on).numpy())
        checks.append(
            check(
                f"mean read-off, {case} on (s = {s}, d = {config.n_neurons}, q = {q:g})",
                mean,
                reference=f"{FORMULAS[case]} = {expected[case]:.4f} ± 2%",
                source="derived",
                paper=PAPER,
                at_least=0.98 * expected[case],
                at_most=1.02 * expected[case],
                interval=interval,
                n=n,
            )
        )
    one = torch.where(cases["one"], read - expected["one"], math.nan)
    spread, interval = mean_interval(one.square().nanmean(-1).numpy())
    # The variance is averaged over the networks, then its root taken: a mean of roots would come out low.
    reference = deviation(s, q, config.n_neurons)
    exact = exact_deviation(s, q, config.n_neurons)
    low, high = math.sqrt(max(0.0, interval.low)), math.sqrt(max(0.0, interval.high))
    checks.append(
        check(
            "standard deviation of the read-off with one on",
            math.sqrt(spread),
            reference=f"√((s − 1)(1 − q)/(dq)) = {reference:.4f} ± 5%",
            source="derived",
            paper=PAPER,
            at_least=0.95 * reference,
            at_most=1.05 * reference,
            interval=interval.model_copy(update={"low": low, "high": high}),
            n=n,
            note=f"with the number of shared neurons itself drawn, Bin(d, q²): {exact:.4f}",
        )
    )
    return checks


def reads_over_active(config: UniversalAndConfig, reporter: Reporter) -> Any:
    """Read-off against the number of active features: closed forms, and the sampled mean ± standard deviation."""
    from matplotlib.figure import Figure

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
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (case, points) in enumerate(measured.items()):
        mean, spread = zip(*points, strict=True)
        axes.errorbar(counts, mean, spread, fmt="o", markersize=4, color=f"C{colour}", capsize=2)
        exact = [expected_reads(s, config.q)[case] for s in counts]
        axes.plot(counts, exact, color=f"C{colour}", label=f"{case} on: {FORMULAS[case]}")
    axes.set(xlabel="active features s", ylabel="read-off (mean ± standard deviation over pairs)", ylim=(0, None))
    axes.set_title(f"Universal AND: d = {config.n_neurons:,}, q = {config.q:g}, {COPIES * len(config.seeds)} networks")
    axes.legend(frameon=False)
    return figure
