"""How often the verdicts are wrong: the whole procedure on networks whose features are planted."""

from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from scipy.sparse import csr_array

from polyseme.activations import Firings, TensorSource, collect_firings
from polyseme.causal import CausalConfig, causal_effects
from polyseme.causal.effect import Writer
from polyseme.core.binding import Binding
from polyseme.core.config import Config, Count, Record, Seed, Width
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import STATUSES, MetricRecord, Status
from polyseme.core.seeds import derive_seed
from polyseme.core.stats import wilson_interval
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import TopKConfig
from polyseme.evaluation.specificity import specificity
from polyseme.kernels.shield import shielded
from polyseme.networks import Network, load_network
from polyseme.nulls import make_null
from polyseme.training import Job, TrainingConfig, fit
from polyseme.trials.planted import KINDS, NON_FEATURES, SITE, Counts, Kind, PlantedNetwork
from polyseme.verdicts.judge import VerdictConfig, judge
from polyseme.zoo.tools.exact import Directions

Mode = Literal["trained", "oracle"]
ControlKind = Literal[
    "planted", "gaussian_reinit", "spectrum_reinit", "permuted_weights", "shuffled_tokens", "unigram_tokens"
]
Controls = tuple[str, ...]
PLANTED: ControlKind = "planted"
D, VOCABULARY, CONTEXT, TOPIC = 128, 256, 64, 0.5
MATCH = 0.7
"""A latent stands for the planted variable that it correlates with most, if by at least this much."""


class CalibrationConfig(Config):
    """What is planted, what it is compared with, and how the dictionaries that look for it are made."""

    n_networks: int = Field(default=6, ge=1, le=10_000)
    """Number of planted networks, each with its own controls, text and dictionaries."""
    features: int = Field(default=40, ge=5, le=2**12)
    """Planted features of each network; non-features come in proportion (hidden 0.4, bystander 0.6, input 0.6)."""
    n_documents: int = Field(default=60, ge=2, le=10**6)
    """Number of held-out documents of 384 tokens."""
    n_train_tokens: Count = 400_000
    """Number of tokens that each dictionary is trained on."""
    n_latents: Width = 160
    """Width of the trained dictionaries; a network has 2.6 variables for each feature."""
    k: Width = 10
    """Active latents per token of the trained dictionaries."""
    controls: tuple[ControlKind, ...] = Field(default=get_args(ControlKind), min_length=1, max_length=6)
    """Kinds of control, each made by the code that makes it for a study; every combination of them is judged.
    `planted`, which is judged alone, is another planted network that shares only the `input` variables."""
    modes: tuple[Mode, ...] = Field(default=("trained", "oracle"), min_length=1, max_length=2)
    """`trained`: dictionaries as a study makes them; `oracle`: the truth with noise, so that nothing is lost in
    training, with the control `planted` alone."""
    seed: Seed = 0
    """Seed of every random draw."""
    causal: CausalConfig = CausalConfig()
    verdicts: VerdictConfig = VerdictConfig()

    @model_validator(mode="after")
    def _k_possible(self) -> "CalibrationConfig":
        self.dictionary.width(D)
        return self

    @property
    def dictionary(self) -> TopKConfig:
        """The dictionary that is trained on every planted network and control."""
        return TopKConfig(n_latents=self.n_latents, k=self.k)

    @property
    def counts(self) -> Counts:
        """Number of variables of each kind in a network."""
        return Counts(
            feature=self.features,
            hidden=round(0.4 * self.features),
            bystander=round(0.6 * self.features),
            input=round(0.6 * self.features),
        )

    @property
    def combinations(self) -> tuple[Controls, ...]:
        """The sets of controls that latents are compared with."""
        shipped = sorted(kind for kind in self.controls if kind != PLANTED)
        alone: list[Controls] = [(PLANTED,)] if PLANTED in self.controls else []
        return (*alone, *(some for n in range(1, len(shipped) + 1) for some in combinations(shipped, n)))


class CalibrationGroup(Record):
    """The planted variables of one kind, as one kind of dictionary and one set of controls show them.

    A variable counts as supported if a latent that stands for it is; one that is `not_found` has no such latent.
    """

    kind: Kind
    counts: dict[Status, int]
    """Verdicts on the variables found; if several latents stand for one, the most favourable verdict."""
    not_found: int
    supported_by_network: tuple[tuple[int, int], ...]
    """(supported, found) for each planted network."""


