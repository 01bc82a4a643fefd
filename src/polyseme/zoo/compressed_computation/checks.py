"""Checks of compressed computation, and its figure."""

from dataclasses import replace
from typing import Any

import torch

from polyseme.core.progress import Reporter
from polyseme.zoo.compressed_computation.toy import (
    CompressedComputationToy,
    Trained,
    in_top_eigenspace,
    inputs,
    naive_loss,
    one_hot_floor,
    one_hot_loss,
    train,
)
from polyseme.zoo.tools.checks import Check, Line, Value, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws

MIXINGS = (0.02, 0.03)
"""Where the gain is claimed."""
SAME_ERROR = Line(
    "largest difference between the residual MLP's error and the plain MLP's on labels ReLU(x) + Mx",
    "0 (≤ 1e-12, relative)",
    at_most=1e-12,
    source="published",
)
NAIVE = Line(
    "naive loss L/p a feature: as many features as neurons solved, the others left out",
    "(1 − m/n)/6 = {target:.6f}{twelfth}",
    within=1e-12,
    source="derived",
    n_unit="features",
)
FLOOR = Line(
    "closed-form floor of the loss over the loss reached, p → 0",
    "≤ 1",
    at_most=1 + 1e-5,
    source="derived",
    paper="Eckart & Young 1936, on the outputs at single features",
)
_GAIN = "gain over the naive loss at mixing σ = {sigma:g}, {at}"
NO_GAIN = Line(_GAIN, "≤ 0.01", at_least=-1, at_most=0.01)
GAIN = Line(_GAIN, "> 0", at_least=1e-6, at_most=1)
EIGENSPACE = Line(
    "share of the read directions in M's top-{m} eigenspace at σ = {sigma:g}, {at}",
    "lie mainly there: ≥ {half_way:g} (half of the way from chance, {chance:g}, to 1)",
    source="published",
)


def identity(config: CompressedComputationToy, reporter: Reporter) -> list[Check]:  # noqa: ARG001
    """The residual MLP's error on x + ReLU(x) is the plain MLP's on ReLU(x) + Mx; the naive loss is (1 − m/n)/6."""
    n, m = config.n_features, config.n_hidden
    draws = Draws(config.seeds, "compressed computation", "identity")
    embedding = draws.normal(n, config.d_embed).double()
    embedding = embedding / embedding.norm(dim=-1, keepdim=True)
    W_in, W_out = draws.normal(m, config.d_embed).double(), draws.normal(config.d_embed, m).double()
    x = inputs(draws, config.density, 256, n).double()
    stream = x @ embedding
    residual = (stream + torch.relu(stream @ W_in.mT) @ W_out.mT) @ embedding.mT
    M = torch.eye(n, dtype=torch.float64) - embedding @ embedding.mT
    plain = torch.relu(x @ (W_in @ embedding.mT).mT) @ (embedding @ W_out).mT
    gap = (residual - x - torch.relu(x)) - (plain - torch.relu(x) - x @ M)
    first = torch.eye(n, dtype=torch.float64)[:m]
    naive = float(one_hot_loss(first, first.T, torch.zeros(n, n, dtype=torch.float64)))
    twelfth = " = 1/12" if 2 * m == n else ""
    return [
        SAME_ERROR.fill(Value(float(gap.abs().max() / residual.abs().max()), len(config.seeds))),
        NAIVE.fill(Value(naive, n), target=naive_loss(config), twelfth=twelfth),
    ]


def one_hot(config: CompressedComputationToy, reporter: Reporter) -> list[Check]:
    """In the limit p → 0 the loss is exact, has a floor in closed form, and shows where the gain comes from."""
    config, stack = _at_the_limit(config, (0.0, *MIXINGS), reporter)
    under = float((one_hot_floor(stack.M, config.n_hidden) / stack.loss).max())
    return [FLOOR.fill(Value(under, len(stack))), *gains(config, stack, "p → 0")]


def _at_the_limit(
    config: CompressedComputationToy, mixing: tuple[float, ...], reporter: Reporter
) -> tuple[CompressedComputationToy, Trained]:
    optimiser = config.optimiser.model_copy(update={"steps": min(config.optimiser.steps, 2_000), "lr": 1e-2})
    config = config.model_copy(update={"mixing": mixing, "optimiser": optimiser})
    return config, train(config, reporter, one_hot=True)


def sparse(config: CompressedComputationToy, reporter: Reporter) -> list[Check]:
    """The documented density, with several features on at once."""
    config = config.model_copy(update={"mixing": (0.0, *MIXINGS)})
    return gains(config, train(config, reporter), f"p = {config.density:g}")


def gains(config: CompressedComputationToy, stack: Trained, at: str) -> list[Check]:
    """Gain over the naive loss and place of the read directions, for every mixing of a stack."""
    place, gain = in_top_eigenspace(stack.parameters["W_in"], stack.M), 1 - stack.loss / naive_loss(config)
    chance = config.n_hidden / config.n_features
    half_way = (1 + chance) / 2
    words: dict[str, Any] = {"m": config.n_hidden, "at": at, "chance": chance, "half_way": half_way}
    checks: list[Check] = []
    for sigma in config.mixing:
        chosen, line = stack.where(mixing=sigma), GAIN if sigma else NO_GAIN
        why = "" if stack.trained[chosen].all() else "a network did no better than the output 0"
        # The claim is about every network: the worst of them is compared.
        here = gain[chosen]
        note = f"the worst network; mean {mean(here).shown('.4f')}"
        checks.append(
            line.fill(
                Value(float(here.min() if sigma else here.max()), len(here), note=note), why, sigma=sigma, **words
            )
        )
        if sigma and not why:
            found = mean(place[chosen])
            checks.append(EIGENSPACE.fill(replace(found, holds=found.value >= half_way), sigma=sigma, **words))
    return checks


def loss_over_mixing(config: CompressedComputationToy, reporter: Reporter) -> Any:
    """L/p a feature over the mixing: the exact limit p → 0 beside its floor and the naive loss."""
    mixing = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04)
    config, stack = _at_the_limit(config, mixing, reporter)
    n = len(config.seeds)
    floor = one_hot_floor(stack.M, config.n_hidden).reshape(-1, n)
    loss = stack.loss.reshape(-1, n)
    figure, (axes,) = panels(1, width=6, height=4)
    axes.axhline(naive_loss(config), color="0.4", linestyle="--", label="naive: as many features as neurons")
    axes.plot(mixing, floor.mean(1), color="0.4", label="floor (Eckart–Young)")
    axes.plot(mixing, loss, ".", color="C0", markersize=5)
    axes.plot(mixing, loss.mean(1), color="C0", label=f"trained, {n} seeds")
    axes.set(xlabel="mixing σ", ylabel="L/p a feature", title=f"{config.n_features} ReLUs, {config.n_hidden} neurons")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure
