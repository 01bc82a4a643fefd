"""Probe and steering directions: the best vector to read a feature is not the best one to write it.

a = Σ_i z_i f_i for a pair of features at an angle (invertible) and for a regular polygon of them (more features than
dimensions). Every direction has a closed form; `polyseme.causal.directions` computes them, the network's own edits
apply them, and `polyseme.causal.causal_effects` measures what removing a feature does to a prediction.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch

from polyseme.causal.directions import duals, optimal_probe
from polyseme.core.progress import Reporter
from polyseme.kernels.shield import shielded
from polyseme.zoo.probe_steering import checks as checks
from polyseme.zoo.probe_steering.networks import SITE, Arrangement, ProbeSteeringConfig, ReadOff, features, states
from polyseme.zoo.tools.checks import Experiment
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.toy import Sample, TrainedToy, Truth

ARRANGEMENTS: tuple[Arrangement, ...] = ("pair", "polygon")


@final
class ProbeSteeringToy(ProbeSteeringConfig):
    """The pair and the polygon, each read with its own probes."""

    title: ClassVar[str] = "probe and steering directions"
    paper: ClassVar[str] = checks.PAPER
    experiments: ClassVar[tuple[Experiment, ...]] = (
        Experiment("analytic", "fast", "duals, probes and steering vectors in closed form", checks.analytic),
        Experiment("sampled", "fast", "the same from samples, and steering through the network", checks.sampled),
        Experiment("effects", "fast", "the causal effect of removing a feature, in closed form", checks.effects),
        Experiment("dictionary", "slow", "a trained dictionary reads duals and writes features", checks.dictionary),
    )
    figures: ClassVar[Mapping[str, Callable[[Any, Reporter], Any]]]

    @shielded
    def build(self) -> ReadOff:
        """The pair's network."""
        rows = features(self, "pair")
        return ReadOff(rows, rows)

    @shielded
    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """The pair and the polygon for each seed, made, not trained."""
        toys: list[TrainedToy] = []
        for shape in ARRANGEMENTS:
            rows = features(self, shape)
            probe = optimal_probe(rows)
            for seed in self.seeds:
                truth = Truth(
                    site=SITE,
                    features=tuple(f"z{i}" for i in range(len(rows))),
                    directions=rows.float(),
                    cause="superposition" if len(rows) > rows.shape[1] else None,
                )
                toys.append(
                    TrainedToy(
                        module=ReadOff(rows, probe.directions),
                        truth=truth,
                        draw=self._draw(len(rows)),
                        seed=seed,
                        setting={"arrangement": shape},
                        loss=float((1 - probe.r2).mean()),
                        ceiling=1.0,
                    )
                )
        return toys

    def _draw(self, n_features: int) -> Callable[[int, torch.Generator], Sample]:
        def draw(n: int, generator: torch.Generator) -> Sample:
            z = states(self, n_features, n, generator)
            return Sample(inputs=z, features=z)

        return draw


def directions_figure(config: ProbeSteeringToy, _: Reporter) -> Any:
    """Features, probes and steering vectors of the pair and the polygon, and what each leaks."""
    figure, axes = panels(2, width=9, height=4.4)
    for axis, shape in zip(axes, ARRANGEMENTS, strict=True):
        rows = features(config, shape)
        drawn: list[tuple[str, str, torch.Tensor, float]] = [
            ("feature (write)", "tab:blue", rows, 5.0),
            ("probe = dual (read)", "tab:orange", optimal_probe(rows).directions, 2.5),
        ]
        if len(rows) <= rows.shape[1]:
            drawn.append(("steering that changes one\nread-off with f and no other", "tab:green", duals(rows), 1.0))
        reach = 1.15 * max(float(vectors.abs().max()) for _, _, vectors, _ in drawn)
        for label, colour, vectors, width in drawn:
            for i, (x, y) in enumerate(vectors.tolist()):
                arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
                axis.annotate("", (x, y), (0, 0), arrowprops=arrow)
                if vectors is rows:
                    axis.text(1.08 * x, 1.08 * y, f"$f_{i + 1}$", ha="center", va="center", fontsize=10)
            axis.plot([], [], color=colour, linewidth=width, label=label)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.set_title(checks.leak_summary(config, shape), fontsize=9)
        axis.legend(frameon=False, loc="lower left")
    return figure


ProbeSteeringToy.figures = {"directions": directions_figure}
