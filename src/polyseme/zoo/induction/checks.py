"""Checks of networks of the induction task, and figures of their attention."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter
from polyseme.heads import (
    HeadScoresConfig,
    attention_patterns,
    head_scores,
    prefix_matching,
    previous_token,
    repeated_sequences,
)
from polyseme.networks import Network, load_network, zero_ablate
from polyseme.zoo.induction.toy import UNKNOWN, InductionToy, Run, answers, asked, train
from polyseme.zoo.tools.checks import NOTHING, Check, Line, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.stack import Draws

OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
N_TEST = 1_000
"""Number of sequences that a trained network is measured on."""


def _at_least(bound: float, name: str, paper: str = "") -> Line:
    return Line(name, f"≥ {bound:g}", at_least=bound, paper=paper)


TWO_LAYERS = {
    "accuracy": _at_least(0.99, "accuracy on the last token, two layers"),
    "matching": _at_least(0.8, "attention of layer 1 from the last S to what followed the first"),
    "after S": _at_least(0.8, "attention of layer 0 from M to the S before it"),
    "previous": _at_least(0.8, "previous-token score of layer 0, over all positions"),
    "prefix": _at_least(0.8, "prefix-matching score of layer 1, on repeated random sequences"),
    "drop": _at_least(0.5, "share of layer 1's matching lost without the head of layer 0"),
}
"""The line of each key of `measures`."""
GENERAL = {
    "accuracy": _at_least(0.99, "accuracy on what the period decides, two layers", OLSSON),
    "prefix": _at_least(0.8, "prefix-matching score of layer 1, on repeated random sequences", OLSSON),
    "previous": _at_least(0.8, "previous-token score of layer 0, over all positions of the same", OLSSON),
    "first": _at_least(
        0.8, "previous-token score of layer 0, over the positions that prefix matching attends to", OLSSON
    ),
    "drop": _at_least(0.5, "share of the prefix-matching score lost without the head of layer 0", OLSSON),
}
"""The line of each key of `general_measures`."""
WHY = {
    (
        "special",
        "after S",
    ): "every token after S attends to it, and nearer ones attend more: layer 1 picks the one that attends most",
    (
        "special",
        "previous",
    ): "places t and u meet in one term of the score, p_t · p_u, largest at u = t: no head of this "
    "network can attend to t − 1 wherever t is",
    ("special", "prefix"): "with one special S layer 1 learns to match S, and not tokens in general",
    ("every", "previous"): "layer 1 reads the first occurrence alone: nothing depends on what layer 0 does after the "
    "longest period",
}
"""Why a line is not met, by the kind of S and the key of the line."""
ONE_LAYER = Line("accuracy on {what}, one layer", "< 0.5: it fails", at_most=0.5)


@torch.no_grad()
def measures(config: InductionToy, network: Network, seed: int) -> dict[str, float]:
    """Accuracy and head scores of a network of two layers, on sequences that the seed draws."""
    tokens, first = (x[0] for x in config.sequences(Draws([seed], "test"), N_TEST))
    last = torch.full_like(first, config.length - 1)
    intact = attention_patterns(network, tokens)[:, :, 0]
    ablated = attention_patterns(network, tokens, edits={"layers.0": zero_ablate()})[:, :, 0]
    matching, without = (float(between(pattern, last, first + 1).mean()) for pattern in (intact[1], ablated[1]))
    scores = {(s.name, s.scope["layer"]): s.value for s in head_scores(network, repeated(config))}
    return {
        "accuracy": accuracy(network, tokens, first),
        "matching": matching,
        "after S": float(between(intact[0], first + 1, first).mean()),
        "previous": float(previous_token(intact[0]).mean()),
        "prefix": scores["prefix_matching", 1],
        "drop": 1 - without / matching,
    }


def repeated(config: InductionToy) -> HeadScoresConfig:
    """The sequences that heads are scored on: random ordinary tokens, and the same again, within the toy's length."""
    return HeadScoresConfig(length=(config.length - 1) // 2, bos=0, vocabulary=(1, config.vocabulary + 1))


@torch.no_grad()
def general_measures(config: InductionToy, network: Network, seed: int) -> dict[str, float]:
    """The same for a network that was trained on sequences that recur."""
    tokens, period = (x[0] for x in config.sequences(Draws([seed], "test"), N_TEST))
    wanted = asked(config, tokens, period)
    right = network.run(tokens).logits[:, :-1].argmax(-1) == wanted
    on = repeated(config)
    scores = {(s.name, s.scope["layer"]): s.value for s in head_scores(network, on)}
    again = repeated_sequences(on, config.n_tokens)
    first = attention_patterns(network, again)[0, :, 0, : on.length + 2, : on.length + 2]
    ablated = attention_patterns(network, again, edits={"layers.0": zero_ablate()})
    without = float(prefix_matching(ablated[1], on.length).mean())
    return {
        "accuracy": float(right.sum() / (wanted != UNKNOWN).sum()),
        "prefix": scores["prefix_matching", 1],
        "previous": scores["previous_token", 0],
        "first": float(previous_token(first).mean()),
        "drop": 1 - without / scores["prefix_matching", 1],
    }


def between(
    pattern: Float[Tensor, "row query key"], query: Int[Tensor, " row"], key: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """The attention from one place to another in each row."""
    return pattern[torch.arange(len(pattern)), query, key]


def accuracy(network: Network, tokens: Int[Tensor, "row position"], first: Int[Tensor, " row"]) -> float:
    """Share of sequences whose last S is followed by M."""
    return float((network.run(tokens).logits[:, -1].argmax(-1) == answers(tokens, first)).float().mean())


def two_layers(config: InductionToy, reporter: Reporter) -> list[Check]:
    """The task is learned by a previous-token head and a head that matches by means of it."""
    run = train(config.model_copy(update={"n_layers": 2}), reporter)
    if config.trigger == "every":
        shortest, longest = config.periods
        about = f"periods of {shortest} to {longest}, d = {config.d_model}"
        return _measured(GENERAL, run, general_measures, about)
    return _measured(TWO_LAYERS, run, measures, "loss on the last token alone")


def general(config: InductionToy, reporter: Reporter) -> list[Check]:
    """Heads that match any token, with positions before the maps, and sequences that recur with a period of their own.

    With one period for all sequences a head could attend to a fixed distance, and one layer would be enough.

    Raises:
        InputError: there are fewer ordinary tokens than the longest period has.
    """
    config = _general(config)
    return [*two_layers(config, reporter), *one_layer(config, reporter)]


def _general(config: InductionToy) -> InductionToy:
    config = config.model_copy(update={"trigger": "every", "places": "before", **dict(config.general)})
    longest = config.periods[1]
    if config.vocabulary < longest:
        raise InputError(
            f"{config.vocabulary} ordinary tokens do not fill a period of {longest} different ones",
            where="vocabulary",
            fix=f"give at least {longest}, or a length of at most {2 * config.vocabulary + 2}",
        )
    return config


def _measured(
    lines: Mapping[str, Line], run: Run, measure: Callable[[InductionToy, Network, int], dict[str, float]], about: str
) -> list[Check]:
    """Each line as a check over the networks of two layers that learned the task."""
    config = run.config
    learned = run.trained.nonzero()[:, 0].tolist()
    count = f"{len(learned)} of {len(config.seeds)} networks below a loss of {config.ceiling:.2f} nats"
    about = f"{count} after {config.optimiser.steps} steps of {config.batch} sequences, {about}"
    if not learned:
        return [line.fill(NOTHING, about) for line in lines.values()]
    example = torch.zeros(1, config.length, dtype=torch.long)
    found = [measure(config, load_network(run.module(i), example_inputs=example), i) for i in learned]
    checks: list[Check] = []
    for key, line in lines.items():
        values = [one[key] for one in found]
        why = WHY.get((config.trigger, key))
        each = f"each: {', '.join(f'{v:.3g}' for v in values)}; {about}"
        checks.append(line.fill(mean(values, f"{why}; {each}" if why else each)))
    return checks


def one_layer(config: InductionToy, reporter: Reporter) -> list[Check]:
    """The control: the same training with one layer."""
    run = train(config.model_copy(update={"n_layers": 1}), reporter)
    note = f"after {config.optimiser.steps} steps; loss {float(run.loss.mean()):.3g} nats"
    found = mean(run.accuracy[-1], note)
    if bool(torch.isnan(run.loss).any()):
        found = replace(found, value=math.nan)
    every = config.trigger == "every"
    line = replace(ONE_LAYER, paper=OLSSON if every else "")
    return [line.fill(found, what="what the period decides" if every else "the last token")]


def draw_attention(config: InductionToy, reporter: Reporter) -> Any:
    """Both heads' attention on one sequence, and accuracy along the training with two layers and with one."""
    runs = {n: train(config.model_copy(update={"n_layers": n}), reporter) for n in (2, 1)}
    best = runs[2].module(int(runs[2].loss.argmin()))
    sequences, firsts = config.sequences(Draws([0], "drawn"), 200)
    if config.trigger == "every":  # S is the last token's earlier occurrence: one period before the end
        firsts = config.length - 1 - firsts
    # The sequence of 200 whose first S is nearest to a third of its length: legible, and chosen without its pattern.
    row = int((firsts[0] - config.length // 3).abs().argmin())
    tokens, first = sequences[0, row : row + 1], int(firsts[0, row])
    patterns = attention_patterns(load_network(best, example_inputs=tokens), tokens)[:, 0, 0]
    figure, axes = panels(3, width=12, height=3.8)
    last = config.length - 1
    images = [axis.imshow(p, cmap="Blues", vmin=0, vmax=1) for axis, p in zip(axes[:2], patterns, strict=True)]
    for axis, title in zip(axes[:2], ("layer 0", "layer 1"), strict=True):
        axis.set(xlabel="attended position", title=title)
        axis.set_xticks([first, first + 1, last], ["S", "\nM", "S"])
        axis.set_yticks([first, first + 1, last], ["S     ", "M", "S"])
    axes[0].set_ylabel("position")
    axes[0].plot(first, first + 1, "o", color="tab:red", fillstyle="none", markersize=9)
    axes[1].plot(first + 1, last, "o", color="tab:red", fillstyle="none", markersize=9, clip_on=False)
    figure.colorbar(images[0], ax=axes[:2], shrink=0.8, label="attention")
    for n, colour in ((2, "tab:blue"), (1, "tab:orange")):
        axes[2].plot(runs[n].steps, runs[n].accuracy, color=colour, alpha=0.3, linewidth=0.8)
        label = f"{n} layer{'s' * (n > 1)}"
        axes[2].plot(runs[n].steps, runs[n].accuracy.mean(1), color=colour, label=label)
    axes[2].set(xlabel="step", ylabel="accuracy", ylim=(-0.02, 1.02), title="training")
    axes[2].legend(frameon=False)
    return figure


def draw_general(config: InductionToy, reporter: Reporter) -> Any:
    """The same for the experiment `general`: the heads attend one place back, and one period less one back."""
    return draw_attention(_general(config), reporter)
