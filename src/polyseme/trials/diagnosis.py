"""How often a diagnosis is right, wrong or silent: the confusion matrix over networks whose cause is known.

Every class has two sets of networks: `calibration`, on which thresholds may be set, and `test`, of other seeds and
other sizes or densities, which are looked at only to be reported.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Config, Name, Record, identity
from polyseme.core.errors import InputError, nearest_names
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import Interval
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.diagnosis import ANSWERS, Answer, Diagnosis, DiagnosisConfig, diagnose
from polyseme.networks import Network, load_network
from polyseme.nulls import make_null, on_network
from polyseme.store import Artifact, Store, save_json
from polyseme.zoo.bit_extraction.toy import BitExtractionToy
from polyseme.zoo.compressed_computation.toy import CompressedComputationToy
from polyseme.zoo.correlated_pairs.toy import CorrelatedPairsToy
from polyseme.zoo.incidental.toy import IncidentalToy
from polyseme.zoo.product.toy import ProductToy
from polyseme.zoo.scaling.toy import ScalingToy
from polyseme.zoo.skip_trigram.toy import SkipTrigramToy
from polyseme.zoo.superposition.toy import ReluOutput, SuperpositionToy
from polyseme.zoo.tools.checks import share_interval
from polyseme.zoo.tools.stack import OptimiserConfig, train_stack
from polyseme.zoo.tools.toy import Cause, Toy, TrainedToy
from polyseme.zoo.universal_and.toy import UniversalAndToy

Split = Literal["calibration", "test"]
SEEDS: dict[Split, int] = {"calibration": 0, "test": 1_000}
"""First seed of each set; a set never has as many as a thousand."""
ROWS = 4_096
N_SIBLINGS = 8
VERSION = 1
"""Raised when code, or a default, changes what a row finds: kept rows are then made again."""

Networks = Callable[[Split, tuple[int, ...]], Toy]


@dataclass(frozen=True)
class Class:
    """Networks that are polysemantic for one reason, or a null of them.

    Attributes:
        name: of the row.
        right: the answers that are right; abstaining is never wrong.
        toy: from the set and its seeds to the toy's config.
        cause: only networks with this cause by their truth are counted; None counts all that trained.
        rest: further conditions on a network.
        siblings: whether networks of other seeds are given.
        spare: networks trained for each one wanted, where some do not train or have another cause by their truth.
        null: what is made of each network and its inputs before it is diagnosed; no answer is right then.
    """

    name: str
    right: tuple[Answer, ...]
    toy: Networks
    cause: Cause | None = None
    rest: Callable[[TrainedToy], bool] = lambda _: True
    siblings: bool = False
    spare: float = 1.0
    null: Callable[[TrainedToy, Tensor], tuple[Network, Tensor]] | None = None


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


def _skip_trigram(split: Split, seeds: tuple[int, ...]) -> Toy:
    return SkipTrigramToy(n_fillers=10 if split == "calibration" else 8, seeds=seeds)


def _trained(toy: TrainedToy) -> bool:
    return toy.setting["made"] == "by training"


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
        spare=1.5,
    ),
    Class("correlated pairs", ("correlated",), _correlated, cause="correlated", spare=2.5),
    Class("incidental", ("incidental",), _incidental, cause="incidental", siblings=True, spare=1.5),
    Class("skip-trigram", ("non_linear",), _skip_trigram, rest=_trained, spare=1.5),
    Class(
        "positive scaling",
        ("non_linear",),
        lambda split, seeds: ScalingToy(biases=(True,), width=32 if split == "calibration" else 24, seeds=seeds),
    ),
    Class("bit extraction", ("compositional",), lambda _, seeds: BitExtractionToy(seeds=seeds)),
    Class("compressed computation with mixing", (), _compressed, rest=lambda toy: toy.truth.cause is None),
)
"""Rows of the matrix, in the order they are printed."""


def _reinitialised(kind: str) -> Callable[..., tuple[Network, Tensor]]:
    def make(toy: TrainedToy, inputs: Tensor) -> tuple[Network, Tensor]:
        return on_network(make_null(kind, toy.seed), load_network(toy.module, example_inputs=inputs[:2])), inputs

    return make


def _dense_inputs(toy: TrainedToy, inputs: Tensor) -> tuple[Network, Tensor]:
    generator = make_generator(toy.seed, "confusion", "dense")
    return toy.network(), torch.rand(inputs.shape, generator=generator, dtype=torch.float32)


def _shuffled_targets(toy: TrainedToy, inputs: Tensor) -> tuple[Network, Tensor]:
    """A network of the same shape, trained as long to answer with other rows of its data."""
    generator = make_generator(toy.seed, "confusion", "shuffled")
    model = toy.module
    assert isinstance(model, ReluOutput)
    W = torch.randn(model.W.shape, generator=generator, dtype=torch.float32) * math.sqrt(2 / sum(model.W.shape))
    parameters = {"W": W[None], "b": torch.zeros(1, W.shape[1], dtype=torch.float32)}

    def loss(_: int) -> Tensor:
        x = toy.draw(1024, generator).inputs
        target = x[torch.randperm(len(x), generator=generator)]
        out = torch.relu(x @ parameters["W"].mT @ parameters["W"] + parameters["b"])
        return (target - out).square().mean((1, 2))

    train_stack(parameters, loss, _FAST, reporter=Silent())
    return load_network(ReluOutput(parameters["W"][0], parameters["b"][0]), example_inputs=inputs[:2]), inputs


NULLS: tuple[Class, ...] = (
    Class("null: trained on shuffled targets, sparse TMS", (), _sparse, null=_shuffled_targets),
    *(
        Class(f"null: {kind.split('_')[0]} weights, {name}", (), toy, rest=rest, null=_reinitialised(kind))
        for name, toy, rest in (("sparse TMS", _sparse, lambda _: True), ("skip-trigram", _skip_trigram, _trained))
        for kind in ("gaussian_reinit", "spectrum_reinit", "permuted_weights")
    ),
    Class("null: dense random inputs, sparse TMS", (), _sparse, null=_dense_inputs),
)
"""The null ladder: rows in which an answer other than `none` or `abstain` is wrong."""


class ConfusionConfig(Config):
    """How often a diagnosis is right, wrong or silent, over networks whose cause is known."""

    split: Split = "calibration"
    """calibration: networks on which thresholds were set; test: other seeds, sizes and densities."""
    n_seeds: int = Field(default=20, ge=1, le=400)
    """Networks a row; those that do not train, or whose truth is another cause, are replaced and counted."""
    rows: tuple[Name, ...] = Field(default=(), max_length=1000)
    """Rows wanted, by name; all by default."""
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    """How every network is diagnosed; each seed is derived from this one's and the network's."""


class Case(Record):
    """One network's diagnosis."""

    seed: int
    diagnosis: Diagnosis


