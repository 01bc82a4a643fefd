"""How often are the verdicts wrong? The whole procedure, run where the truth is planted."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from polyseme.activations import Firings, TensorSource, collect_firings
from polyseme.causal import CausalConfig, causal_effects
from polyseme.causal.effect import Writer
from polyseme.controls.planted import KINDS, NON_FEATURES, SITE, Counts, Kind, PlantedNetwork
from polyseme.controls.verdicts import VerdictConfig, judge
from polyseme.core.config import Config, Count, Record, Seed, Width
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import STATUSES, MetricRecord, Status
from polyseme.core.seeds import derive_seed
from polyseme.core.stats import wilson_interval
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import TopKConfig
from polyseme.evaluation.specificity import specificity
from polyseme.interpret.report import Calibration
from polyseme.networks import Network, load_network
from polyseme.training import Job, TrainingConfig, fit

Mode = Literal["trained", "oracle"]
D, VOCABULARY, CONTEXT, TOPIC = 128, 256, 64, 0.5
MATCH = 0.7
"""A latent stands for the planted variable it correlates with most, if it does so at least this much."""


class CalibrationConfig(Config):
    """What is planted, and how the dictionaries that look for it are made."""

    n_networks: int = Field(default=6, ge=1, le=10_000)
    """Planted networks, each with its own control network, text and dictionaries."""
    features: int = Field(default=40, ge=5, le=2**12)
    """Planted features of each network; non-features come in proportion (hidden .4, bystander .6, input .6)."""
    n_documents: int = Field(default=60, ge=2, le=10**6)
    """Held-out documents of 384 tokens."""
    n_train_tokens: Count = 400_000
    """Tokens each dictionary is trained on."""
    n_latents: Width = 160
    """Width of the trained dictionaries; a network has 2.6 variables to each feature."""
    k: Width = 10
    """Active latents per token of the trained dictionaries."""
    modes: tuple[Mode, ...] = Field(default=("trained", "oracle"), min_length=1, max_length=2)
    """`trained`: dictionaries as a study makes them; `oracle`: the truth with noise, so nothing is lost in training."""
    seed: Seed = 0
    causal: CausalConfig = CausalConfig()
    verdicts: VerdictConfig = VerdictConfig()

    @property
    def counts(self) -> Counts:
        """Variables of each kind in a network."""
        return Counts(
            feature=self.features,
            hidden=round(0.4 * self.features),
            bystander=round(0.6 * self.features),
            input=round(0.6 * self.features),
        )


class CalibrationGroup(Record):
    """The planted variables of one kind, as seen through one kind of dictionary.

    A variable counts as supported when a latent that stands for it is; `not_found` ones have no such latent.
    """

    mode: Mode
    kind: Kind
    counts: dict[Status, int]
    """Verdicts on the variables found; of several latents the most favourable verdict."""
    not_found: int
    supported_by_network: tuple[tuple[int, int], ...]
    """(supported, found) for each planted network."""


class CalibrationReport(Record):
    """Error rates of the verdicts on planted truth."""

    version: int = 1
    config: CalibrationConfig
    groups: tuple[CalibrationGroup, ...]
    unmatched: dict[Mode, dict[Status, int]]
    """Verdicts on latents that stand for no single variable: what they should be called is not known."""

    def false_positive_rate(self, mode: Mode, *kinds: Kind) -> MetricRecord:
        """Share of the planted non-features with a latent that are called supported; of some kinds, or all."""
        chosen = [g for g in self.groups if g.mode == mode and g.kind in (kinds or NON_FEATURES)]
        wrong = sum(g.counts["supported"] for g in chosen)
        return _rate("false_positive_rate", wrong, sum(sum(g.counts.values()) for g in chosen), mode)

    def miss_rate(self, mode: Mode) -> MetricRecord:
        """Share of the planted features that are not called supported, those without a latent among them."""
        chosen = [g for g in self.groups if g.mode == mode and g.kind == "feature"]
        n = sum(sum(g.counts.values()) + g.not_found for g in chosen)
        return _rate("miss_rate", n - sum(g.counts["supported"] for g in chosen), n, mode)

    def summary(self) -> str:
        """The figures in a few lines."""
        lines: list[str] = []
        for mode in self.config.modes:
            for record in (self.false_positive_rate(mode), self.miss_rate(mode)):
                lines.append(f"{mode}: {record.name.replace('_', ' ')} {_shown(record)}")
            for kind in NON_FEATURES:
                lines.append(f"    {kind} called supported: {_shown(self.false_positive_rate(mode, kind))}")
        return "\n".join(lines)


def calibrate(config: CalibrationConfig | None = None, reporter: Reporter | None = None) -> CalibrationReport:
    """Run causal effects, model-specificity and verdicts on networks whose features are planted.

    Each planted network has a control network that shares nothing with it but its `input` variables, and text
    sampled from its own predictions. Dictionaries, two seeds on the network and one on the control, are judged by the
    very functions a study uses; then the verdicts are compared with what was planted.

    Args:
        config: what is planted.
        reporter: told of each network.
    """
    config = config or CalibrationConfig()
    reporter = reporter or Silent()
    progress = reporter.task("calibration", config.n_networks * len(config.modes), "dictionaries")
    seen: list[_Seen] = []
    for i in range(config.n_networks):
        planted = _plant(config, i)
        for mode in config.modes:
            seen.append(_judge(config, planted, mode, i))
            progress.update(len(seen))
    groups = tuple(_groups(config, seen))
    unmatched: dict[Mode, dict[Status, int]] = {
        mode: _count([s for one in seen if one.mode == mode for s in one.unmatched]) for mode in config.modes
    }
    return CalibrationReport(config=config, groups=groups, unmatched=unmatched)


def shipped_calibration(verdicts: VerdictConfig) -> Calibration | None:
    """The figures that come with the package, for the report; None for thresholds other than those calibrated."""
    file = files("polyseme.controls") / "calibration.json"
    if not file.is_file():
        return None
    report = CalibrationReport.model_validate_json(file.read_text("utf-8"))
    if report.config.verdicts != verdicts:
        return None
    config = report.config
    return Calibration(
        description=f"{config.n_networks} networks with planted variables; two dictionaries trained on each and one on "
        "its control, judged by the procedure of this study. Non-features: variables nothing reads, variables along "
        "directions like any other, and statistics of the input that the control network has too.",
        false_positive_rate=report.false_positive_rate("trained"),
        miss_rate=report.miss_rate("trained"),
        counts=tuple(
            (f"planted {group.kind}{' variable' if group.kind != 'feature' else ''}", group.counts)
            for group in report.groups
            if group.mode == "trained"
        ),
    )


@dataclass(frozen=True)
class _Planted:
    module: PlantedNetwork
    control: PlantedNetwork
    network: Network
    control_network: Network
    train: Windows
    heldout: Windows


@dataclass(frozen=True)
class _Seen:
    """What the verdicts said: of each variable the best verdict (None: no latent), and of the other latents."""

    mode: Mode
    kinds: tuple[Kind, ...]
    verdicts: list[Status | None]
    unmatched: list[Status]


@dataclass(frozen=True)
class _Directions:
    directions: Float[Tensor, "latent d"]

    @property
    def n_latents(self) -> int:
        return len(self.directions)

    def write_directions(self) -> Float[Tensor, "latent d"]:
        return self.directions


def _plant(config: CalibrationConfig, i: int) -> _Planted:
    seed = derive_seed(config.seed, "network", i)
    module = PlantedNetwork(config.counts, d=D, vocabulary=VOCABULARY, seed=seed)
    control = PlantedNetwork(
        config.counts, d=D, vocabulary=VOCABULARY, seed=derive_seed(seed, "control"), shared=module
    )
    example = torch.zeros(1, 2, dtype=torch.int64)
    network, control_network = (load_network(m, causal=True, example_inputs=example) for m in (module, control))
    # A quarter of the training tokens are distinct; the dictionaries go round them.
    n_train = max(1, config.n_train_tokens // (4 * 6 * (CONTEXT - 1)))
    train, heldout = (
        module.sample(n_documents=n, windows_each=6, context=CONTEXT, topic=TOPIC, seed=derive_seed(seed, name))
        for name, n in (("train", n_train), ("heldout", config.n_documents))
    )
    return _Planted(module, control, network, control_network, train, heldout)


def _judge(config: CalibrationConfig, planted: _Planted, mode: Mode, i: int) -> _Seen:
    seed = derive_seed(config.seed, "judge", mode, i)
    writer, firings, other, control = _trained(config, planted, seed) if mode == "trained" else _oracle(planted, seed)
    effects = causal_effects(
        planted.network, planted.heldout, SITE, writer, firings, config=config.causal, seed=derive_seed(seed, "causal")
    )
    specific = specificity(firings, other, {"control": control}, seed=derive_seed(seed, "specificity"))
    judged = judge(firings, effects, specific, config=config.verdicts)
    statuses: list[Status] = [verdict.status for verdict in judged.verdicts]
    variable = _stands_for(firings, _truth(planted.module, planted.heldout))
    best: list[Status | None] = [
        _best([statuses[j] for j in np.flatnonzero(variable == v)]) for v in range(len(planted.module.kinds))
    ]
    unmatched: list[Status] = [statuses[j] for j in np.flatnonzero(variable < 0) if judged.n_documents[j] > 0]
    return _Seen(mode, planted.module.kinds, best, unmatched)


def _trained(config: CalibrationConfig, planted: _Planted, seed: int) -> tuple[Writer, Firings, Firings, Firings]:
    """Dictionaries as a study makes them: two seeds on the network, one on its control, on the same text."""

    def train(network: Network, *names: str) -> tuple[Any, ...]:
        tokens = torch.from_numpy(planted.train.tokens.astype(np.int64))
        vectors = network.read(tokens, [SITE])[SITE][~torch.from_numpy(planted.train.special)]
        source = TensorSource({"site": vectors}, seed=derive_seed(seed, "order"))
        jobs = [
            Job(name, TopKConfig(n_latents=config.n_latents, k=config.k).build(D, seed=s), "site", "site", s)
            for name in names
            for s in [derive_seed(seed, "dictionary", name)]
        ]
        fit(jobs, source, TrainingConfig(n_tokens=config.n_train_tokens, batch_size=512, lr=3e-3))
        found = collect_firings(network, planted.heldout, {job.name: (SITE, job.dictionary) for job in jobs})
        return jobs[0].dictionary, *(found[name] for name in names)

    dictionary, one, other = train(planted.network, "one", "other")
    _, control = train(planted.control_network, "control")
    return dictionary, one, other, control


def _oracle(planted: _Planted, seed: int) -> tuple[Writer, Firings, Firings, Firings]:
    """The truth as three lucky but careless dictionaries would tell it, one latent to a variable."""
    made: list[Firings] = []
    for name, module in (("one", planted.module), ("other", planted.module), ("control", planted.control)):
        rng = np.random.default_rng(derive_seed(seed, name))
        z = _truth(module, planted.heldout)
        # Each latent has its own luck: firings missed, firings where there is nothing, strengths misjudged.
        missed, spurious, noise = (rng.uniform(0, most, z.shape[1]) for most in (0.2, 0.01, 0.5))
        told = z * (rng.random(z.shape) >= missed) * np.exp(noise * rng.standard_normal(z.shape))
        told = np.where((rng.random(z.shape) < spurious) & (z == 0), rng.uniform(0.2, 1, z.shape), told)
        made.append(_firings(planted.heldout, told))
    generator = torch.Generator().manual_seed(derive_seed(seed, "directions"))
    true = planted.module.directions
    # Cosine to the truth about .95.
    told = torch.nn.functional.normalize(true + 0.33 * torch.randn(true.shape, generator=generator) / D**0.5, dim=1)
    return _Directions(told), made[0], made[1], made[2]


def _truth(module: PlantedNetwork, windows: Windows) -> Float[np.ndarray, "token variable"]:
    return module.variables(torch.from_numpy(windows.tokens.astype(np.int64))).numpy()[~windows.special]


def _firings(windows: Windows, activations: Float[np.ndarray, "token latent"]) -> Firings:
    window, position = (~windows.special).nonzero()
    ids = (windows.tokens[window, position], windows.document[window, position], window, position)
    return Firings(csr_array(activations.astype(np.float32)), *(x.astype(np.int32) for x in ids))


def _stands_for(firings: Firings, truth: Float[np.ndarray, "token variable"]) -> Int[np.ndarray, " latent"]:
    """The planted variable each latent correlates with most; −1 where that is less than `MATCH`."""
    found = firings.matrix.toarray()
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (found - found.mean(axis=0)) / (found.std(axis=0) * len(found))
        y = (truth - truth.mean(axis=0)) / truth.std(axis=0)
    r = np.nan_to_num(x.T @ y, nan=0.0)
    return np.where(r.max(axis=1) >= MATCH, r.argmax(axis=1), -1)


def _groups(config: CalibrationConfig, seen: list[_Seen]) -> Iterator[CalibrationGroup]:
    for mode in config.modes:
        for kind in KINDS:
            by_network: list[list[Status | None]] = [
                [verdict for verdict, k in zip(one.verdicts, one.kinds, strict=True) if k == kind]
                for one in seen
                if one.mode == mode
            ]
            found: list[list[Status]] = [[verdict for verdict in some if verdict] for some in by_network]
            yield CalibrationGroup(
                mode=mode,
                kind=kind,
                counts=_count([verdict for some in found for verdict in some]),
                not_found=sum(map(len, by_network)) - sum(map(len, found)),
                supported_by_network=tuple((some.count("supported"), len(some)) for some in found),
            )


def _best(verdicts: list[Status]) -> Status | None:
    return next((status for status in STATUSES if status in verdicts), None)


def _count(verdicts: list[Status]) -> dict[Status, int]:
    return {status: verdicts.count(status) for status in STATUSES}


def _rate(name: str, count: int, n: int, mode: Mode) -> MetricRecord:
    return MetricRecord(
        name=name,
        value=count / n if n else float("nan"),
        interval=wilson_interval(count, n),
        n=n,
        n_unit="planted variables",
        better="lower",
        scope={"dictionaries": mode},
        details={"count": count},
    )


def _shown(record: MetricRecord) -> str:
    low, high = (record.interval.low, record.interval.high) if record.interval else (float("nan"),) * 2
    return f"{record.value:.1%} [{low:.1%}, {high:.1%}] of {record.n}"
