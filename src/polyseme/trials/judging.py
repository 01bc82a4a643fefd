"""Dictionaries on one planted network, made and judged by the functions that a study uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from polyseme.activations import Firings, TensorSource, collect_firings
from polyseme.causal import Meanings, causal_effects
from polyseme.core.binding import Binding
from polyseme.core.records import STATUSES, Verdict
from polyseme.core.seeds import derive_seed
from polyseme.corpora.pack import Windows
from polyseme.dictionaries import SparseDictionary
from polyseme.evaluation.matches import Sides
from polyseme.evaluation.recurrence import Recurrence, RecurrenceConfig, recurrence
from polyseme.networks import Network, load_network
from polyseme.nulls import make_null
from polyseme.nulls.random_latents import random_latents
from polyseme.studies.levels import LEVELS, Level, LevelName
from polyseme.studies.stages.matching import SAMPLE, spread
from polyseme.studies.stages.tokens import first_windows
from polyseme.training import Job, TrainingConfig, fit
from polyseme.trials.calibration import MATCH_TOKENS, CalibrationConfig, ControlKind
from polyseme.trials.given import Dictionary, Text, altered, oracle, random_writes, truth
from polyseme.trials.kinds import Kind, Mode
from polyseme.trials.matrix import Seen, letters
from polyseme.trials.planted import SITE, PlantedNetwork
from polyseme.verdicts.evidence import site_evidence
from polyseme.verdicts.judge import judge
from polyseme.zoo.tools.exact import Directions

CONTEXT, TOPIC, WINDOWS_EACH = 32, 0.5, 12
STANDS_FOR = 0.7
"""A latent stands for the planted variable that it correlates with most, if by at least this much."""


@dataclass(frozen=True)
class Planted:
    """A network, and text of its own."""

    module: PlantedNetwork
    network: Network
    text: Text
    seed: int

    @cached_property
    def matched_on(self) -> Windows:
        """The train windows that matches are chosen on."""
        return first_windows(self.text.train, MATCH_TOKENS)


def plant(config: CalibrationConfig, i: int) -> Planted:
    """The i-th network, with text of its own."""
    seed = derive_seed(0, "calibration of verdicts", config.split, i)
    module = PlantedNetwork(config.planted, seed=seed)
    n_train = max(1, config.n_train_tokens // (WINDOWS_EACH * (CONTEXT - 1)))
    train, heldout = (
        module.sample(
            n_documents=n, windows_each=WINDOWS_EACH, context=CONTEXT, topic=TOPIC, seed=derive_seed(seed, name)
        )
        for name, n in (("train", n_train), ("heldout", config.n_documents))
    )
    network = load_network(module, causal=True, example_inputs=torch.zeros(1, 2, dtype=torch.int64))
    return Planted(module, network, Text(train, len(first_windows(train, MATCH_TOKENS)), heldout), seed)


def judged(config: CalibrationConfig, i: int) -> tuple[Seen, ...]:
    """What the latents of one network are called, in every way of judging."""
    planted = plant(config, i)
    trained = _train(config, planted)
    variables = truth(planted.module, planted.text.heldout)
    seen: list[Seen] = []
    for mode in config.modes:
        dictionary = _dictionary(mode, planted, trained)
        seed = derive_seed(planted.seed, "judge", mode)
        random = _random(planted, trained, dictionary, seed)
        for name in config.levels:
            level = LEVELS[name]
            found = _recurrence(planted, trained, dictionary, random, level, seed)
            effects = causal_effects(
                planted.network,
                planted.text.heldout,
                Binding.at(SITE),
                Directions(dictionary.directions),
                dictionary.sides.heldout,
                Meanings.learn(dictionary.train, planted.text.train, config.planted.vocabulary),
                config=config.causal.model_copy(update=level.causal),
                min_documents=config.verdicts.min_documents,
                seed=derive_seed(seed, "causal"),
            )
            for controls in config.combinations:
                against = _against(found, controls)
                evidence = site_evidence(found.n_documents, against, effects, config=config.verdicts, missing={})
                verdicts = judge({"site": evidence}, config=config.verdicts)["site"].verdicts
                seen.append(_called(planted, dictionary, variables, verdicts, (name, mode, controls)))
    return tuple(seen)


def _against(found: Recurrence, controls: Sequence[ControlKind]) -> Recurrence:
    """What a study with these controls alone has."""
    return replace(
        found,
        nulls={kind: found.nulls[kind] for kind in controls},
        null_match={kind: found.null_match[kind] for kind in controls},
    )


@dataclass(frozen=True)
class _Trained:
    """Every dictionary that was trained for one network, with the vectors it was trained on there.

    Attributes:
        judged: on the network, by how it was trained.
        partners: of other seeds, on the network.
        nulls: by kind of null, on each of its draws.
        vectors: of the network's site.
    """

    judged: dict[str, Dictionary]
    partners: list[Sides]
    nulls: dict[str, list[Sides]]
    vectors: Float[Tensor, "token d"]


def _train(config: CalibrationConfig, planted: Planted) -> _Trained:
    """The dictionaries of the largest level, trained as a study trains them."""
    partners = max(LEVELS[level].partners for level in config.levels)
    draws = max(LEVELS[level].draws for level in config.levels)
    vectors = _vectors(planted.network, planted.text.train)

    def build(seed: int) -> SparseDictionary:
        return config.dictionary.build(config.planted.d, seed=seed)

    artefacts = [kind for kind in ("frozen_decoder", "frozen_directions") if kind in config.modes]
    dictionaries = {"trained": build(0)} | {kind: make_null(kind).dictionary(build(0), kind) for kind in artefacts}
    others = {str(seed): build(seed) for seed in range(1, 1 + partners)}
    own = _fit(config, planted, planted.network, vectors, dictionaries | others)
    located = {name: (Binding.at(SITE), dictionary) for name, dictionary in dictionaries.items()}
    train = collect_firings(planted.network, planted.text.train, located)
    judged = {
        name: Dictionary(train[name], own[name], dictionary.write_directions().detach())
        for name, dictionary in dictionaries.items()
    }
    nulls: dict[str, list[Sides]] = {}
    for kind in config.controls:
        for draw in range(draws):
            null = make_null(kind, draw)
            network = null.network(planted.network)
            other = _vectors(network, planted.text.train)
            nulls.setdefault(kind, []).append(_fit(config, planted, network, other, {kind: build(0)})[kind])
    return _Trained(judged, [own[name] for name in others], nulls, vectors)


def _vectors(network: Network, windows: Windows) -> Float[Tensor, "token d"]:
    """The site's vectors at every counted token."""
    tokens = torch.from_numpy(windows.tokens.astype(np.int64))
    return network.read(tokens, [SITE])[SITE][~torch.from_numpy(windows.special)]


