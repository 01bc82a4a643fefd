"""Checks of datapoint and generalising features: the pentagon of five examples, the bump of the test loss; figures."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.zoo.datapoint_features.toy import DatapointFeaturesToy, train
from polyseme.zoo.tools.checks import NOTHING, Check, Line, fill, mean
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.geometry import dimensionality, gaps

FEW = (
    Line("Σ D of the examples' hidden vectors, {where}", "m = 2 (± 0.02)", target=2, within=0.02),
    Line("mean |gap − 72°| between neighbouring examples, {where}", "≤ 6°", at_most=6, unit="°"),
    Line("largest D of a feature, {where}", "≤ 0.32", at_most=0.32, source="computed"),
)
_HEIGHT = "height of the test loss's inner maximum, {where}"
BUMP = Line(_HEIGHT, "> 0", at_least=1e-9, source="published")
NO_BUMP = Line(_HEIGHT, "≤ 0.005", at_most=0.005)
"""That weight decay removes the maximum is published; how much is nothing is ours to say."""


def few(config: DatapointFeaturesToy, reporter: Reporter) -> list[Check]:
    """Five examples of 300 features: a pentagon of examples, and no such thing for features."""
    return few_wide(config.model_copy(update={"n_features": 300}), reporter)


def few_wide(config: DatapointFeaturesToy, reporter: Reporter) -> list[Check]:
    """The same with the config's own number of features."""
    runs = train(config.model_copy(update={"n_hidden": 2, "n_examples": (5,)}), reporter)
    where = f"T = 5, n = {config.n_features}"
    if bad := [run.seed for run in runs if not run.trained]:
        why = f"{len(bad)} of {len(runs)} networks did not bring their loss down: seeds {bad}"
        return fill(FEW, (), why, where=where)
    hidden = torch.stack([run.hidden for run in runs]).double()
    total, angles = dimensionality(hidden).sum(-1), gaps(hidden)
    losses = f"train loss {min(run.train_loss for run in runs):.3f} to {max(run.train_loss for run in runs):.3f}"
    found = (
        mean(total, f"{float(total.min()):.3f} to {float(total.max()):.3f}; {losses}"),
        mean((angles - 72).abs().mean(-1), f"gaps {float(angles.min()):.1f}° to {float(angles.max()):.1f}°"),
        mean([float(dimensionality(run.W.T.double()).max()) for run in runs], "mean over networks of the largest"),
    )
    return fill(FEW, found, where=where)


def bump(config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """Test loss over the number of examples has a maximum inside, and many examples bring it down."""
    return _height(BUMP, config, reporter, checkpoints)


def decayed(config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None = None) -> list[Check]:
    """In four dimensions: the maximum at the config's weight decay, and none at weight decay 1."""
    wide = config.model_copy(update={"n_hidden": 4})
    strong = wide.model_copy(update={"optimiser": config.optimiser.model_copy(update={"weight_decay": 1.0})})
    return [
        *_height(BUMP, wide, reporter, checkpoints and checkpoints / "weak"),
        *_height(NO_BUMP, strong, reporter, checkpoints and checkpoints / "strong"),
    ]


def peak(test_loss: Float[Tensor, "example_count seed"]) -> tuple[int, Float[Tensor, " seed"]]:
    """Where the mean test loss is largest, and by how much each seed's is above that of both ends there.

    At an end, the height is 0 or less: there is no maximum inside.
    """
    at = int(test_loss.mean(1).argmax())
    ends = torch.maximum(test_loss[0], test_loss[-1])
    return at, test_loss[at] - ends


def _height(line: Line, config: DatapointFeaturesToy, reporter: Reporter, checkpoints: Path | None) -> list[Check]:
    counts = config.n_examples
    where = f"m = {config.n_hidden}, weight decay {config.optimiser.weight_decay:g}"
    if len(counts) < 4:
        why = f"an inner maximum is looked for over four numbers of examples at least, not {len(counts)}"
        return [line.fill(NOTHING, why, where=where)]
    runs = train(config, reporter, checkpoints)
    test = torch.tensor([run.test_loss for run in runs], dtype=torch.float64).reshape(len(counts), len(config.seeds))
    # Weight decay may keep W at 0 where there are many examples; the fewest are stored whatever it is.
    stored = all(run.trained for run in runs if run.n_examples == counts[0])
    why = "" if stored else f"a network of {counts[0]} examples did not bring its loss down"
    at, height = peak(test)
    curve = ", ".join(f"{t}: {loss:.3f}" for t, loss in zip(counts, test.mean(1).tolist(), strict=True))
    return [line.fill(mean(height, f"largest at T = {counts[at]}; test loss {curve}"), why, where=where)]


def hidden_figure(config: DatapointFeaturesToy, reporter: Reporter) -> Any:
    """Hidden vectors of the examples and of the features over T, with the losses (two dimensions, the first seed)."""
    flat = config.model_copy(update={"n_hidden": 2, "seeds": config.seeds[:1]})
    runs = train(flat, reporter)
    picked = [runs[round(i * (len(runs) - 1) / 5)] for i in range(6)] if len(runs) > 6 else runs
    columns = len(picked)
    figure, axes = panels(2 * columns, width=1.9 * columns + 1, height=2, columns=columns)
    for row, colour in enumerate(("tab:blue", "tab:red")):
        for axis, run in zip(axes[row * columns :], picked, strict=False):
            vectors = run.hidden if row == 0 else run.W.T
            reach = 1.1 * float(vectors.abs().max())
            axis.axhline(0, color="0.9", linewidth=0.8, zorder=0)
            axis.axvline(0, color="0.9", linewidth=0.8, zorder=0)
            axis.scatter(vectors[:, 0], vectors[:, 1], s=6, color=colour, alpha=0.6, linewidth=0)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            axis.set_title(f"T = {run.n_examples}\ntest loss {run.test_loss:.3f}" if row == 0 else "", fontsize=9)
    axes[0].set_ylabel("examples Wx")
    axes[columns].set_ylabel("features W")
    return figure


def loss_figure(config: DatapointFeaturesToy, reporter: Reporter) -> Any:
    """Train and test loss over T, and how much of a dimension examples and features have."""
    runs = train(config, reporter)
    figure, (left, right) = panels(2, width=10, height=3.6)
    counts = list(config.n_examples)
    for values, label, axis, colour in (
        ([run.train_loss for run in runs], "train", left, "tab:blue"),
        ([run.test_loss for run in runs], "test", left, "tab:red"),
        ([float(dimensionality(run.hidden).median()) for run in runs], "examples, median", right, "tab:blue"),
        ([float(dimensionality(run.W.T).max()) for run in runs], "features, largest", right, "tab:red"),
    ):
        of_seed = torch.tensor(values).reshape(len(counts), -1)
        axis.plot(counts, of_seed.mean(1), color=colour, marker="o", markersize=3, label=label)
        axis.plot(counts, of_seed, color=colour, alpha=0.25, linewidth=0.8)
        axis.set(xscale="log", xlabel="examples T")
    left.set_ylabel("loss (the output 0 costs 1)")
    right.set_ylabel("dimensionality")
    for axis in (left, right):
        axis.legend(frameon=False)
    return figure
