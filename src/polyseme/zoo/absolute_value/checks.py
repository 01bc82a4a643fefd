"""What absolute value in superposition is held against, and its figure."""

from collections.abc import Sequence
from typing import Any

import torch

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.absolute_value.networks import PAPER, SOLVED, AbsoluteValueConfig, Trained, train
from polyseme.zoo.tools.checks import Check, check, mean_interval, not_measured, share_interval
from polyseme.zoo.tools.neurons import MONOSEMANTIC, largest_share
from polyseme.zoo.tools.stack import OptimiserConfig

SPARSE = 0.01
"""From this density down, more features than pairs of neurons are claimed."""


def pairs(config: AbsoluteValueConfig, reporter: Reporter) -> Sequence[Check]:
    """Three features, six neurons, no sparsity: every feature gets a pair ReLU(x), ReLU(−x)."""
    seeds = tuple(derive_seed(seed, "pairs", copy) for seed in config.seeds for copy in range(4))
    config = config.model_copy(
        update={
            "n_features": 3,
            "n_hidden": 6,
            "density": (1.0,),
            "importance": 1.0,
            "seeds": seeds,
            "batch": 256,
            "optimiser": OptimiserConfig(steps=5_000, lr=3e-3),
        }
    )
    stack = train(config, reporter)
    name, reference = "lowest-loss network has one neuron for each sign of each feature, and no others", "1 (yes)"
    if not stack.trained.any():
        why = "no network did better than the output 0"
        return [not_measured(name, reference=reference, source="published", paper=PAPER, why=why)]
    found = paired(stack)
    share, interval = share_interval(int(found.sum()), len(seeds))
    # An output that is under 0 for every input gets no gradient back: its feature is lost from then on.
    dead = int((stack.unexplained > 1).any(-1).sum())
    return [
        check(
            name,
            float(found[stack.loss.nan_to_num(torch.inf).argmin()]),
            reference=reference,
            source="published",
            paper=PAPER,
            at_least=1.0,
            n=len(seeds),
            note=f"{share:.2f} [{interval.low:.2f}, {interval.high:.2f}] of all; {dead} lost an output for good",
        )
    ]


def paired(stack: Trained) -> torch.Tensor:
    """Whether every neuron hears one feature and each feature has a neuron for either sign, `[instance]`."""
    W = stack.W_in
    one = (largest_share(W) >= MONOSEMANTIC).all(-1)
    strongest = W.abs().argmax(-1)
    sign = W.gather(-1, strongest[..., None])[..., 0] > 0
    halves = torch.zeros(len(W), 2 * W.shape[-1])
    halves.scatter_add_(-1, 2 * strongest + sign, torch.ones(strongest.shape))
    return one & (halves == 1).all(-1)


def densities(config: AbsoluteValueConfig, reporter: Reporter) -> Sequence[Check]:
    """Dense data: the m/2 most important features, a pair each; sparse data: more features than pairs."""
    stack = train(config, reporter)
    room = config.n_hidden // 2
    checks: list[Check] = []
    for density in config.density:
        chosen = stack.density == torch.tensor(density)
        if density < 1 and density > SPARSE:
            continue
        dense = density == 1
        solved_name = f"features solved at p = {density:g}, the network furthest from the claim"
        neurons_name = f"share of monosemantic neurons at p = {density:g}"
        solved_reference = f"exactly {room}" if dense else f"> {room}"
        neurons_reference = "≥ 0.90" if dense else "< 0.50"
        if not stack.trained[chosen].all():
            for name, reference in ((solved_name, solved_reference), (neurons_name, neurons_reference)):
                why = "a network did no better than the output 0"
                checks.append(not_measured(name, reference=reference, source="proposed", paper=PAPER, why=why))
            continue
        solved, n = stack.solved[chosen], int(chosen.sum())
        furthest = solved[(solved - room).abs().argmax()] if dense else solved.min()
        strictly = (stack.unexplained[chosen] <= 0.1).sum(-1).float()
        mean, _ = mean_interval(solved.numpy())
        share, share_bounds = mean_interval(stack.monosemantic[chosen].numpy())
        checks += [
            check(
                solved_name,
                float(furthest),
                reference=solved_reference,
                source="proposed",
                paper=PAPER,
                at_least=room if dense else room + 1,
                at_most=room if dense else config.n_features,
                n=n,
                unit="features",
                note=f"solved: FVU of |x| < {SOLVED:g}; mean {mean:.1f}; at FVU ≤ 0.1 {float(strictly.mean()):.1f}",
            ),
            check(
                neurons_name,
                share,
                reference=neurons_reference,
                source="proposed",
                paper=PAPER,
                at_least=0.9 if dense else 0.0,
                at_most=1.0 if dense else 0.5 - 1e-9,
                interval=share_bounds,
                n=n,
                note=f"monosemantic: one feature holds ≥ {MONOSEMANTIC:g} of a neuron's squared weights",
            ),
        ]
    return checks


def over_density(config: AbsoluteValueConfig, reporter: Reporter) -> Any:
    """Features solved and share of monosemantic neurons over the density."""
    from matplotlib.figure import Figure

    stack, n = train(config, reporter), len(config.seeds)
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, values in ((upper, stack.solved), (lower, stack.monosemantic)):
        axes.semilogx(stack.density, values, ".", color="C0", alpha=0.5)
        axes.semilogx(config.density, values.reshape(-1, n).mean(1), color="C0")
    upper.axhline(config.n_hidden / 2, color="0.4", linestyle="--", label="pairs of neurons")
    upper.set(ylabel=f"features solved (FVU < {SOLVED:g})", ylim=(0, None))
    upper.set_title(f"|x| of {config.n_features} features by {config.n_hidden} neurons")
    upper.legend(frameon=False)
    lower.set(xlabel="density p", ylabel="monosemantic neurons (share)", ylim=(0, 1.02))
    lower.invert_xaxis()
    return figure
