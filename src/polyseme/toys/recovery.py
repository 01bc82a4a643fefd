"""Reconstruction against recovery: every architecture over L0 on data whose features are known.

All dictionaries of a seed are trained in one pass over the same vectors, and scored on held-out ones; a seed is a data
set of its own, so that intervals over seeds hold for other features than these.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, field_validator, model_validator
from torch import Tensor

from polyseme.activations.memory import TensorSource
from polyseme.core.config import Config
from polyseme.core.errors import nearest_names
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import MetricRecord
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.dictionaries import ARCHITECTURES, Dictionary
from polyseme.dictionaries.activation import DictionaryBase
from polyseme.evaluation.recovery import Answers, FeatureTruth, mean_interval, over_seeds, recovery
from polyseme.toys.planted_sparse import PlantedSparseToy
from polyseme.toys.toy import TrainedToy
from polyseme.training import Job, TrainingConfig, fit

RECOVERY = ("mcc", "feature_f1")
"""The metrics of recovery that have a front."""


class RecoverySweep(Config):
    """What to train, and on what."""

    toy: PlantedSparseToy = PlantedSparseToy()
    """The data; its seeds are the sweep's."""
    architectures: tuple[str, ...] = ("relu", "batch_topk", "jumprelu", "matryoshka")
    """Any of polyseme's."""
    l0: tuple[PositiveFloat, ...] = Field(default=(1, 2, 4, 8, 16), min_length=1)
    """Mean active latents per vector: k where the architecture has one, a target for its penalty elsewhere."""
    n_latents: PositiveInt = 256
    tokens: PositiveInt = 1_000_000
    """Vectors that each dictionary is trained on."""
    rows: PositiveInt = 250_000
    """Distinct training vectors; more tokens go round them again."""
    heldout: PositiveInt = 20_000
    """Vectors that everything is measured on."""
    batch_size: PositiveInt = 1024
    lr: PositiveFloat | None = None
    """None: by width and length."""

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


class RecoveryPoint(Config):
    """One architecture at one wanted L0, over all seeds."""

    architecture: str
    wanted_l0: float
    records: tuple[MetricRecord, ...]
    """FVU and every metric of recovery, with intervals over seeds; `details.seeds` has each seed's value."""

    def record(self, name: str) -> MetricRecord:
        """The metric of a name, over all depths and for write directions."""
        return next(r for r in self.records if r.name == name and not {"depth", "directions"} & r.scope.keys())

    def value(self, name: str) -> float:
        """Its value."""
        return self.record(name).value


