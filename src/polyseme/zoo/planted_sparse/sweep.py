"""Reconstruction and recovery of every architecture over L0, on data whose features are known.

All dictionaries of a seed are trained in one pass over the same vectors, and scored on held-out ones; a seed is a data
set of its own, so that intervals over seeds hold for other features than these.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, TypeAdapter, field_validator, model_validator
from torch import Tensor

from polyseme.activations.memory import TensorSource
from polyseme.core.binding import Binding
from polyseme.core.config import Config, Count, Name, Rate, Record, Width, identity
from polyseme.core.errors import nearest_names
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import Interval, MetricRecord
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.dictionaries import ARCHITECTURES, Dictionary
from polyseme.dictionaries.base import DictionaryBase
from polyseme.evaluation.intervals import mean_interval
from polyseme.evaluation.metrics import METRICS
from polyseme.evaluation.recovery import FeatureTruth, over_seeds, scored
from polyseme.evaluation.stability import matched_cosines
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.planted_sparse.toy import PlantedSparseToy
from polyseme.zoo.tools.kept import kept

RECOVERY = ("mcc", "feature_f1")
"""The metrics of recovery that have a front, besides FVU."""
NAMES = {name: METRICS[name].title for name in ("fvu", *RECOVERY)}
"""The titles of metrics with a front."""
COLUMNS = {name: METRICS[name].title for name in (*NAMES, "absorption")}
"""The titles of the metrics in the table."""
VERSION = 2
"""Raised when the code, or a default, changes a seed's scores; kept scores are then computed again."""
AGREED = "Reconstruction and recovery agree wherever the seeds can decide."


class RecoverySweep(Config):
    """Which dictionaries to train, and on which data."""

    toy: PlantedSparseToy = PlantedSparseToy()
    """The data; its seeds are those of the sweep."""
    architectures: Annotated[tuple[Name, ...], Field(max_length=64)] = (
        "relu",
        "batch_topk",
        "jumprelu",
        "matryoshka",
        "topk",
        "gated",
    )
    """Names of architectures."""
    l0: tuple[Annotated[float, Field(gt=0, le=2**24)], ...] = Field(default=(2, 4, 6, 10), min_length=1, max_length=64)
    """Mean active latents per vector: k where the architecture has one, a target for its penalty elsewhere."""
    n_latents: Width = 256
    """Width of the dictionaries."""
    tokens: Count = 500_000
    """Number of vectors that each dictionary is trained on."""
    rows: Width = 250_000
    """Number of distinct training vectors; more tokens repeat them."""
    heldout: Width = 20_000
    """Number of vectors that everything is measured on."""
    batch_size: Width = 512
    """Vectors in a training step."""
    lr: Rate | None = None
    """Learning rate; None chooses it by width and length."""

    @field_validator("architectures")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ARCHITECTURES:
                near = nearest_names(name, list(ARCHITECTURES)) or list(ARCHITECTURES)
                raise ValueError(f"there is no architecture {name!r}; nearest: {', '.join(near)}")
        if not names or len(set(names)) < len(names):
            raise ValueError("name each architecture once, and at least one")
        return names

    @model_validator(mode="after")
    def _possible(self) -> "RecoverySweep":
        if len(set(self.l0)) < len(self.l0):
            raise ValueError("name each L0 once")
        if max(self.l0) > self.n_latents:
            raise ValueError(f"an L0 of {max(self.l0):g} is more than the {self.n_latents} latents")
        if self.batch_size > min(self.rows, self.tokens):
            raise ValueError(f"a batch of {self.batch_size} is more than the rows or tokens there are")
        for name in self.architectures:
            for l0 in self.l0:
                self.dictionary(name, l0)
        return self

    def dictionary(self, architecture: str, l0: float) -> DictionaryBase:
        """The config of one dictionary.

        Raises:
            ValueError: a fractional L0 for an architecture that keeps a whole k.
        """
        kind = ARCHITECTURES[architecture]
        k = {"k": int(l0) if float(l0).is_integer() else l0} if "k" in kind.model_fields else {}
        return TypeAdapter(kind).validate_python({"n_latents": self.n_latents, **k})


class RecoveryPoint(Record):
    """One architecture at one wanted L0, over all seeds."""

    architecture: str
    wanted_l0: float
    records: tuple[MetricRecord, ...]
    """FVU and every metric of recovery, with intervals over seeds; `details.seeds` has each seed's value."""

    def record(self, name: str) -> MetricRecord:
        """The metric of a name, over all depths and for write directions."""
        return next(r for r in self.records if r.name == name and not {"depth", "directions"} & r.scope.keys())

    def value(self, name: str) -> float:
        """The value of the metric of a name."""
        return self.record(name).value