class Row(Record):
    """One row of the matrix."""

    name: str
    right: tuple[Answer, ...]
    """The answers that are right; none for a null."""
    cases: tuple[Case, ...]
    skipped: int
    """Networks that did not train, or whose truth is another cause."""

    @property
    def n(self) -> int:
        """How many networks were diagnosed."""
        return len(self.cases)

    @property
    def answers(self) -> Counter[Answer]:
        """How many networks got each answer."""
        return Counter(case.diagnosis.answer for case in self.cases)

    @property
    def reasons(self) -> Counter[str]:
        """Why it abstained, and how often."""
        return Counter(case.diagnosis.reason for case in self.cases if case.diagnosis.answer == "abstain")

    def share(self, *answers: Answer) -> tuple[float, Interval]:
        """Share of the networks with one of these answers, with its Wilson interval."""
        found = self.answers
        return share_interval(sum(found[answer] for answer in answers), self.n)

    @property
    def wrong(self) -> tuple[float, Interval]:
        """Share of networks with an answer that is neither right nor an abstention; `none` counts as one."""
        fine: tuple[Answer, ...] = (*self.right, "none", "abstain")
        others: list[Answer] = [answer for answer in ANSWERS if answer not in fine]
        return self.share(*others)


def confusion(config: ConfusionConfig, reporter: Reporter | None = None, *, root: Path | None = None) -> Iterator[Row]:
    """Diagnose every class's networks, a row at a time, then the nulls.

    Args:
        config: which networks, and how they are diagnosed.
        reporter: told of the progress.
        root: a folder that keeps each row as it is finished, so that a run that was killed goes on from there.

    Raises:
        InputError: there is no row of a name.
    """
    reporter = reporter or Silent()
    table = {kind.name: kind for kind in (*CLASSES, *NULLS)}
    for name in config.rows:
        if name not in table:
            near = nearest_names(name, list(table)) or list(table)
            raise InputError(f"there is no row {name!r}", where="rows", fix=f"did you mean {', '.join(near)}?")
    store = None if root is None else Store(root)
    return (_kept(kind, config, store, reporter) for name, kind in table.items() if name in (config.rows or table))


