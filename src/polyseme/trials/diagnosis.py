"""How often a diagnosis is right, wrong or silent: the confusion matrix over networks whose cause is known.

Every class has two sets of networks: `calibration`, on which thresholds may be set, and `test`, with other seeds and
other sizes or densities, which are used only for the report.
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
from polyseme.core.errors import known_name
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import Interval
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.diagnosis import ANSWERS, Answer, Diagnosis, DiagnosisConfig, diagnose
from polyseme.networks import Network, load_network
from polyseme.nulls import make_null
from polyseme.zoo.bit_extraction.toy import BitExtractionToy
from polyseme.zoo.compressed_computation.toy import CompressedComputationToy
from polyseme.zoo.correlated_pairs.toy import CorrelatedPairsToy
from polyseme.zoo.incidental.toy import IncidentalToy
from polyseme.zoo.product.toy import ProductToy
from polyseme.zoo.scaling.toy import ScalingToy
from polyseme.zoo.skip_trigram.toy import SkipTrigramToy
from polyseme.zoo.superposition.toy import ReluOutput, SuperpositionToy
from polyseme.zoo.tools.checks import share_interval
from polyseme.zoo.tools.kept import kept
from polyseme.zoo.tools.stack import OptimiserConfig, train_stack
from polyseme.zoo.tools.toy import Cause, Toy, TrainedToy
from polyseme.zoo.universal_and.toy import UniversalAndToy

Split = Literal["calibration", "test"]
SEEDS: dict[Split, int] = {"calibration": 0, "test": 1_000}
"""First seed of each set; a set has fewer than a thousand networks."""
ROWS = 4_096
N_SIBLINGS = 8
VERSION = 3
"""Raised when the code, or a default, changes what a row finds; kept rows are then computed again."""

Networks = Callable[[Split, tuple[int, ...]], Toy]


@dataclass(frozen=True)
class Class:
    """Networks that are polysemantic for one reason, or a null of them.

    Attributes:
        name: the name of the row.
        right: the answers that are right; abstaining is never wrong.
        toy: maps a set and its seeds to the toy's config.
        cause: only networks with this true cause count; None counts all that trained.
        rest: further conditions on a network.
        siblings: whether the diagnosis is given networks of other seeds.
        spare: how many networks are trained for each one wanted, as some do not train or have another true cause.
        null: turns each network and its inputs into the null that is diagnosed; then no answer is right.
    """

    name: str
    right: tuple[Answer, ...]
    toy: Networks
    cause: Cause | None = None
    rest: Callable[[TrainedToy], bool] = lambda _: True
    siblings: bool = False
    spare: float = 1.0
    null: Callable[[TrainedToy, Tensor], tuple[Network, Tensor]] | None = None


def _sets(kind: Any, calibration: dict[str, Any], test: dict[str, Any], **both: Any) -> Networks:
    """A toy's configs: the fields of the one set, those of the other, and those that they share."""
    return lambda split, seeds: kind(**both, **(calibration if split == "calibration" else test), seeds=seeds)


def _dense(basis: Literal["aligned", "rotated"]) -> Networks:
    return _sets(
        SuperpositionToy,
        {"n_features": 8, "n_hidden": 4, "importance": (0.7,)},
        {"n_features": 12, "n_hidden": 5, "importance": (0.6,)},
        density=(1.0,),
        basis=basis,
        optimiser=_FAST,
    )


_FAST = OptimiserConfig(steps=3_000, lr=5e-3)
_SPARSE = _sets(
    SuperpositionToy,
    {"n_features": 5, "n_hidden": 2, "density": (0.05,)},
    {"n_features": 10, "n_hidden": 4, "density": (0.03,)},
    optimiser=_FAST,
)
_CORRELATED = _sets(
    CorrelatedPairsToy,
    {"n_pairs": 3, "n_hidden": 3, "density": 0.2},
    {"n_pairs": 4, "n_hidden": 4, "density": 0.15},
    rho=(0.9,),
)
_INCIDENTAL = _sets(IncidentalToy, {"n_features": 16, "n_neurons": 32}, {"n_features": 24, "n_neurons": 64})
_COMPRESSED = _sets(
    CompressedComputationToy,
    {"n_features": 40, "n_hidden": 20, "mixing": (0.03,)},
    {"n_features": 30, "n_hidden": 15, "mixing": (0.05,)},
    optimiser=OptimiserConfig(steps=2_000, lr=3e-3),
)
_UNIVERSAL = _sets(
    UniversalAndToy, {"n_features": 16, "n_neurons": 64}, {"n_features": 20, "n_neurons": 96}, q=0.3, active=3
)
_SKIP_TRIGRAM = _sets(SkipTrigramToy, {"n_fillers": 10}, {"n_fillers": 8})
_PRODUCT = _sets(ProductToy, {"n_neurons": 4}, {"n_neurons": 6})
_SCALING = _sets(ScalingToy, {"width": 32}, {"width": 24}, biases=(True,))
_BITS = _sets(BitExtractionToy, {}, {})


def _trained(toy: TrainedToy) -> bool:
    return toy.setting["made"] == "by training"


CLASSES: tuple[Class, ...] = (
    Class("dense TMS on its axes", ("aligned",), _dense("aligned"), cause="aligned"),
    Class("the same networks, rotated", ("rotated",), _dense("rotated"), cause="rotated"),
    Class("sparse TMS", ("superposition",), _SPARSE, cause="superposition"),
    Class("universal AND", ("superposition",), _UNIVERSAL),
    Class("x·y", ("rotated",), _PRODUCT, cause="rotated", siblings=True, spare=1.5),
    Class("correlated pairs", ("correlated",), _CORRELATED, cause="correlated", spare=2.5),
    Class("incidental", ("incidental",), _INCIDENTAL, cause="incidental", siblings=True, spare=1.5),
    Class("skip-trigram", ("non_linear",), _SKIP_TRIGRAM, rest=_trained, spare=1.5),
    Class("positive scaling", ("non_linear",), _SCALING),
    Class("bit extraction", ("compositional",), _BITS),
    Class("compressed computation with mixing", (), _COMPRESSED, rest=lambda toy: toy.truth.cause is None),
)
"""Rows of the matrix, in the order in which they are printed."""