class RecoveryReport(Config):
    """The sweep's result."""

    config: RecoverySweep
    true_l0: float
    points: tuple[RecoveryPoint, ...]

    def front(self, metric: str) -> list[RecoveryPoint]:
        """Points that no other beats at their L0 or a lower one, by rising L0; `fvu` or a metric of recovery."""
        sign = -1 if metric == "fvu" else 1
        best, out = -math.inf, []
        for point in sorted(self.points, key=lambda p: (p.value("l0"), -sign * p.value(metric))):
            if sign * point.value(metric) > best:
                best = sign * point.value(metric)
                out.append(point)
        return out

    def disagreements(self) -> list[str]:
        """Where reconstruction and recovery name different winners, in sentences.

        A pair counts only where the intervals of both paired differences over seeds leave zero out, and each
        dictionary came within 15% of the L0 wanted of it.
        """
        said: list[str] = []
        for wanted in self.config.l0:
            at = [p for p in self.points if p.wanted_l0 == wanted and abs(p.value("l0") / wanted - 1) <= 0.15]
            for i, a in enumerate(at):
                for b in at[i + 1 :]:
                    for metric in RECOVERY:
                        better, worse = (a, b) if a.value("fvu") < b.value("fvu") else (b, a)
                        if _differs(better, worse, "fvu") < 0 and _differs(better, worse, metric) < 0:
                            said.append(
                                f"At L0 {wanted:g}, {better.architecture} reconstructs better than "
                                f"{worse.architecture} (FVU {better.value('fvu'):.3f} against "
                                f"{worse.value('fvu'):.3f}) and recovers less ({metric} {better.value(metric):.3f} "
                                f"against {worse.value(metric):.3f})."
                            )
        for name in self.config.architectures:
            own = [p for p in self.points if p.architecture == name]
            reconstructor = min(own, key=lambda p: p.value("fvu"))
            for metric in RECOVERY:
                recoverer = max(own, key=lambda p: p.value(metric))
                if recoverer is not reconstructor and _differs(recoverer, reconstructor, metric) > 0:
                    said.append(
                        f"{name} reconstructs best at L0 {reconstructor.value('l0'):.1f} (FVU "
                        f"{reconstructor.value('fvu'):.3f}, {metric} {reconstructor.value(metric):.3f}) and recovers "
                        f"most at L0 {recoverer.value('l0'):.1f} (FVU {recoverer.value('fvu'):.3f}, {metric} "
                        f"{recoverer.value(metric):.3f}); the true L0 is {self.true_l0:.1f}."
                    )
        return said

    def summary(self) -> str:
        """The table, the fronts and the disagreements, as text."""
        chance = self.points[0].record("mcc").details["chance"]
        lines = [
            f"{self.config.toy.n_features} features in {self.config.toy.d} dimensions, true L0 {self.true_l0:.2f}; "
            f"{self.config.n_latents} latents, {self.config.tokens:,} vectors, {len(self.config.toy.seeds)} seeds; "
            f"MCC of random directions {chance:.3f}",
            f"{'architecture':14}{'wanted':>8}{'L0':>8}{'FVU':>8}{'MCC':>16}{'F1':>16}{'absorbed':>10}{'dead':>7}",
        ]
        for p in self.points:
            lines.append(
                f"{p.architecture:14}{p.wanted_l0:8g}{p.value('l0'):8.2f}{p.value('fvu'):8.3f}"
                f"{_with_margin(p.record('mcc')):>16}{_with_margin(p.record('feature_f1')):>16}"
                f"{p.value('absorption') if self.config.toy.trees else math.nan:10.3f}{p.value('dead_latents'):7.0%}"
            )
        for metric in ("fvu", *RECOVERY):
            names = ", ".join(f"{p.architecture} at {p.value('l0'):.1f}" for p in self.front(metric))
            lines.append(f"Front of {metric}: {names}.")
        found = self.disagreements()
        lines += found or ["Reconstruction and recovery agree wherever the seeds can tell."]
        return "\n".join(lines)


def recovery_sweep(config: RecoverySweep, reporter: Reporter | None = None) -> RecoveryReport:
    """Train every architecture at every L0 on every seed, and score them.

    Raises:
        InputError: the data and the training do not fit.
    """
    reporter = reporter or Silent()
    of_seed = [_seed(config, toy, reporter) for toy in config.toy.train(reporter)]
    points = [
        RecoveryPoint(
            architecture=name, wanted_l0=l0, records=tuple(over_seeds([found[name, l0] for found in of_seed]))
        )
        for name in config.architectures
        for l0 in config.l0
    ]
    true_l0 = float(points[0].record("l0").details["true_l0"])
    return RecoveryReport(config=config, true_l0=true_l0, points=tuple(points))