class RecoveryReport(Record):
    """The sweep's result."""

    config: RecoverySweep
    true_l0: float
    points: tuple[RecoveryPoint, ...]

    def front(self, metric: str) -> list[RecoveryPoint]:
        """Points that no other beats at their L0 or a lower one, by rising L0; `fvu` or a metric of recovery."""
        sign = -1 if METRICS[metric].better == "lower" else 1
        best, out = -math.inf, []
        for point in sorted(self.points, key=lambda p: (p.value("l0"), -sign * p.value(metric))):
            if sign * point.value(metric) > best:
                best = sign * point.value(metric)
                out.append(point)
        return out

    def disagreements(self) -> list[str]:
        """Where reconstruction and recovery have different winners, in sentences, nearest to the true L0 first.

        A pair counts only if the intervals of both paired differences over seeds exclude zero, and each dictionary came
        within 15% of the L0 wanted.
        """
        nearest = sorted(self.config.l0, key=lambda l0: abs(math.log(l0 / self.true_l0)))
        return [*(said for l0 in nearest for said in self._between(l0)), *self._within()]

    def _between(self, wanted: float) -> list[str]:
        """Pairs of architectures of one L0 where the better reconstructor is the worse recoverer."""
        at = [p for p in self.points if p.wanted_l0 == wanted and abs(p.value("l0") / wanted - 1) <= 0.15]
        said: list[str] = []
        for better, worse in itertools.permutations(at, 2):
            if _differs(better, worse, "fvu") >= 0:
                continue
            less = [
                f"{NAMES[m]} {better.value(m):.3f} against {worse.value(m):.3f}"
                for m in RECOVERY
                if _differs(better, worse, m) < 0
            ]
            if less:
                said.append(
                    f"At L0 {wanted:g}, {better.architecture} reconstructs better than {worse.architecture} "
                    f"(FVU {better.value('fvu'):.3f} against {worse.value('fvu'):.3f}) and recovers less "
                    f"({', '.join(less)})."
                )
        return said

    def _within(self) -> list[str]:
        """Architectures that reconstruct best at another L0 than they recover most at."""
        said: list[str] = []
        for name in self.config.architectures:
            own = [p for p in self.points if p.architecture == name]
            reconstructor = min(own, key=lambda p: p.value("fvu"))
            parts: list[str] = []
            for metric in RECOVERY:
                recoverer = max(own, key=lambda p: p.value(metric))
                if recoverer is not reconstructor and _differs(recoverer, reconstructor, metric) > 0:
                    parts.append(
                        f"{NAMES[metric]} at L0 {recoverer.value('l0'):.1f} ({recoverer.value(metric):.3f} against "
                        f"{reconstructor.value(metric):.3f}; FVU {recoverer.value('fvu'):.3f})"
                    )
            if parts:
                said.append(
                    f"{name} reconstructs best at L0 {reconstructor.value('l0'):.1f} "
                    f"(FVU {reconstructor.value('fvu'):.3f}) but has its best {' and its best '.join(parts)}."
                )
        return said

    @property
    def chance(self) -> str:
        """MCC of random directions: as many as the latents, and four times as many as the features."""
        toy, n = self.config.toy, 4 * self.config.toy.n_features
        own, wide = chance_mcc(toy, self.config.n_latents), chance_mcc(toy, n)
        return f"chance level of MCC, random directions: {own:.2f} with {self.config.n_latents}, {wide:.2f} with {n:,}"

    @property
    def setting(self) -> str:
        """The data and the training, in a line."""
        toy = self.config.toy
        return (
            f"{toy.n_features} features in {toy.d} dimensions, true L0 {self.true_l0:.2f}; {self.config.n_latents} "
            f"latents, {self.config.tokens:,} vectors, {len(toy.seeds)} seeds, 95% intervals over them"
        )

    def said(self) -> list[str]:
        """The fronts and where they disagree."""
        lines: list[str] = []
        for metric in NAMES:
            names = ", ".join(f"{p.architecture} at {p.value('l0'):.1f}" for p in self.front(metric))
            lines.append(f"Front of {NAMES[metric]}: {names}.")
        return [*lines, *(self.disagreements() or [AGREED])]

    def markdown(self) -> str:
        """The table, the chance level, the fronts and the disagreements, as Markdown."""
        titles = ["architecture", "L0 wanted", "L0", *COLUMNS.values(), "dead latents"]
        lines = [self.setting + ".", "", self.chance + ".", "", _row(titles), "|---" * len(titles) + "|"]
        for p in self.points:
            cells = [_with_margin(p, metric) for metric in COLUMNS]
            dead = f"{p.value('dead_latents'):.0%}"
            lines.append(_row([p.architecture, f"{p.wanted_l0:g}", f"{p.value('l0'):.2f}", *cells, dead]))
        return "\n".join([*lines, "", *(f"- {said}" for said in self.said())]) + "\n"


