"""Dose and response: whether the answer follows its cause when that is switched on by degrees.

Knobs whose effect is known: the density of features, at which superposition ends; the angle by which aligned networks
are turned; the mixing without which compressed computation computes nothing extra.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Config, Name, Record, identity
from polyseme.core.errors import known_name
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import Interval
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.diagnosis import ANSWERS, Answer, Diagnosis, DiagnosisConfig
from polyseme.trials.diagnosis import ROWS, diagnosed, percent
from polyseme.zoo.compressed_computation.toy import CompressedComputationToy
from polyseme.zoo.superposition.exact import boundary
from polyseme.zoo.superposition.sweeps import phase
from polyseme.zoo.superposition.toy import ReluOutput, SuperpositionToy, cause
from polyseme.zoo.tools.checks import share_interval
from polyseme.zoo.tools.exact import features_of
from polyseme.zoo.tools.figures import panels
from polyseme.zoo.tools.geometry import haar
from polyseme.zoo.tools.kept import kept
from polyseme.zoo.tools.stack import OptimiserConfig
from polyseme.zoo.tools.toy import Toy, TrainedToy

Dosed = tuple[float, TrainedToy]
Seeds = tuple[int, ...]
_FAST = OptimiserConfig(steps=3_000, lr=5e-3)
DENSITIES = (0.1, 0.3, 0.5, 0.65, 0.8, 0.95)
ANGLES = (0.0, 10.0, 15.0, 20.0, 30.0, 45.0)
MIXINGS = (0.0, 0.02, 0.04, 0.08)
VERSION = 2
"""Raised when the code, or a default, changes what a curve is; kept curves are then computed again."""


@dataclass(frozen=True)
class Dose:
    """One knob.

    Attributes:
        title: the title of the panel.
        axis: what the knob changes, with its unit.
        networks: maps seeds to networks, each with its dose.
        follows: the answer that should follow the dose.
        truth: what is true of a network for which that answer is right, in words.
        holds: whether it is true, by the network's weights.
        formula: the dose at which the answer should change, where a formula gives it.
        siblings: whether the diagnosis is given networks of other seeds and the same dose.
    """

    title: str
    axis: str
    networks: Callable[[Seeds, Reporter], list[Dosed]]
    follows: Answer
    truth: str
    holds: Callable[[TrainedToy], bool]
    formula: float | None = None
    siblings: bool = False


def _swept(setting: str, toy: Callable[[Seeds], Toy]) -> Callable[[Seeds, Reporter], list[Dosed]]:
    """The trained networks of a toy, each with what one of its settings is."""

    def networks(seeds: Seeds, reporter: Reporter) -> list[Dosed]:
        return [(float(t.setting[setting]), t) for t in toy(seeds).train(reporter) if t.trained]

    return networks


def _by_density(**fields: Any) -> Callable[[Seeds, Reporter], list[Dosed]]:
    return _swept(
        "density",
        lambda seeds: SuperpositionToy(**fields, density=DENSITIES, seeds=seeds, optimiser=_FAST, batch=256),
    )


def _pairs(importance: float) -> Dose:
    """Two features in one dimension: antipodal below a density, one left out (or both alike) above."""
    return Dose(
        title=f"two features in one neuron, importance 1 and {importance:g}",
        axis="density",
        networks=_by_density(n_features=2, n_hidden=1, importance=(importance,)),
        follows="superposition",
        truth="antipodal pair",
        holds=lambda toy: phase(features_of(toy)[:, 0]) == "opposite",
        formula=boundary(importance),
        siblings=True,
    )


def _turned(seeds: Seeds, reporter: Reporter) -> list[Dosed]:
    """Dense networks with a neuron for each feature they keep, turned by R(θ) = cos θ I + sin θ A.

    A is a random orthogonal matrix with A² = −I, so that θ ↦ R(θ) is a geodesic along which every vector turns by
    exactly θ; the transposed turn on the way out leaves every output as it was.
    """
    toy = SuperpositionToy(
        n_features=8, n_hidden=4, density=(1.0,), importance=(0.7,), basis="aligned", seeds=seeds, optimiser=_FAST
    )
    upright = [t for t in toy.train(reporter) if t.trained and t.truth.cause == "aligned"]
    return [(angle, turned(t, math.radians(angle))) for angle in ANGLES for t in upright]


def turned(toy: TrainedToy, angle: float) -> TrainedToy:
    """A network of the toy model with its hidden axes turned by an angle, in radians; its outputs stay as they are."""
    model = toy.module
    assert isinstance(model, ReluOutput)
    d = len(model.W)
    R = math.cos(angle) * torch.eye(d, dtype=torch.float32) + math.sin(angle) * _quarter_turn(d, toy.seed)
    W = R @ model.W.detach()
    truth = replace(toy.truth, directions=W.T.contiguous(), cause=cause(W.T))
    return replace(toy, module=ReluOutput(W, model.b.detach()), truth=truth, setting={**toy.setting, "angle": angle})


def _quarter_turn(d: int, seed: int) -> Float[Tensor, "d d"]:
    """A random orthogonal matrix whose square is −I."""
    assert d % 2 == 0
    Q = haar(d, make_generator(seed, "dose", "turn"))
    J = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)] * (d // 2))
    return (Q @ J @ Q.T).float()


DOSES: dict[str, Dose] = {
    "density": _pairs(1.0),
    "density of an unequal pair": _pairs(0.5),
    "density of a crowd": Dose(
        title="eight features in four neurons",
        axis="density",
        networks=_by_density(n_features=8, n_hidden=4),
        follows="superposition",
        truth="features that share dimensions",
        holds=lambda toy: toy.truth.cause == "superposition",
        formula=boundary(1.0),
    ),
    "angle": Dose(
        title="aligned networks, turned",
        axis="angle, degrees",
        networks=_turned,
        follows="rotated",
        truth="a feature with under 0.9 on one neuron",
        holds=lambda toy: toy.truth.cause == "rotated",
        formula=math.degrees(math.acos(math.sqrt(0.9))),
    ),
    "mixing": Dose(
        title="compressed computation",
        axis="mixing σ",
        networks=_swept(
            "mixing",
            lambda seeds: CompressedComputationToy(
                n_features=20, n_hidden=10, mixing=MIXINGS, seeds=seeds, optimiser=OptimiserConfig(steps=2_000, lr=3e-3)
            ),
        ),
        follows="aligned",
        truth="a feature for each neuron",
        holds=lambda toy: toy.truth.cause == "aligned",
    ),
}
"""Every knob by name, in the order in which they are drawn."""


class DoseConfig(Config):
    """Which knobs, and how many networks at each dose."""

    doses: tuple[Name, ...] = Field(default=tuple(DOSES), max_length=1000)
    """Names of the knobs to compute."""
    n_seeds: int = Field(default=10, ge=2, le=1000)
    """Networks per dose; those that did not train are left out, and counted."""
    first_seed: int = Field(default=2_000, ge=0, le=2**62)
    """First seed; those of the confusion matrix are all below it."""
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    """How every network is diagnosed; each seed is derived from this one and the network's."""