def _seed(config: RecoverySweep, toy: TrainedToy, reporter: Reporter) -> dict[tuple[str, float], list[MetricRecord]]:
    site = str(toy.truth.site)
    x, _ = toy.activations(config.rows, make_generator(toy.seed, "recovery", "train"))
    jobs = [
        Job(
            f"{name} {l0:g} seed {toy.seed}",
            (of := config.dictionary(name, l0)).build(config.toy.d, seed=derive_seed(toy.seed, "recovery", name)),
            site,
            site,
            toy.seed,
            None if "k" in type(of).model_fields else l0,
        )
        for name in config.architectures
        for l0 in config.l0
    ]
    training = TrainingConfig(n_tokens=config.tokens, batch_size=config.batch_size, lr=config.lr)
    trained = fit(jobs, TensorSource({site: x}, seed=toy.seed), training, reporter=reporter)
    heldout, sample = toy.activations(config.heldout, make_generator(toy.seed, "recovery", "heldout"))
    assert toy.truth.directions is not None
    truth = FeatureTruth(toy.truth.directions, config.toy.parents() if config.toy.trees else None)
    keys = [(name, l0) for name in config.architectures for l0 in config.l0]
    return {
        key: score(job.dictionary, truth, heldout, sample.features, seed=toy.seed)
        for key, job in zip(keys, trained, strict=True)
    }


def score(
    dictionary: Dictionary,
    truth: FeatureTruth,
    x: Float[Tensor, "row d"],
    values: Float[Tensor, "row feature"],
    *,
    seed: int = 0,
) -> list[MetricRecord]:
    """FVU and every metric of recovery of one dictionary on the same rows."""
    z = dictionary.encode(x)
    wide = x.double()
    error = float((dictionary.decode(z).double() - wide).square().sum())
    fvu = error / float((wide - wide.mean(0)).square().sum())
    record = MetricRecord(name="fvu", value=fvu, n=len(x), n_unit="rows", better="lower", scope={"seed": seed})
    answers = Answers.of([(z, values)])
    write, read = dictionary.write_directions(), dictionary.read_directions()
    return [record, *recovery(write, truth, answers, read=read, seed=seed, scope={"seed": seed})]


def recovery_figure(report: RecoveryReport) -> Any:
    """The two fronts side by side over L0: FVU, then MCC and F1, the true L0 and the chance level marked."""
    from matplotlib.figure import Figure

    metrics = {"fvu": "FVU (lower is better)", "mcc": "MCC (higher is better)", "feature_f1": "F1 of features"}
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, len(metrics)), metrics.items(), strict=True):
        front = report.front(metric)
        axes.plot(
            [p.value("l0") for p in front], [p.value(metric) for p in front], color="0.8", lw=7, zorder=0, label="front"
        )
        for name in report.config.architectures:
            own = sorted((p for p in report.points if p.architecture == name), key=lambda p: p.value("l0"))
            l0, values = [p.value("l0") for p in own], np.array([p.value(metric) for p in own])
            intervals = [p.record(metric).interval for p in own]
            low = np.array([math.nan if i is None else i.low for i in intervals])
            high = np.array([math.nan if i is None else i.high for i in intervals])
            axes.errorbar(
                l0, values, yerr=np.stack([values - low, high - values]), marker="o", ms=4, lw=1.2, label=name
            )
        axes.axvline(report.true_l0, color="0.5", ls=":", label="true L0")
        chance = [p.record(metric).details.get("chance") for p in report.points]
        if metric == "mcc":
            axes.axhline(float(np.mean([c for c in chance if c is not None])), color="0.5", ls="--", label="chance")
        axes.set(xscale="log", xlabel="L0, latents a vector", ylabel=label)
    figure.axes[1].legend(fontsize=8)
    figure.suptitle("Reconstruction and recovery over L0")
    return figure


def _differs(a: RecoveryPoint, b: RecoveryPoint, metric: str) -> int:
    """1 where a's value is the higher beyond doubt, −1 where it is the lower, 0 where seeds cannot tell."""
    pairs = zip(a.record(metric).details["seeds"], b.record(metric).details["seeds"], strict=True)
    differences: Sequence[float] = [math.nan if None in pair else pair[0] - pair[1] for pair in pairs]
    mean, interval = mean_interval(np.array(differences))
    return int(math.copysign(1, mean)) if interval.excludes(0) else 0


def _with_margin(record: MetricRecord) -> str:
    half = math.nan if record.interval is None else record.interval.high - record.value
    return f"{record.value:.3f} ± {half:.3f}"