def decisive(row: str, config: ConfusionConfig) -> dict[str, Any]:
    """What decides a row, beside `VERSION`: defaults are left out."""
    return {"row": row, **identity(config, exclude=("rows",))}


def _kept(kind: Class, config: ConfusionConfig, store: Store | None, reporter: Reporter) -> Row:
    if store is None:
        return _row(kind, config, reporter)

    def make(folder: Path) -> None:
        save_json(folder / "row.json", _row(kind, config, reporter).model_dump(mode="json"))

    def load(artifact: Artifact) -> Row:
        return artifact.parsed("row.json", Row.model_validate)

    return store.stage("confusion", decisive(kind.name, config), {}, make, load, version=VERSION, reporter=reporter)[1]


def _row(kind: Class, config: ConfusionConfig, reporter: Reporter) -> Row:
    first = SEEDS[config.split]
    toys = kind.toy(config.split, tuple(range(first, first + math.ceil(kind.spare * config.n_seeds)))).train(reporter)
    counted = [toy for toy in toys if kind.rest(toy)]
    fit = [toy for toy in counted if toy.trained and kind.cause in (None, toy.truth.cause)]
    kept = fit[: config.n_seeds]
    progress = reporter.task(kind.name, len(kept), "networks")
    cases: list[Case] = []
    for i, toy in enumerate(kept):
        inputs = toy.draw(ROWS, make_generator(toy.seed, "confusion")).inputs
        network = toy.network()
        if kind.null is not None:
            network, inputs = kind.null(toy, inputs)
        seed = derive_seed(config.diagnosis.seed, "confusion", toy.seed)
        found = diagnosed(kept, i, network, inputs, config.diagnosis, seed, siblings=kind.siblings)
        cases.append(Case(seed=toy.seed, diagnosis=found))
        progress.update(i + 1, note=found.answer)
    return Row(name=kind.name, right=kind.right, cases=tuple(cases), skipped=len(counted) - len(fit))


def diagnosed(
    toys: Sequence[TrainedToy],
    i: int,
    network: Network,
    inputs: Tensor,
    config: DiagnosisConfig,
    seed: int,
    *,
    siblings: bool,
) -> Diagnosis:
    """The diagnosis of network i; with `siblings`, the toys after it and then those before are given beside it."""
    others = islice((*toys[i + 1 :], *toys[:i]), N_SIBLINGS if siblings else 0)
    of_seed = config.model_copy(update={"seed": seed})
    return diagnose(network, toys[i].truth.site, inputs, of_seed, siblings=[other.network() for other in others])


def as_markdown(rows: Sequence[Row]) -> str:
    """The matrix in percent, with Wilson 95% intervals of the right and the wrong answers, and why it abstained."""
    shown: list[Answer] = [answer for answer in ANSWERS if any(row.answers[answer] for row in rows)]
    lines = [
        "| truth | n | " + " | ".join(answer.replace("_", "-") for answer in shown) + " | right | wrong |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for row in rows:
        cells = [f"{row.share(answer)[0]:.0%}" if row.answers[answer] else "0" for answer in shown]
        right = _percent(*row.share(*row.right)) if row.right else "—"
        lines.append(f"| {row.name} | {row.n} | {' | '.join(cells)} | {right} | {_percent(*row.wrong)} |")
    why = [
        f"- {row.name}: " + "; ".join(f"{reason} ({count})" for reason, count in row.reasons.most_common())
        for row in rows
        if row.reasons
    ]
    left_out = [f"- {row.name}: {row.skipped}" for row in rows if row.skipped]
    parts = [lines, ["", "Why it abstained:", "", *why] if why else []]
    if left_out:
        parts.append(["", "Networks left out, untrained or of another cause by their truth:", "", *left_out])
    return "\n".join(line for part in parts for line in part) + "\n"


def _percent(share: float, interval: Interval) -> str:
    return "—" if share != share else f"{share:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
