"""How often a diagnosis is right, wrong or silent: the confusion matrix over networks whose cause is known.

Every class has two sets of networks: `calibration`, on which thresholds may be set, and `test`, of other seeds and
other sizes or densities, which are looked at only to be reported.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from polyseme.core.progress import Reporter
from polyseme.core.records import Interval
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.diagnosis import Answer, Diagnosis, DiagnosisConfig, diagnose
from polyseme.networks import load_network
from polyseme.networks.reinit import ReinitConfig
from polyseme.toys.bit_extraction import BitExtractionToy
from polyseme.toys.checks import share_interval
from polyseme.toys.compressed_computation import CompressedComputationToy
from polyseme.toys.correlated_pairs import CorrelatedPairsToy
from polyseme.toys.incidental import IncidentalToy
from polyseme.toys.product import ProductToy
from polyseme.toys.scaling import ScalingToy
from polyseme.toys.skip_trigram import SkipTrigramToy
from polyseme.toys.stack import OptimiserConfig
from polyseme.toys.superposition import SuperpositionToy
from polyseme.toys.toy import Cause, Toy, TrainedToy
from polyseme.toys.universal_and import UniversalAndToy

Split = Literal["calibration", "test"]
SEEDS: Mapping[Split, int] = {"calibration": 0, "test": 1_000}
"""First seed of each set; a set never has more than a thousand."""
ANSWERS: tuple[Answer, ...] = get_args(Answer)
ROWS = 4_096
N_SIBLINGS = 4

Networks = Callable[[Split, tuple[int, ...]], Toy]


@dataclass(frozen=True)
class Class:
    """Networks that are polysemantic for one reason.

    Attributes:
        name: of the row.
        right: the answers that are right; abstaining is never wrong.
        toy: from the set and its seeds to the toy's config.
        cause: only networks with this cause by their truth are counted; None counts all that trained.
        rest: further conditions on a network.
        siblings: whether networks of other seeds are given.
    """

    name: str
    right: tuple[Answer, ...]
    toy: Networks
    cause: Cause | None = None
    rest: Callable[[TrainedToy], bool] = lambda _: True
    siblings: bool = False


def _dense(basis: Literal["aligned", "rotated"]) -> Networks:
    def toy(split: Split, seeds: tuple[int, ...]) -> Toy:
        n, m, importance = (8, 4, 0.7) if split == "calibration" else (12, 5, 0.6)
        return SuperpositionToy(
            n_features=n,
            n_hidden=m,
            density=(1.0,),
            importance=(importance,),
            basis=basis,
            seeds=seeds,
            optimiser=_FAST,
        )

    return toy


_FAST = OptimiserConfig(steps=3_000, lr=5e-3)


def _sparse(split: Split, seeds: tuple[int, ...]) -> Toy:
    n, m, p = (5, 2, 0.05) if split == "calibration" else (10, 4, 0.03)
    return SuperpositionToy(n_features=n, n_hidden=m, density=(p,), seeds=seeds, optimiser=_FAST)


def _correlated(split: Split, seeds: tuple[int, ...]) -> Toy:
    n, p = (3, 0.2) if split == "calibration" else (4, 0.15)
    return CorrelatedPairsToy(n_pairs=n, n_hidden=n, density=p, rho=(0.9,), seeds=seeds)


def _incidental(split: Split, seeds: tuple[int, ...]) -> Toy:
    n, m = (16, 32) if split == "calibration" else (24, 64)
    return IncidentalToy(n_features=n, n_neurons=m, seeds=seeds)


def _universal(split: Split, seeds: tuple[int, ...]) -> Toy:
    n, d = (16, 64) if split == "calibration" else (20, 96)
    return UniversalAndToy(n_features=n, n_neurons=d, q=0.3, active=3, seeds=seeds)


def _compressed(split: Split, seeds: tuple[int, ...]) -> Toy:
    n, m, sigma = (40, 20, 0.03) if split == "calibration" else (30, 15, 0.05)
    return CompressedComputationToy(
        n_features=n, n_hidden=m, mixing=(sigma,), seeds=seeds, optimiser=OptimiserConfig(steps=2_000, lr=3e-3)
    )


CLASSES: tuple[Class, ...] = (
    Class("dense TMS on its axes", ("aligned",), _dense("aligned"), cause="aligned"),
    Class("the same networks, rotated", ("rotated",), _dense("rotated"), cause="rotated"),
    Class("sparse TMS", ("superposition",), _sparse, cause="superposition"),
    Class("universal AND", ("superposition",), _universal),
    Class(
        "x·y",
        ("rotated",),
        lambda split, seeds: ProductToy(n_neurons=4 if split == "calibration" else 6, seeds=seeds),
        cause="rotated",
        siblings=True,
    ),
    Class("correlated pairs", ("correlated",), _correlated, cause="correlated"),
    Class("incidental", ("incidental",), _incidental, cause="incidental", siblings=True),
    Class(
        "skip-trigram",
        ("non_linear",),
        lambda split, seeds: SkipTrigramToy(n_fillers=10 if split == "calibration" else 8, seeds=seeds),
        rest=lambda toy: toy.setting["made"] == "by training",
    ),
    Class(
        "positive scaling",
        ("non_linear",),
        lambda split, seeds: ScalingToy(biases=(True,), width=32 if split == "calibration" else 24, seeds=seeds),
    ),
    Class("bit extraction", ("compositional",), lambda _, seeds: BitExtractionToy(seeds=seeds)),
    Class("compressed computation with mixing", (), _compressed, rest=lambda toy: toy.truth.cause is None),
)
"""Rows of the matrix, in the order they are printed."""

NULLS: tuple[Literal["gaussian", "spectrum", "permuted"], ...] = ("gaussian", "spectrum", "permuted")


@dataclass(frozen=True)
class Row:
    """One row of the matrix.

    Attributes:
        name: of the class.
        right: the answers that are right.
        answers: how many networks got each answer.
        reasons: of abstaining, the commonest first.
        skipped: networks that did not train, or whose truth is another cause.
    """

    name: str
    right: tuple[Answer, ...]
    answers: Mapping[str, int]
    reasons: Mapping[str, int]
    skipped: int

    @property
    def n(self) -> int:
        """How many networks were diagnosed."""
        return sum(self.answers.values())

    def share(self, *answers: str) -> tuple[float, Interval]:
        """Share of the networks with one of these answers, with its Wilson interval."""
        return share_interval(sum(self.answers.get(answer, 0) for answer in answers), self.n)

    @property
    def wrong(self) -> tuple[float, Interval]:
        """Share of networks with an answer that is neither right nor an abstention; `none` counts as one."""
        return self.share(*(answer for answer in ANSWERS if answer not in (*self.right, "none", "abstain")))


def confusion(
    split: Split,
    reporter: Reporter,
    *,
    n_seeds: int = 20,
    config: DiagnosisConfig | None = None,
    names: Sequence[str] = (),
) -> Iterator[Row]:
    """Diagnose every class's networks, a row at a time, then the nulls.

    Args:
        split: the set of seeds and hyperparameters.
        reporter: told of the progress.
        n_seeds: networks a class.
        config: of the diagnoses; each network's seed is derived from it.
        names: the rows wanted; all by default.
    """
    config = config or DiagnosisConfig()
    first = SEEDS[split]
    seeds = tuple(range(first, first + n_seeds))
    for kind in CLASSES:
        if not names or kind.name in names:
            yield _row(kind, kind.toy(split, seeds).train(reporter), config, reporter)
    if not names or any(name.startswith("null") for name in names):
        trained = [toy for toy in _sparse(split, seeds).train(reporter) if toy.trained]
        for null in NULLS:
            yield _count(f"null: {null} weights", (), [_null(toy, null, config) for toy in trained], 0)
        yield _count("null: dense random inputs", (), [_dense_inputs(toy, config) for toy in trained], 0)


def _row(kind: Class, toys: list[TrainedToy], config: DiagnosisConfig, reporter: Reporter) -> Row:
    kept = [t for t in toys if t.trained and (kind.cause is None or t.truth.cause == kind.cause) and kind.rest(t)]
    progress = reporter.task(kind.name, len(kept), "networks")
    found: list[Diagnosis] = []
    for i, toy in enumerate(kept):
        others = [kept[(i + j) % len(kept)].network() for j in range(1, 1 + N_SIBLINGS)] if kind.siblings else []
        found.append(diagnose(toy.network(), toy.truth.site, _inputs(toy), _seeded(config, toy), siblings=others))
        progress.update(i + 1, note=found[-1].answer)
    return _count(kind.name, kind.right, found, len(toys) - len(kept))


def _null(toy: TrainedToy, kind: Literal["gaussian", "spectrum", "permuted"], config: DiagnosisConfig) -> Diagnosis:
    inputs = _inputs(toy)
    network = load_network(toy.module, reinit=ReinitConfig(kind=kind, seed=toy.seed), example_inputs=inputs[:2])
    return diagnose(network, toy.truth.site, inputs, _seeded(config, toy))


def _dense_inputs(toy: TrainedToy, config: DiagnosisConfig) -> Diagnosis:
    shape = _inputs(toy).shape
    inputs = torch.rand(shape, generator=make_generator(toy.seed, "confusion", "dense"))
    return diagnose(toy.network(), toy.truth.site, inputs, _seeded(config, toy))


def _inputs(toy: TrainedToy) -> Tensor:
    return toy.draw(ROWS, make_generator(toy.seed, "confusion")).inputs


def _seeded(config: DiagnosisConfig, toy: TrainedToy) -> DiagnosisConfig:
    return config.model_copy(update={"seed": derive_seed(config.seed, "confusion", toy.seed)})


def _count(name: str, right: tuple[Answer, ...], found: Sequence[Diagnosis], skipped: int) -> Row:
    answers = Counter(diagnosis.answer for diagnosis in found)
    reasons = Counter(diagnosis.reason for diagnosis in found if diagnosis.answer == "abstain")
    return Row(name, right, answers, dict(reasons.most_common()), skipped)


def as_markdown(rows: Sequence[Row]) -> str:
    """The matrix in percent, with Wilson 95% intervals of the right and the wrong answers, and why it abstained."""
    shown = [answer for answer in ANSWERS if any(row.answers.get(answer) for row in rows)]
    lines = [
        "| truth | n | " + " | ".join(answer.replace("_", "-") for answer in shown) + " | right | wrong |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for row in rows:
        cells = [f"{row.share(answer)[0]:.0%}" if row.answers.get(answer) else "0" for answer in shown]
        right = _percent(*row.share(*row.right)) if row.right else "—"
        lines.append(f"| {row.name} | {row.n} | {' | '.join(cells)} | {right} | {_percent(*row.wrong)} |")
    why = [
        f"- {row.name}: " + "; ".join(f"{reason} ({count})" for reason, count in row.reasons.items())
        for row in rows
        if row.reasons
    ]
    return "\n".join([*lines, "", "Why it abstained:", "", *why, ""])


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows as plain values, to be saved."""
    return [dataclasses.asdict(row) for row in rows]


def _percent(share: float, interval: Interval) -> str:
    return f"{share:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