def chance_mcc(toy: PlantedSparseToy, n_latents: int) -> float:
    """MCC of `n_latents` random directions with a toy's features, averaged over its seeds."""
    of_seed: list[float] = []
    for seed in toy.seeds:
        random = torch.randn(n_latents, toy.d, generator=make_generator(seed, "random directions", "chance"))
        of_seed.append(float(matched_cosines(random, toy.planted_directions(seed), absolute=True)[0].mean()))
    return float(np.mean(of_seed))


def recovery_sweep(
    config: RecoverySweep, reporter: Reporter | None = None, *, root: Path | None = None
) -> RecoveryReport:
    """Train every architecture at every L0 on every seed, and score them.

    Args:
        config: what to train.
        reporter: receives progress updates.
        root: a folder that keeps each seed's scores, and checkpoints of the seed in progress, from which a killed run
            resumes; None keeps nothing.

    Raises:
        InputError: the data and the training do not fit.
    """
    reporter = reporter or Silent()
    of_seed: list[list[list[MetricRecord]]] = []
    for i, seed in enumerate(config.toy.seeds):
        reporter.message(f"seed {seed}, {i + 1} of {len(config.toy.seeds)}")
        scores = kept(
            root,
            "recovery",
            decisive(config, seed),
            lambda checkpoints, seed=seed: _seed(config, seed, reporter, checkpoints),
            list[list[MetricRecord]],
            "scores.json",
            version=VERSION,
            reporter=reporter,
        )
        of_seed.append(scores)
    keys = [(name, l0) for name in config.architectures for l0 in config.l0]
    points = [
        RecoveryPoint(architecture=name, wanted_l0=l0, records=tuple(over_seeds([found[i] for found in of_seed])))
        for i, (name, l0) in enumerate(keys)
    ]
    true_l0 = float(points[0].record("l0").details["true_l0"])
    return RecoveryReport(config=config, true_l0=true_l0, points=tuple(points))


def decisive(config: RecoverySweep, seed: int) -> dict[str, Any]:
    """What decides the scores of a seed, besides `VERSION`; defaults are left out."""
    toy = identity(config.toy, exclude=("seeds",))
    return {**identity(config, exclude=("toy",)), "toy": toy, "seed": seed}


def _seed(config: RecoverySweep, seed: int, reporter: Reporter, checkpoints: Path | None) -> list[list[MetricRecord]]:
    """Train one seed's dictionaries in one pass and score each, architecture by architecture, L0 by L0."""
    toy = config.toy.instance(seed)
    site = str(toy.truth.site)
    x, _ = toy.activations(config.rows, make_generator(seed, "recovery", "train"))
    jobs = [
        Job(
            f"{name} {l0:g} seed {seed}",
            (of := config.dictionary(name, l0)).build(config.toy.d, seed=derive_seed(seed, "recovery", name)),
            Binding.at(site),
            seed,
            None if "k" in type(of).model_fields else l0,
        )
        for name in config.architectures
        for l0 in config.l0
    ]
    training = TrainingConfig(n_tokens=config.tokens, batch_size=config.batch_size, lr=config.lr)
    trained = fit(jobs, TensorSource({site: x}, seed=seed), training, checkpoints=checkpoints, reporter=reporter)
    heldout, sample = toy.activations(config.heldout, make_generator(seed, "recovery", "heldout"))
    assert toy.truth.directions is not None
    truth = FeatureTruth(toy.truth.directions, config.toy.parents() if config.toy.trees else None)
    return [score(job.dictionary, truth, heldout, sample.features, seed=seed) for job in trained]


def score(
    dictionary: Dictionary,
    truth: FeatureTruth,
    x: Float[Tensor, "row d"],
    values: Float[Tensor, "row feature"],
    *,
    seed: int = 0,
) -> list[MetricRecord]:
    """FVU and every metric of recovery of one dictionary on the same rows."""
    return scored(dictionary, truth, [(x, values)], seed=seed, scope={"seed": seed})


def _differs(a: RecoveryPoint, b: RecoveryPoint, metric: str) -> int:
    """1 if a's value is higher, −1 if it is lower, 0 if the interval over seeds includes no difference."""
    mean, interval = difference(a, b, metric)
    return int(math.copysign(1, mean)) if interval.excludes(0) else 0


def difference(a: RecoveryPoint, b: RecoveryPoint, metric: str) -> tuple[float, Interval]:
    """The value of a less that of b, paired by seed, with its interval."""
    pairs = zip(a.record(metric).details["seeds"], b.record(metric).details["seeds"], strict=True)
    differences = np.array([math.nan if None in pair else pair[0] - pair[1] for pair in pairs])
    return mean_interval(differences, over="networks")


def _with_margin(point: RecoveryPoint, metric: str) -> str:
    """`0.81 ± 0.02`; a dash if nothing was measured."""
    record = next((r for r in point.records if r.name == metric and not {"depth", "directions"} & r.scope.keys()), None)
    if record is None or math.isnan(record.value):
        return "–"
    half = math.nan if record.interval is None else record.interval.high - record.value
    return f"{record.value:.3f} ± {half:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