class CalibratedProcedure(Record):
    """Error rates of the verdicts with one set of controls."""

    mode: Mode
    controls: Controls
    """Kinds of control, in alphabetical order."""
    groups: tuple[CalibrationGroup, ...]
    unmatched: dict[Status, int]
    """Verdicts on latents that stand for no single variable, of which the right verdict is not known."""

    def false_positive_rate(self, *kinds: Kind) -> MetricRecord:
        """Share of the planted non-features with a latent that are called supported, for some kinds or for all."""
        chosen = [g for g in self.groups if g.kind in (kinds or NON_FEATURES)]
        wrong = sum(g.counts["supported"] for g in chosen)
        return self._rate("false_positive_rate", wrong, sum(sum(g.counts.values()) for g in chosen))

    def miss_rate(self) -> MetricRecord:
        """Share of the planted features that are not called supported, those without a latent among them."""
        chosen = [g for g in self.groups if g.kind == "feature"]
        n = sum(sum(g.counts.values()) + g.not_found for g in chosen)
        return self._rate("miss_rate", n - sum(g.counts["supported"] for g in chosen), n)

    def summary(self) -> str:
        """The figures in a few lines."""
        lines = [f"{self.mode}, control {' + '.join(self.controls)}"]
        lines.append(f"    non-features called supported {_shown(self.false_positive_rate())}")
        lines += [f"        {kind} {_shown(self.false_positive_rate(kind))}" for kind in NON_FEATURES]
        lines.append(f"    features missed {_shown(self.miss_rate())}")
        return "\n".join(lines)

    def _rate(self, name: str, count: int, n: int) -> MetricRecord:
        return MetricRecord(
            name=name,
            value=count / n if n else float("nan"),
            interval=wilson_interval(count, n),
            n=n,
            n_unit="planted variables",
            better="lower",
            scope={"dictionaries": self.mode, "controls": " + ".join(self.controls)},
            details={"count": count},
        )


class CalibrationReport(Record):
    """Error rates of the verdicts on planted truth."""

    version: int = 2
    config: CalibrationConfig
    procedures: tuple[CalibratedProcedure, ...]

    def of(self, mode: Mode, *controls: str) -> CalibratedProcedure | None:
        """The figures with a set of controls; None if it was not measured."""
        wanted = tuple(sorted(controls))
        return next((p for p in self.procedures if p.mode == mode and p.controls == wanted), None)

    def summary(self) -> str:
        """The figures with each control alone and with all of them, in a few lines each."""
        most = max((len(p.controls) for p in self.procedures), default=1)
        return "\n".join(p.summary() for p in self.procedures if len(p.controls) in (1, most))


@shielded
def calibrate(config: CalibrationConfig | None = None, reporter: Reporter | None = None) -> CalibrationReport:
    """Run causal effects, model-specificity and verdicts on networks whose features are planted.

    Each planted network has text sampled from its own predictions, and controls: those a study can have, made by the
    same code, and a planted one that shares only its `input` variables. Dictionaries, two seeds on the network and one
    on each control, are judged by the functions that a study uses; then the verdicts are compared with what was
    planted.
    """
    config = config or CalibrationConfig()
    progress = (reporter or Silent()).task("calibration", config.n_networks * len(config.modes), "dictionaries")
    seen: list[_Seen] = []
    for i in range(config.n_networks):
        planted = _plant(config, i)
        for done, mode in enumerate(config.modes, start=1 + i * len(config.modes)):
            seen += _judge(config, planted, mode, i)
            progress.update(done)
    procedures = (
        _procedure(mode, controls, [one for one in seen if (one.mode, one.controls) == (mode, controls)])
        for mode, controls in product(config.modes, config.combinations)
    )
    return CalibrationReport(config=config, procedures=tuple(p for p in procedures if p is not None))


@dataclass(frozen=True)
class _Planted:
    module: PlantedNetwork
    control: PlantedNetwork
    network: Network
    train: Windows
    heldout: Windows