def _fit(
    config: CalibrationConfig,
    planted: Planted,
    network: Network,
    vectors: Float[Tensor, "token d"],
    dictionaries: Mapping[str, SparseDictionary],
) -> dict[str, Sides]:
    """Train dictionaries on some vectors; their firings on the study's own text, as a network reads it."""
    jobs = [Job(name, dictionary, Binding.at("site"), i) for i, (name, dictionary) in enumerate(dictionaries.items())]
    source = TensorSource({"site": vectors}, seed=derive_seed(planted.seed, "order"))
    fit(jobs, source, TrainingConfig(n_tokens=config.n_train_tokens, batch_size=512, lr=3e-3))
    located = {job.name: (Binding.at(SITE), job.dictionary) for job in jobs}
    learn, heldout = (collect_firings(network, side, located) for side in (planted.matched_on, planted.text.heldout))
    return {job.name: Sides(learn[job.name], heldout[job.name]) for job in jobs}


def _dictionary(mode: Mode, planted: Planted, trained: _Trained) -> Dictionary:
    """The dictionary that is judged."""
    seed = derive_seed(planted.seed, mode)
    match mode:
        case "trained":
            return trained.judged["trained"]
        case "oracle":
            return oracle(planted.module, planted.text, seed)
        case "altered":
            return altered(planted.module, planted.text, seed)
        case "random_writes":
            return random_writes(trained.judged["trained"], trained.vectors, seed)
        case "frozen_decoder" | "frozen_directions":
            found = trained.judged[mode]
            return replace(found, kinds=("artefact",) * len(found.directions))


