"""Checks of absolute value in superposition, and its figure."""

from typing import Any

import torch

from polyseme.core.progress import Reporter
from polyseme.core.seeds import derive_seed
from polyseme.zoo.absolute_value.toy import SOLVED, AbsoluteValueToy, Trained, train
from polyseme.zoo.tools.checks import Check, Line, Value, fill, mean, share
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.neurons import MONOSEMANTIC, largest_share
from polyseme.zoo.tools.stack import OptimiserConfig

SPARSE = 0.01
"""From this density down, more features than pairs of neurons are claimed."""
PAIRS = Line(
    "lowest-loss network has one neuron for each sign of each feature, and no others",
    "1 (yes)",
    at_least=1,
    source="published",
)
_FEATURES = "features solved at p = {density:g}, the network furthest from the claim"
_NEURONS = "share of monosemantic neurons at p = {density:g}"
DENSE = (Line(_FEATURES, "exactly {room}", unit="features"), Line(_NEURONS, "≥ 0.90", at_least=0.9, at_most=1))
SPARSER = (Line(_FEATURES, "> {room}", unit="features"), Line(_NEURONS, "< 0.50", at_least=0, at_most=0.5 - 1e-9))


def pairs(config: AbsoluteValueToy, reporter: Reporter) -> list[Check]:
    """Three features, six neurons, no sparsity: every feature gets a pair ReLU(x), ReLU(−x)."""
    chosen = {
        "n_features": 3,
        "n_hidden": 6,
        "density": (1.0,),
        "importance": 1.0,
        "seeds": tuple(derive_seed(seed, "pairs", copy) for seed in config.seeds for copy in range(4)),
        "batch": 256,
        "optimiser": OptimiserConfig(steps=5_000, lr=3e-3),
    }
    stack = train(config.model_copy(update=chosen), reporter)
    if not stack.trained.any():
        return fill((PAIRS,), (), "no network did better than the output 0")
    found = paired(stack)
    # An output that is under 0 for every input gets no gradient back: its feature is lost from then on.
    dead = int((stack.unexplained > 1).any(-1).sum())
    best = float(found[stack.loss.nan_to_num(torch.inf).argmin()])
    note = f"{share(found).shown('.2f')} of all; {dead} lost an output for good"
    return [PAIRS.fill(Value(best, len(found), note=note))]


def paired(stack: Trained) -> torch.Tensor:
    """Whether every neuron hears one feature and each feature has a neuron for either sign, `[instance]`."""
    W = stack.parameters["W_in"]
    one = (largest_share(W) >= MONOSEMANTIC).all(-1)
    strongest = W.abs().argmax(-1)
    sign = W.gather(-1, strongest[..., None])[..., 0] > 0
    halves = torch.zeros(len(W), 2 * W.shape[-1])
    halves.scatter_add_(-1, 2 * strongest + sign, torch.ones(strongest.shape))
    return one & (halves == 1).all(-1)


def densities(config: AbsoluteValueToy, reporter: Reporter) -> list[Check]:
    """Dense data: the m/2 most important features, a pair each; sparse data: more features than pairs."""
    stack = train(config, reporter)
    room = config.n_hidden // 2
    checks: list[Check] = []
    for density in config.density:
        if density < 1 and density > SPARSE:
            continue
        chosen = stack.where(density=density)
        dense, solved = density == 1, stack.solved[chosen]
        furthest = solved[(solved - room).abs().argmax()] if dense else solved.min()
        strictly = float((stack.unexplained[chosen] <= 0.1).sum(-1).float().mean())
        found = (
            Value(
                float(furthest),
                len(solved),
                note=f"solved: FVU of |x| < {SOLVED:g}; mean {mean(solved).value:.1f}; at FVU ≤ 0.1 {strictly:.1f}",
                holds=bool(furthest == room if dense else furthest > room),
            ),
            mean(
                stack.monosemantic[chosen],
                f"monosemantic: one feature holds ≥ {MONOSEMANTIC:g} of a neuron's squared weights",
            ),
        )
        why = "" if stack.trained[chosen].all() else "a network did no better than the output 0"
        checks += fill(DENSE if dense else SPARSER, found, why, density=density, room=room)
    return checks


def over_density(config: AbsoluteValueToy, reporter: Reporter) -> Any:
    """Features solved and share of monosemantic neurons over the density."""
    stack, n = train(config, reporter), len(config.seeds)
    figure, (upper, lower) = panels(2, width=6, height=2.75, columns=1)
    for axes, values in ((upper, stack.solved), (lower, stack.monosemantic)):
        axes.semilogx(stack.grid.values("density"), values, ".", color="C0", alpha=0.5)
        axes.semilogx(config.density, values.reshape(-1, n).mean(1), color="C0")
        axes.invert_xaxis()
    upper.axhline(config.n_hidden / 2, color="0.4", linestyle="--", label="pairs of neurons")
    upper.set(ylabel=f"features solved (FVU < {SOLVED:g})", ylim=(0, None))
    upper.set_title(f"|x| of {config.n_features} features by {config.n_hidden} neurons")
    upper.legend(frameon=False)
    lower.set(xlabel="density p", ylabel="monosemantic neurons (share)", ylim=(0, 1.02))
    return figure
