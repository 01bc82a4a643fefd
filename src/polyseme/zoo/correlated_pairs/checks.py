"""Checks of correlated pairs: the losses of two ways to pack features, and which one training finds; its figure."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from polyseme.core.progress import Reporter
from polyseme.zoo.correlated_pairs.toy import CorrelatedPairsToy, held, partners, sharing, sharing_neurons, train
from polyseme.zoo.superposition.toy import ReluOutput
from polyseme.zoo.tools.checks import NOTHING, Check, Line, Value, fill, mean, share
from polyseme.zoo.tools.figures import panels

PACKED = Line(
    "loss of a dimension with {what}, p = {p:g}",
    "{formula} = {target:.5f} (± 0.01%)",
    within=1e-12,
    relative=1e-4,
    source="derived",
)
CHANGE = Line(
    "correlation at which half of the pairs share a direction",
    "ρ* = (4 − 7p)/(4 − 3p) = {target:.3f} (± 15%)",
    relative=0.15,
    source="derived",
)
AT_ZERO = Line("pairs that share one at ρ = 0", "0", at_most=0, source="derived", n_unit="pairs")
_PAIRS, _NEURONS = (
    "pairs that share a direction at ρ = {rho:g}",
    "neurons that hold one pair and nothing else at ρ = {rho:g}",
)
CORRELATED = (Line(_PAIRS, "≥ 0.90", 0.9, 1, n_unit="pairs"), Line(_NEURONS, "≥ 0.90", 0.9, 1, n_unit="neurons"))
INDEPENDENT = (
    Line(_PAIRS, "< 0.90", 0, math.nextafter(0.9, 0), n_unit="pairs"),
    Line(_NEURONS, "< 0.90", 0, math.nextafter(0.9, 0), n_unit="neurons"),
)


def opposite_loss(p: float) -> float:
    """Loss of one dimension with two independent features at +1 and −1: p²/3, whatever the correlation of others."""
    return p * p / 3


def shared_loss(p: float, rho: float) -> float:
    """Loss of one dimension with a pair at (1, 1)/√2: (1 − ρ)(p/3 − p²/4)."""
    return (1 - rho) * (p / 3 - p * p / 4)


def boundary(p: float) -> float:
    """ρ* = (4 − 7p)/(4 − 3p), where both cost the same; 0 for p ≥ 4/7."""
    return max(0.0, (4 - 7 * p) / (4 - 3 * p))


def dimension_loss(w: tuple[float, float], p: float, rho: float, *, n: int = 1_000) -> float:
    """Loss of two features of correlation ρ in one dimension, by the midpoint rule over the four ways to be on.

    Args:
        w: what each writes to the dimension; no biases.
        p: probability that a feature is on.
        rho: their correlation.
        n: points an axis.
    """
    network = ReluOutput(torch.tensor([w], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    axis, zero = (torch.arange(n, dtype=torch.float64) + 0.5) / n, torch.zeros(n, dtype=torch.float64)
    ways = (
        (rho * p, torch.stack([axis, axis], dim=-1)),
        ((1 - rho) * p * p, torch.cartesian_prod(axis, axis)),
        ((1 - rho) * p * (1 - p), torch.stack([axis, zero], dim=-1)),
        ((1 - rho) * p * (1 - p), torch.stack([zero, axis], dim=-1)),
    )
    with torch.no_grad():
        return sum(chance * float((x - network(x)).square().sum(-1).mean()) for chance, x in ways)


def algebra(config: CorrelatedPairsToy, _: Reporter) -> list[Check]:
    """Loss of a dimension with two opposite features of different pairs, and with a pair added up."""
    p, half = config.density, math.sqrt(0.5)
    ways = [("two opposite features", "p²/3", dimension_loss((1.0, -1.0), p, 0.0), opposite_loss(p))]
    for rho in config.rho:
        what = f"a pair added up at ρ = {rho:g}"
        ways.append((what, "(1 − ρ)(p/3 − p²/4)", dimension_loss((half, half), p, rho), shared_loss(p, rho)))
    return [PACKED.fill(Value(v), target=loss, what=what, p=p, formula=formula) for what, formula, v, loss in ways]


def change(config: CorrelatedPairsToy, reporter: Reporter) -> list[Check]:
    """Where trained pairs begin to share a direction, beside ρ*."""
    star = boundary(config.density)
    if star <= 0 or config.n_hidden != config.n_pairs:
        return _unchanged(star, "derived for p < 4/7 and as many dimensions as pairs")
    rho = tuple(np.unique(np.clip([0.0, *(star * f for f in (0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2))], 0, 1)).tolist())
    stack = train(config.model_copy(update={"rho": rho, "hidden": "linear"}), reporter)
    if stack.untrained:
        return _unchanged(star, stack.untrained)
    shares = sharing(stack.parameters["W"]).double().mean(-1).reshape(len(rho), -1)
    found = crossing(np.asarray(rho), shares.mean(-1).numpy())
    spread = mean([crossing(np.asarray(rho), column) for column in shares.T.numpy()])
    each = ", ".join(f"{s:.2f} at {r:.2f}" for r, s in zip(rho, shares.mean(-1), strict=True))
    return [
        CHANGE.fill(Value(found, len(stack), spread.interval, f"share of pairs: {each}"), target=star),
        AT_ZERO.fill(share(sharing(stack.parameters["W"][: len(config.seeds)]))),
    ]


def _unchanged(star: float, why: str) -> list[Check]:
    return [CHANGE.fill(NOTHING, why, target=star), AT_ZERO.fill(NOTHING, why)]


def crossing(rho: Float[np.ndarray, " n"], share: Float[np.ndarray, " n"]) -> float:
    """Where the share first stays at ½ or more, interpolated; NaN where it never does."""
    above = share >= 0.5
    if not above[-1]:
        return math.nan
    i = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    if i == 0:
        return float(rho[0])
    low, high = share[i - 1], share[i]
    return float(rho[i - 1] + (rho[i] - rho[i - 1]) * (0.5 - low) / (high - low))


def neurons(config: CorrelatedPairsToy, reporter: Reporter) -> list[Check]:
    """With a hidden layer of neurons, the two features of a pair share a direction, and a neuron."""
    stack = train(config.model_copy(update={"hidden": "relu"}), reporter)
    checks: list[Check] = []
    for rho in config.rho:
        here = stack.where(rho=rho)
        W = stack.parameters["W"][here]
        between = int((sharing(W).all(-1) & ~held(W).all(-1)).sum())
        rotated = f"{between} of {len(here)} networks have every pair in one direction, but a direction between neurons"
        bad = int((~stack.trained[here]).sum())
        why = "" if config.n_hidden == config.n_pairs else "there are not as many neurons as pairs"
        why = f"{bad} networks did not train" if bad else why
        found = () if why else (share(sharing(W)), share(sharing_neurons(W), note=rotated))
        checks += fill(CORRELATED if rho >= 0.5 else INDEPENDENT, found, why, rho=rho)
    return checks


def change_figure(config: CorrelatedPairsToy, reporter: Reporter) -> Any:
    """Cosine within pairs against the correlation, beside ρ*."""
    rho = tuple(np.linspace(0, 1, 11).round(2).tolist())
    stack = train(config.model_copy(update={"rho": rho, "hidden": "linear"}), reporter)
    cosine = partners(stack.parameters["W"]).reshape(len(rho), -1)
    figure, (ax,) = panels(1, width=5.5, height=4)
    each = f"a pair of one of {len(config.seeds)} networks"
    ax.plot(np.repeat(rho, cosine.shape[1]), cosine.flatten(), ".", color="tab:blue", alpha=0.4, label=each)
    ax.plot(rho, cosine.median(-1).values, color="tab:blue", label="median")
    ax.axvline(boundary(config.density), color="0.5", linestyle="--", label="ρ* = (4 − 7p)/(4 − 3p)")
    ax.set(xlabel="correlation ρ of a pair", ylabel="cosine of the pair's vectors", ylim=(-1.05, 1.05))
    ax.set_title(f"{config.n_pairs} pairs in {config.n_hidden} dimensions, p = {config.density:g}")
    ax.legend(frameon=False)
    return figure