def _recurrence(
    planted: Planted, trained: _Trained, dictionary: Dictionary, random: Sides, level: Level, seed: int
) -> Recurrence:
    """What the partners and nulls of a level make of a dictionary's latents."""
    return recurrence(
        dictionary.sides,
        trained.partners[: level.partners],
        {kind: sides[: level.draws] for kind, sides in trained.nulls.items()},
        random,
        (planted.matched_on, planted.text.heldout),
        config=RecurrenceConfig(),
        seed=derive_seed(seed, "recurrence"),
    )


def _random(planted: Planted, trained: _Trained, dictionary: Dictionary, seed: int) -> Sides:
    """Random latents of a dictionary's densities."""
    densities = spread(dictionary.sides.learn.densities)
    sample = trained.vectors[:: max(1, len(trained.vectors) // SAMPLE)]
    chance = random_latents(sample, densities, derive_seed(seed, "random latents"))
    located = {"random": (Binding.at(SITE), chance)}
    learn, heldout = (
        collect_firings(planted.network, side, located)["random"] for side in (planted.matched_on, planted.text.heldout)
    )
    return Sides(learn, heldout)


def _called(
    planted: Planted,
    dictionary: Dictionary,
    variables: Float[np.ndarray, "token variable"],
    verdicts: Sequence[Verdict],
    way: tuple[LevelName, Mode, tuple[ControlKind, ...]],
) -> Seen:
    """The words and answers of a dictionary's latents, each beside what it stands for.

    A trained latent stands for the variable that it correlates with most, and a variable takes the most favourable
    word of its latents; latents that fire and stand for none are `unmatched`. A given latent counts for itself.
    """
    fires = dictionary.sides.heldout.counts > 0
    of: list[int | None]
    kinds: list[Kind]
    if dictionary.kinds is not None:
        of = list(np.flatnonzero(fires).tolist())
        kinds = [kind for kind, fired in zip(dictionary.kinds, fires, strict=True) if fired]
    else:
        stands = stands_for(dictionary.sides.heldout, variables)
        unmatched = np.flatnonzero((stands < 0) & fires).tolist()
        of = [*(_best(np.flatnonzero(stands == v), verdicts) for v in range(variables.shape[1])), *unmatched]
        mixed: list[Kind] = ["unmatched"]
        kinds = [*planted.module.kinds, *(mixed * len(unmatched))]
    given = [None if i is None else verdicts[i] for i in of]
    level, mode, controls = way
    return Seen(
        level=level,
        mode=mode,
        controls=controls,
        kinds=tuple(kinds),
        statuses=tuple(None if verdict is None else verdict.status for verdict in given),
        answers=tuple("" if verdict is None else letters([axis.answer for axis in verdict.axes]) for verdict in given),
    )


def stands_for(firings: Firings, variables: Float[np.ndarray, "token variable"]) -> Int[np.ndarray, " latent"]:
    """The planted variable each latent correlates with most; −1 where that is less than `STANDS_FOR`."""
    of_truth = replace(firings, matrix=csr_array(variables.astype(np.float32)))
    r = firings.correlations(range(firings.n_latents), of_truth)
    return np.where(r.max(axis=1) >= STANDS_FOR, r.argmax(axis=1), -1)


def _best(latents: Int[np.ndarray, " some"], verdicts: Sequence[Verdict]) -> int | None:
    """The latent with the most favourable word; None of none."""
    return min(latents.tolist(), key=lambda i: STATUSES.index(verdicts[i].status), default=None)
