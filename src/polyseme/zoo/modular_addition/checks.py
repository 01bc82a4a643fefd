"""Checks of networks of modular addition, and the paper's figures drawn from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.zoo.modular_addition.toy import ModularAdditionToy, Run, all_pairs, neurons, read_out, stream, train
from polyseme.zoo.tools import fourier
from polyseme.zoo.tools.checks import Check, Line, fill, mean, share
from polyseme.zoo.tools.figures import panels

GENERALISED = Line("networks with test accuracy ≥ 0.99", "all", at_least=1)
_REPORTED = " (one run of p = 53, half the pairs): within a factor of 3"
_RUNS: dict[str, Any] = {"source": "second-hand", "paper": "third-party runs", "unit": "steps"}
PHASES = (
    Line("step where training accuracy passes 0.99", f"93{_REPORTED}", 93 / 3, 93 * 3, **_RUNS),
    Line("step where test accuracy passes 0.90", f"1637{_REPORTED}", 1637 / 3, 1637 * 3, **_RUNS),
)
SOLVED = (
    Line("key frequencies", "≤ 6 (5 published)", 1, 6),
    Line("neurons with > 85% of their variance in one frequency", "≥ 0.80 (0.846 published)", 0.8, 1),
    Line("W_L outside its key frequencies", "< 0.0055 at p = 113", 0, 0.0055, source="second-hand"),
    Line("neurons along W_L explained by cos, sin of w(a + b)", "0.93 to 0.98 at p = 113", 0.93, 1, "second-hand"),
    Line("second dimension of a key frequency's plane (σ₂/σ₁)", "> 0.5: two dimensions each", 0.5, 1),
    Line("steps from restricted to full test loss falling", "> 0: restricted falls first", 1, source="published"),
    Line("steps from excluded loss rising to test loss falling", "> 0: it rises first", 1, source="published"),
    Line("Gini of the embedding, end less before clean-up", "> 0: rises in clean-up", 1e-9, 1, source="published"),
)
"""What is measured on each network that generalised; the second-hand values are for a modulus of 113."""
WITHOUT_DECAY = (
    Line("training accuracy without weight decay", "1.0", at_least=0.999),
    Line("test accuracy without weight decay", "< 0.2", at_most=0.2),
)


@dataclass(frozen=True)
class Progress:
    """Progress measures of one network, at every record.

    Attributes:
        keys: the key frequencies at the end.
        restricted: loss on the test pairs with only the waves of a + b at the keys left in the logits.
        excluded: loss on the training pairs without those waves.
        gini: Gini coefficient of the embedding's power over frequencies.
        squared_weights: sum of all squared weights.
    """

    keys: Tensor
    restricted: list[float]
    excluded: list[float]
    gini: list[float]
    squared_weights: list[float]


@torch.no_grad()
def whole_table(run: Run, record: int, instance: int) -> tuple[Tensor, Tensor]:
    """Logits and neurons of every pair."""
    a, b = all_pairs(run.config)
    stack = {name: tensor[instance : instance + 1] for name, tensor in run.weights[record].items()}
    middle = stream(stack, a[None], b[None])
    hidden = neurons(stack, middle)
    return read_out(stack, middle, hidden)[0], hidden[0]


def neuron_to_logit(run: Run, record: int, instance: int) -> Tensor:
    """W_L = W_out W_U."""
    weights = run.weights[record]
    return weights["W_out"][instance] @ weights["W_U"][instance]


def progress(run: Run, instance: int) -> Progress:
    """The measures of Nanda et al.'s section 5, with the key frequencies of the last record."""
    p = run.config.p
    keys = fourier.key_frequencies(neuron_to_logit(run, -1, instance))
    trained = run.train_pairs[instance]
    found = Progress(keys, [], [], [], [])
    for record, weights in enumerate(run.weights):
        logits, _ = whole_table(run, record, instance)
        found.restricted.append(fourier.loss_on(fourier.restricted_logits(logits, keys), ~trained))
        found.excluded.append(fourier.loss_on(fourier.excluded_logits(logits, keys), trained))
        found.gini.append(fourier.gini(fourier.power(weights["W_E"][instance, :p])))
        found.squared_weights.append(float(sum(w[instance].square().sum() for w in weights.values())))
    return found


def _first(steps: Sequence[int], values: Sequence[float], passed: Callable[[float], bool]) -> float:
    """The first recorded step whose value passes; NaN if none does."""
    return next((float(step) for step, value in zip(steps, values, strict=True) if passed(value)), math.nan)