def _reinitialised(kind: str) -> Callable[..., tuple[Network, Tensor]]:
    def make(toy: TrainedToy, inputs: Tensor) -> tuple[Network, Tensor]:
        return make_null(kind, toy.seed).network(load_network(toy.module, example_inputs=inputs[:2])), inputs

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
    Class("null: trained on shuffled targets, sparse TMS", (), _SPARSE, null=_shuffled_targets),
    *(
        Class(f"null: {kind.split('_')[0]} weights, {name}", (), toy, rest=rest, null=_reinitialised(kind))
        for name, toy, rest in (("sparse TMS", _SPARSE, lambda _: True), ("skip-trigram", _SKIP_TRIGRAM, _trained))
        for kind in ("gaussian_reinit", "spectrum_reinit", "permuted_weights")
    ),
    Class("null: dense random inputs, sparse TMS", (), _SPARSE, null=_dense_inputs),
)
"""The nulls: rows in which every answer but `none` and `abstain` is wrong."""


class ConfusionConfig(Config):
    """How often a diagnosis is right, wrong or silent, over networks whose cause is known."""

    split: Split = "calibration"
    """calibration: networks on which thresholds were set; test: other seeds, sizes and densities."""
    n_seeds: int = Field(default=20, ge=1, le=400)
    """Networks per row; those that do not train, or have another true cause, are replaced and counted."""
    rows: tuple[Name, ...] = Field(default=(), max_length=1000)
    """Names of the rows to compute; by default all."""
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    """How every network is diagnosed; each seed is derived from this one and the network's."""


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
    """How many networks did not train or have another true cause."""

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
        """The reasons for abstaining, and how often each was given."""
        return Counter(case.diagnosis.reason for case in self.cases if case.diagnosis.answer == "abstain")

    def share(self, *answers: Answer) -> tuple[float, Interval]:
        """Share of the networks with one of these answers, with its Wilson interval."""
        found = self.answers
        return share_interval(sum(found[answer] for answer in answers), self.n)

    @property
    def wrong(self) -> tuple[float, Interval]:
        """Share of the networks with an answer that is neither right, nor `none`, nor an abstention."""
        fine: tuple[Answer, ...] = (*self.right, "none", "abstain")
        others: list[Answer] = [answer for answer in ANSWERS if answer not in fine]
        return self.share(*others)


def confusion(config: ConfusionConfig, reporter: Reporter | None = None, *, root: Path | None = None) -> Iterator[Row]:
    """Diagnose every class's networks, a row at a time, then the nulls.

    Args:
        config: which networks, and how they are diagnosed.
        reporter: receives progress updates.
        root: a folder that keeps each finished row, from which a killed run resumes; None keeps nothing.

    Raises:
        InputError: a row of that name does not exist.
    """
    reporter = reporter or Silent()
    table = {kind.name: kind for kind in (*CLASSES, *NULLS)}
    wanted = [known_name(name, list(table), "there is no row") for name in config.rows] or list(table)

    def row(kind: Class) -> Row:
        return kept(
            root,
            "confusion",
            decisive(kind.name, config),
            lambda _: _row(kind, config, reporter),
            Row,
            "row.json",
            version=VERSION,
            reporter=reporter,
        )

    return (row(kind) for name, kind in table.items() if name in wanted)


def decisive(row: str, config: ConfusionConfig) -> dict[str, Any]:
    """What decides a row, besides `VERSION`; defaults are left out."""
    return {"row": row, **identity(config, exclude=("rows",))}


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
    """The diagnosis of network i; with `siblings`, the toys after it, and then those before it, are its siblings."""
    others = islice((*toys[i + 1 :], *toys[:i]), N_SIBLINGS if siblings else 0)
    of_seed = config.model_copy(update={"seed": seed})
    return diagnose(network, toys[i].truth.site, inputs, of_seed, siblings=[other.network() for other in others])


def as_markdown(rows: Sequence[Row]) -> str:
    """The matrix in percent, with Wilson 95% intervals of right and wrong answers, and the reasons for abstaining."""
    shown: list[Answer] = [answer for answer in ANSWERS if any(row.answers[answer] for row in rows)]
    lines = [
        "| truth | n | " + " | ".join(answer.replace("_", "-") for answer in shown) + " | right | wrong |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for row in rows:
        cells = [f"{row.share(answer)[0]:.0%}" if row.answers[answer] else "0" for answer in shown]
        right = percent(*row.share(*row.right)) if row.right else "—"
        lines.append(f"| {row.name} | {row.n} | {' | '.join(cells)} | {right} | {percent(*row.wrong)} |")
    why = [
        f"- {row.name}: " + "; ".join(f"{reason} ({count})" for reason, count in row.reasons.most_common())
        for row in rows
        if row.reasons
    ]
    left_out = [f"- {row.name}: {row.skipped}" for row in rows if row.skipped]
    parts = [lines, ["", "Why it abstained:", "", *why] if why else []]
    if left_out:
        parts.append(["", "Networks left out because they did not train or have another true cause:", "", *left_out])
    return "\n".join(line for part in parts for line in part) + "\n"


def percent(share: float, interval: Interval) -> str:
    """A share with its interval: `40% [12%, 77%]`; a dash where nothing was counted."""
    return "—" if share != share else f"{share:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
