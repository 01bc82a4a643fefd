"""The figures of "Toy Models of Superposition", drawn from networks trained here."""

from typing import Any

import numpy as np

from polyseme.core.progress import Reporter
from polyseme.zoo.superposition.checks import variant
from polyseme.zoo.superposition.exact import boundary
from polyseme.zoo.superposition.sweeps import RATIOS, phase_diagram, sweep
from polyseme.zoo.superposition.toy import SuperpositionToy, train
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.geometry import dimensionality

LINES = {"1": 1, "3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}
"""Dimensionalities that polytopes have: dedicated, tetrahedron, triangle, pair, pentagon, square antiprism."""


def geometry(config: SuperpositionToy, reporter: Reporter) -> Any:
    """Feature vectors in the plane from dense to sparse, where importance falls by 0.9 with each feature."""
    densities = (1.0, 0.3, 0.1, 0.05, 0.02)
    stack = train(variant(config, 1, n_features=5, n_hidden=2, density=densities, importance=(0.9,)), reporter)
    figure, axes = panels(len(densities), width=2.4 * len(densities), height=2.8)
    colours = [f"C{j}" for j in range(stack.config.n_features)]
    for axis, p, vectors in zip(axes, densities, stack.vectors.numpy(), strict=True):
        for (x, y), colour in zip(vectors, colours, strict=True):
            axis.plot([0, x], [0, y], color=colour)
            axis.scatter([x], [y], s=30, color=colour, zorder=3)
        axis.set(title=f"p = {p:g}", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
    figure.suptitle("Features in the hidden plane; by importance, $0.9^i$: blue, orange, green, red, violet")
    return figure


def weights(config: SuperpositionToy, reporter: Reporter) -> Any:
    """WᵀW and b of networks of 20 features in 5 dimensions, from dense to sparse; importance is 0.7ⁱ."""
    densities = (1.0, 0.3, 0.1, 0.03, 0.01)
    stack = train(variant(config, 1, n_features=20, n_hidden=5, density=densities, importance=(0.7,)), reporter)
    figure, axes = panels(len(densities), width=2.4 * len(densities), height=2.9)
    shown: Any = None
    for axis, p, W, b in zip(axes, densities, stack.W, stack.b, strict=True):
        gap = np.full((stack.config.n_features, 1), np.nan)
        columns = np.hstack([(W.T @ W).numpy(), gap, b[:, None].numpy(), b[:, None].numpy()])
        shown = axis.imshow(columns, cmap="RdBu", vmin=-1.2, vmax=1.2, interpolation="nearest")
        axis.set(title=f"p = {p:g}", xticks=[9.5, 21.5], xticklabels=["$W^TW$", "$b$"], yticks=[])
    axes[0].set_ylabel("feature, most important first")
    figure.colorbar(shown, ax=axes, shrink=0.7)
    return figure


def dimensionalities(config: SuperpositionToy, reporter: Reporter) -> Any:
    """Dimensionality of every feature over 1/p, and m / ‖W‖² through it."""
    stack = train(sweep(config), reporter, name="stickiness")
    figure, (axis,) = panels(1, width=8, height=4.5)
    inverse = 1 / stack.densities.numpy()
    D = dimensionality(stack.vectors).numpy()
    spread = np.random.default_rng(0).uniform(-0.02, 0.02, D.shape)
    axis.scatter(inverse[:, None] * np.exp(spread), D, s=4, alpha=0.4, linewidths=0, label="features")
    axis.plot(inverse, stack.config.n_hidden / stack.W.square().sum((-2, -1)).numpy(), "k-", label="$m / ‖W‖_F^2$")
    for name, at in LINES.items():
        axis.axhline(at, color="grey", linewidth=0.6, zorder=0)
        axis.annotate(name, (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axis.set(xscale="log", xlabel="1 / p", ylabel="dimensionality", ylim=(-0.02, 1.08))
    axis.legend(loc="upper right")
    return figure


def phases(config: SuperpositionToy, reporter: Reporter) -> Any:
    """The phase of two features in one dimension over density and importance, with the derived boundary."""
    diagram = phase_diagram(config, reporter)
    names = {
        "opposite": "both, antipodal",
        "one": "the more important one",
        "same": "both, on one side",
        "none": "not trained",
    }
    figure, (axis,) = panels(1, width=6.5, height=4.5)
    for i, (phase, label) in enumerate(names.items()):
        points = [(p, r) for r, seen in diagram.items() for p, found in seen.items() if found == phase]
        if points:
            axis.scatter(*zip(*points, strict=True), s=22, color=f"C{i}", label=label)
    ratio = np.geomspace(RATIOS[0], RATIOS[-1], 100)
    axis.plot([boundary(float(r)) for r in ratio], ratio, "k-", label="derived boundary")
    axis.set(xscale="log", yscale="log", xlabel="density p", ylabel="importance of the second feature")
    axis.set_xticks([0.2, 0.3, 0.5, 0.7, 1.0], ["0.2", "0.3", "0.5", "0.7", "1"])
    axis.set_yticks(list(RATIOS), [f"{r:g}" for r in RATIOS])
    axis.minorticks_off()
    axis.legend(loc="upper left", fontsize=8, framealpha=0.95)
    return figure