@dataclass(frozen=True)
class _Seen:
    """The best verdict on each variable (None if it has no latent), and the verdicts on the other latents."""

    mode: Mode
    controls: Controls
    kinds: tuple[Kind, ...]
    verdicts: list[Status | None]
    unmatched: list[Status]


def _plant(config: CalibrationConfig, i: int) -> _Planted:
    seed = derive_seed(config.seed, "network", i)
    module = PlantedNetwork(config.counts, d=D, vocabulary=VOCABULARY, seed=seed)
    control = PlantedNetwork(
        config.counts, d=D, vocabulary=VOCABULARY, seed=derive_seed(seed, "control"), shared=module
    )
    network = _network(module)
    # A quarter of the training tokens are distinct; the dictionaries see them repeatedly.
    n_train = max(1, config.n_train_tokens // (4 * 6 * (CONTEXT - 1)))
    train, heldout = (
        module.sample(n_documents=n, windows_each=6, context=CONTEXT, topic=TOPIC, seed=derive_seed(seed, name))
        for name, n in (("train", n_train), ("heldout", config.n_documents))
    )
    return _Planted(module, control, network, train, heldout)


def _network(module: PlantedNetwork) -> Network:
    example = torch.zeros(1, 2, dtype=torch.int64)
    return load_network(module, causal=True, example_inputs=example)


def _judge(config: CalibrationConfig, planted: _Planted, mode: Mode, i: int) -> list[_Seen]:
    """The verdicts on one network's latents, with every set of controls."""
    seed = derive_seed(config.seed, "judge", mode, i)
    writer, firings, other, controls = _trained(config, planted, seed) if mode == "trained" else _oracle(planted, seed)
    effects = causal_effects(
        planted.network,
        planted.heldout,
        Binding.at(SITE),
        writer,
        firings,
        config=config.causal,
        seed=derive_seed(seed, "causal"),
    )
    found = specificity(firings, other, controls, seed=derive_seed(seed, "specificity"))
    variable = _stands_for(firings, _truth(planted.module, planted.heldout))
    seen: list[_Seen] = []
    for some in config.combinations:
        if not set(some) <= set(controls):
            continue
        specific = replace(
            found,
            controls={name: found.controls[name] for name in some},
            margins={name: found.margins[name] for name in some},
        )
        judged = judge(firings, effects, specific, config=config.verdicts, statistic=config.causal.statistic)
        statuses: list[Status] = [verdict.status for verdict in judged.verdicts]
        best: list[Status | None] = [
            _best([statuses[j] for j in np.flatnonzero(variable == v)]) for v in range(len(planted.module.kinds))
        ]
        unmatched: list[Status] = [statuses[j] for j in np.flatnonzero(variable < 0) if judged.n_documents[j] > 0]
        seen.append(_Seen(mode, some, planted.module.kinds, best, unmatched))
    return seen


_Dictionaries = tuple[Writer, Firings, Firings, dict[str, Firings]]
"""Write directions, and the firings of the judged dictionary, of another seed's and of every control's."""


def _trained(config: CalibrationConfig, planted: _Planted, seed: int) -> _Dictionaries:
    """Dictionaries as a study makes them: two seeds on the network, one on each control."""

    def train(network: Network, windows: Windows, *names: str) -> list[tuple[Writer, Firings]]:
        tokens = torch.from_numpy(windows.tokens.astype(np.int64))
        vectors = network.read(tokens, [SITE])[SITE][~torch.from_numpy(windows.special)]
        source = TensorSource({"site": vectors}, seed=derive_seed(seed, "order"))
        jobs = [
            Job(name, config.dictionary.build(D, seed=s), Binding.at("site"), s)
            for name in names
            for s in [derive_seed(seed, "dictionary", name)]
        ]
        fit(jobs, source, TrainingConfig(n_tokens=config.n_train_tokens, batch_size=512, lr=3e-3))
        located = {job.name: (Binding.at(SITE), job.dictionary) for job in jobs}
        found = collect_firings(network, planted.heldout, located)
        return [(job.dictionary, found[job.name]) for job in jobs]

    (writer, one), (_, other) = train(planted.network, planted.train, "one", "other")
    controls: dict[str, Firings] = {}
    for kind in config.controls:
        network, windows = _null(planted, kind, derive_seed(seed, "control", kind))
        # The name seeds the dictionary: this one keeps the figures of the first calibration.
        [(_, controls[kind])] = train(network, windows, "control" if kind == PLANTED else kind)
    return writer, one, other, controls


def _null(planted: _Planted, kind: ControlKind, seed: int) -> tuple[Network, Windows]:
    """What a control's dictionary is trained on: the network and the text that a study would give it."""
    if kind == PLANTED:
        return _network(planted.control), planted.train
    null = make_null(kind, seed)
    return null.network(planted.network), null.windows(planted.train, VOCABULARY)


def _oracle(planted: _Planted, seed: int) -> _Dictionaries:
    """The truth with noise, as three dictionaries with one latent for each variable might find it."""
    made: list[Firings] = []
    for name, module in (("one", planted.module), ("other", planted.module), ("control", planted.control)):
        rng = np.random.default_rng(derive_seed(seed, name))
        z = _truth(module, planted.heldout)
        # Each latent has its own error rates: firings missed, spurious firings, noise of the strength.
        missed, spurious, noise = (rng.uniform(0, most, z.shape[1]) for most in (0.2, 0.01, 0.5))
        noisy = z * (rng.random(z.shape) >= missed) * np.exp(noise * rng.standard_normal(z.shape))
        noisy = np.where((rng.random(z.shape) < spurious) & (z == 0), rng.uniform(0.2, 1, z.shape), noisy)
        made.append(_firings(planted.heldout, noisy))
    generator = torch.Generator().manual_seed(derive_seed(seed, "directions"))
    true = planted.module.directions
    # The cosine to the truth is about 0.95.
    directions = torch.nn.functional.normalize(
        true + 0.33 * torch.randn(true.shape, generator=generator, dtype=torch.float32) / D**0.5, dim=1
    )
    return Directions(directions), made[0], made[1], {PLANTED: made[2]}


def _truth(module: PlantedNetwork, windows: Windows) -> Float[np.ndarray, "token variable"]:
    return module.variables(torch.from_numpy(windows.tokens.astype(np.int64))).numpy()[~windows.special]


def _firings(windows: Windows, activations: Float[np.ndarray, "token latent"]) -> Firings:
    window, position = (~windows.special).nonzero()
    ids = (windows.tokens[window, position], windows.document[window, position], window, position)
    return Firings(csr_array(activations.astype(np.float32)), *(x.astype(np.int32) for x in ids))


def _stands_for(firings: Firings, truth: Float[np.ndarray, "token variable"]) -> Int[np.ndarray, " latent"]:
    """The planted variable each latent correlates with most; −1 where that is less than `MATCH`."""
    variables = replace(firings, matrix=csr_array(truth.astype(np.float32)))
    r = firings.correlations(range(firings.n_latents), variables)
    return np.where(r.max(axis=1) >= MATCH, r.argmax(axis=1), -1)


def _procedure(mode: Mode, controls: Controls, seen: list[_Seen]) -> CalibratedProcedure | None:
    """The figures with one set of controls; None if nothing was judged with it."""
    if not seen:
        return None
    groups: list[CalibrationGroup] = []
    for kind in KINDS:
        by_network: list[list[Status | None]] = [
            [verdict for verdict, k in zip(one.verdicts, one.kinds, strict=True) if k == kind] for one in seen
        ]
        found: list[list[Status]] = [[verdict for verdict in some if verdict] for some in by_network]
        groups.append(
            CalibrationGroup(
                kind=kind,
                counts=_count([verdict for some in found for verdict in some]),
                not_found=sum(map(len, by_network)) - sum(map(len, found)),
                supported_by_network=tuple((some.count("supported"), len(some)) for some in found),
            )
        )
    unmatched = _count([status for one in seen for status in one.unmatched])
    return CalibratedProcedure(mode=mode, controls=controls, groups=tuple(groups), unmatched=unmatched)


def _best(verdicts: list[Status]) -> Status | None:
    return next((status for status in STATUSES if status in verdicts), None)


def _count(verdicts: list[Status]) -> dict[Status, int]:
    return {status: verdicts.count(status) for status in STATUSES}


def _shown(record: MetricRecord) -> str:
    low, high = (record.interval.low, record.interval.high) if record.interval else (float("nan"),) * 2
    return f"{record.value:.1%} [{low:.1%}, {high:.1%}] of {record.n}"