def grokking(config: ModularAdditionToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """Generalisation, key frequencies, single-frequency neurons and the order of the phases."""
    run = train(config, reporter, checkpoints)
    steps = run.history.steps
    learned = run.train_accuracy[-1] >= 0.99
    solved = learned & (run.test_accuracy[-1] >= 0.99)
    note = f"test accuracy {_listed(run.test_accuracy[-1])} after {config.optimiser.steps} steps"
    generalised = share(solved, note=note)
    if not learned.any():
        generalised = replace(generalised, value=math.nan)
    checks = [GENERALISED.fill(generalised), *_phases(run)]
    if not solved.any():
        return checks + fill(SOLVED, (), f"no network generalised within {config.optimiser.steps} steps")
    which = [int(i) for i in solved.nonzero()]
    keys = [fourier.key_frequencies(neuron_to_logit(run, -1, i)).tolist() for i in which]
    for line, numbers in zip(SOLVED, np.array([_measures(run, i, steps) for i in which]).T, strict=True):
        # Every network has to pass, not their mean.
        holds = bool(((line.at_least <= numbers) & (numbers <= line.at_most)).all())
        found = mean(numbers, f"each: {_listed(numbers)}; keys {keys}", holds=holds)
        if np.isnan(numbers).any() or (line.source == "second-hand" and config.p != 113):
            found = replace(found, value=math.nan)
        checks.append(line.fill(found))
    return checks


def _measures(run: Run, i: int, steps: list[int]) -> list[float]:
    p = run.config.p
    W_L, (_, hidden) = neuron_to_logit(run, -1, i), whole_table(run, -1, i)
    found = progress(run, i)
    shares = fourier.single_frequency(hidden, p).amax(1)
    alive = hidden.var(0) > 1e-8
    test, excluded = run.test_loss[:, i].tolist(), np.array(found.excluded)
    # Fallen: under half of chance's ln p, which both losses start at. Risen: a tenth of the way from its lowest, before
    # the test loss has fallen, to its highest. Clean-up: from the test loss's highest on.
    fallen = _first(steps, test, lambda v: v < math.log(p) / 2)
    restricted = _first(steps, found.restricted, lambda v: v < math.log(p) / 2)
    low = int(excluded[: steps.index(int(fallen)) + 1].argmin()) if fallen == fallen else 0
    bar = excluded[low] + 0.1 * (excluded.max() - excluded[low])
    rise = _first(steps[low:], found.excluded[low:], lambda v: v > bar)
    return [
        float(len(found.keys)),
        float((shares[alive] > 0.85).double().mean()),
        fourier.residual(W_L, found.keys),
        float(np.mean([fourier.wave_explained(hidden, W_L, int(k)) for k in found.keys])),
        min(_plane(run, i, int(k)) for k in found.keys),
        fallen - restricted,
        fallen - rise,
        found.gini[-1] - found.gini[int(np.argmax(test))],
    ]


def _plane(run: Run, i: int, k: int) -> float:
    """σ₂ / σ₁ of the two directions that cos and sin of frequency k have in W_L."""
    pair = fourier.basis(run.config.p)[2 * k - 1 : 2 * k + 1] @ neuron_to_logit(run, -1, i).T.double()
    values = torch.linalg.svdvals(pair)
    return float(values[1] / values[0])


def without_decay(config: ModularAdditionToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """The control: without weight decay the pairs are memorised and nothing generalises."""
    changed = config.model_copy(update={"optimiser": config.optimiser.model_copy(update={"weight_decay": 0.0})})
    run = train(changed, reporter, checkpoints)
    memorised, control = WITHOUT_DECAY
    learned = mean(run.train_accuracy[-1])
    why = "" if learned.value > 0.99 else "the pairs were not memorised"
    return [memorised.fill(learned), control.fill(mean(run.test_accuracy[-1]), why)]


def _phases(run: Run) -> list[Check]:
    """When the pairs are memorised and when the sum is learned, at the setting others have reported."""
    config, steps = run.config, run.history.steps
    comparable = (config.p, config.train_share) == (53, 0.5)
    checks: list[Check] = []
    for line, accuracy, level in zip(PHASES, (run.train_accuracy, run.test_accuracy), (0.99, 0.90), strict=True):
        steps_found = np.array(
            [_first(steps, column.tolist(), lambda v, level=level: v > level) for column in accuracy.T]
        )
        found = mean(steps_found, f"each: {_listed(steps_found)}, to the next {config.record_every}")
        if not comparable or np.isnan(steps_found).any():
            found = replace(found, value=math.nan)
        checks.append(line.fill(found))
    return checks


def draw_progress(config: ModularAdditionToy, reporter: Reporter) -> Any:
    """Losses, restricted and excluded loss, Gini and squared weights along the training of the first seed."""
    run = train(config, reporter)
    found, steps = progress(run, 0), run.history.steps
    figure, axes = panels(3, width=11)
    axes[0].plot(steps, run.history.loss[:, 0], label="training")
    axes[0].plot(steps, run.test_loss[:, 0], label="test")
    axes[0].plot(steps, found.restricted, label="restricted (test)")
    axes[0].plot(steps, found.excluded, label="excluded (training)")
    axes[0].set(yscale="log", xlabel="step", ylabel="loss (nats)", title=f"p = {config.p}, keys {found.keys.tolist()}")
    axes[0].legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    axes[1].plot(steps, found.gini)
    axes[1].set(xlabel="step", ylabel="Gini coefficient", title="embedding over frequencies")
    axes[2].plot(steps, found.squared_weights)
    axes[2].set(xlabel="step", ylabel="Σ w²", title="squared weights")
    return figure


def draw_frequencies(config: ModularAdditionToy, reporter: Reporter) -> Any:
    """Power of the embedding and of W_L over frequencies, at the start and the end."""
    run = train(config, reporter)
    figure, axes = panels(2, width=9)
    k = np.arange(1, (config.p - 1) // 2 + 1)
    for axis, name, of in (
        (axes[0], "embedding W_E", lambda r: run.weights[r]["W_E"][0, : config.p]),
        (axes[1], "neuron to logit, W_L", lambda r: neuron_to_logit(run, r, 0).T),
    ):
        for record, label in ((0, f"step {run.history.steps[0]}"), (-1, f"step {run.history.steps[-1]}")):
            found = fourier.power(of(record))
            axis.plot(k, found / found.sum(), marker=".", label=label)
        axis.set(xlabel="frequency", ylabel="share of squared norm", title=name)
        axis.legend(frameon=False)
    return figure


def _listed(values: Any) -> str:
    return ", ".join(f"{float(v):.3g}" for v in values)