class Point(Record):
    """The networks of one dose."""

    dose: float
    answers: tuple[Answer, ...]
    reasons: tuple[str, ...]
    holds: tuple[bool, ...]
    """For each network, whether the answer that should follow the dose is right."""

    def share(self, answer: Answer) -> tuple[float, Interval]:
        """Share of the networks with this answer, with its Wilson interval."""
        return share_interval(self.answers.count(answer), len(self.answers))


class Curve(Record):
    """One knob's response."""

    name: str
    points: tuple[Point, ...]
    n_seeds: int

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers that were given at any dose."""
        return tuple(a for a in ANSWERS if any(a in point.answers for point in self.points))


def dose_response(config: DoseConfig, reporter: Reporter | None = None, *, root: Path | None = None) -> list[Curve]:
    """Diagnose every network of every dose.

    Args:
        config: which knobs, and how many networks.
        reporter: receives progress updates.
        root: a folder that keeps each finished curve, from which a killed run resumes; None keeps nothing.

    Raises:
        InputError: a dose of that name does not exist.
    """
    names = [known_name(name, list(DOSES), "there is no dose") for name in config.doses]
    listener = reporter or Silent()

    def curve(name: str) -> Curve:
        return kept(
            root,
            "dose",
            decisive(name, config),
            lambda _: _curve(name, config, listener),
            Curve,
            "curve.json",
            version=VERSION,
            reporter=listener,
        )

    return [curve(name) for name in names]


def decisive(dose: str, config: DoseConfig) -> dict[str, Any]:
    """What decides a curve, besides `VERSION`; defaults are left out."""
    return {"dose": dose, **identity(config, exclude=("doses",))}


def _curve(name: str, config: DoseConfig, reporter: Reporter) -> Curve:
    dose = DOSES[name]
    dosed = dose.networks(tuple(range(config.first_seed, config.first_seed + config.n_seeds)), reporter)
    progress, done = reporter.task(name, len(dosed), "networks"), 0
    points: list[Point] = []
    for level, group in groupby(dosed, key=lambda pair: pair[0]):
        toys = [toy for _, toy in group]
        found: list[Diagnosis] = []
        for i, toy in enumerate(toys):
            inputs = toy.draw(ROWS, make_generator(toy.seed, "dose", str(level))).inputs
            seed = derive_seed(config.diagnosis.seed, "dose", str(level), toy.seed)
            found.append(diagnosed(toys, i, toy.network(), inputs, config.diagnosis, seed, siblings=dose.siblings))
            done += 1
            progress.update(done, note=f"{dose.axis} {level:g}: {found[-1].answer}")
        points.append(
            Point(
                dose=level,
                answers=tuple(one.answer for one in found),
                reasons=tuple(one.reason for one in found),
                holds=tuple(map(dose.holds, toys)),
            )
        )
    return Curve(name=name, points=tuple(points), n_seeds=config.n_seeds)


def as_markdown(curves: Sequence[Curve]) -> str:
    """A table for each knob: the answers at each dose, beside the truth of the networks."""
    lines: list[str] = []
    for curve in curves:
        dose = DOSES[curve.name]
        formula = "" if dose.formula is None else f"; by the formula the change is at {dose.formula:.3g}"
        lines += [f"**{dose.title[0].upper()}{dose.title[1:]}**{formula}.", ""]
        lines += [f"| {dose.axis} | n | {dose.truth} | answers | {dose.follows} |", "|---|---|---|---|---|"]
        for point in curve.points:
            given = ", ".join(f"{a.replace('_', '-')} {n}" for a, n in Counter(point.answers).most_common())
            right = percent(*point.share(dose.follows))
            lines.append(f"| {point.dose:g} | {len(point.answers)} | {sum(point.holds)} | {given} | {right} |")
        lines.append("")
    return "\n".join(lines)


def dose_figure(curves: Sequence[Curve]) -> Any:
    """The share of each answer over the dose, one panel per knob; dashed, the share of networks of which it is true."""
    from matplotlib import colormaps

    figure, panel = panels(len(curves), width=11, height=2.9, columns=min(3, len(curves)))
    colours = {answer: colormaps["tab10"](i) for i, answer in enumerate(ANSWERS)}
    drawn: dict[str, Any] = {}
    for axes, curve in zip(panel, curves, strict=True):
        dose, levels = DOSES[curve.name], [point.dose for point in curve.points]
        for answer in curve.answers:
            found = [point.share(answer) for point in curve.points]
            shares = [share for share, _ in found]
            colour = "0.6" if answer == "abstain" else colours[answer]
            (line,) = axes.plot(levels, shares, color=colour, marker="o", ms=4, lw=1.5, clip_on=False, zorder=3)
            axes.fill_between(
                levels, [i.low for _, i in found], [i.high for _, i in found], color=colour, alpha=0.12, lw=0
            )
            drawn.setdefault(answer.replace("_", "-"), line)
        true = [sum(point.holds) / max(1, len(point.holds)) for point in curve.points]
        (line,) = axes.plot(levels, true, color="black", ls="--", lw=1, zorder=4)
        drawn.setdefault("networks with what the panel names", line)
        if dose.formula is not None:
            drawn.setdefault("formula", axes.axvline(dose.formula, color="0.4", ls=":", lw=1.2))
        axes.set(xlabel=dose.axis, ylabel="share of networks", ylim=(-0.03, 1.03))
        axes.set_title(f"{dose.title}\ndashed: {dose.truth}")
    names = sorted(drawn, key=lambda name: (name not in ANSWERS, name))
    figure.legend([drawn[n] for n in names], names, loc="outside upper center", ncols=7, frameon=False, fontsize=8)
    return figure
