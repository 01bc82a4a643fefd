"""The dictionaries stage: every site and seed of a subject, trained in one pass over its activations."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from polyseme.activations import HarvestConfig, site_means
from polyseme.activations.massive import SAMPLE
from polyseme.core.binding import unnamed
from polyseme.core.config import identity
from polyseme.core.seeds import derive_seed
from polyseme.dictionaries import Dictionary, load_dictionary, save_dictionary
from polyseme.nulls import Null
from polyseme.store import Artifact, save_json, save_tensors
from polyseme.studies.measured import COPIES, Readings, Trained, copy_name
from polyseme.studies.stage import Stage, Work, Worker
from polyseme.studies.stages.statistics import StatisticsStage, sample
from polyseme.studies.subject import Role, dictionary_name
from polyseme.training import HistoryPoint, Job, fit
from polyseme.training.jobs import MOMENTS

_HISTORY = TypeAdapter(dict[str, tuple[HistoryPoint, ...]])
_COPIED_AT = TypeAdapter(tuple[int, ...])
_COPIED = "copies.json"
_SO_FAR = "so-far"
"""The copies of a training that is not finished."""


@dataclass(frozen=True, eq=False)
class DictionariesStage(Stage[Trained]):
    """A dictionary for every site and seed; of the first few seeds of several, copies along the training too.

    Copies change nothing in what is trained, and are in no key: an older artifact has none.

    Attributes:
        role: on whose vectors.
        statistics: of these.
        matched: the readings of the study itself, whose L0 a control must reach where sparsity is bought with a
            coefficient; None where there is nothing to match.
    """

    name = "dictionaries"
    version = 5
    """1 steered L0 more slowly, and reached fewer targets; 2 rested on held-out tokens, too; 3 was keyed with its
    defaults; 4 revived no dead latents, and steered L0 by the coefficient alone."""
    scratch = ("checkpoints", "activations", _SO_FAR)

    role: Role
    statistics: StatisticsStage
    matched: Stage[Readings] | None

    def inputs(self, at: Worker) -> Mapping[str, str]:
        trained_on = at.of(self.statistics).trained_on_key
        found = {"network": at.base, "tokens": self.role.subject(at).tokens.train_key}
        return {**found, "trained on": trained_on} if trained_on else found

    def identity(self, at: Worker) -> dict[str, Any]:
        subject = self.role.subject(at)
        study, targets = subject.study, self._matched_l0(at)
        decides = {
            **subject.identity,
            "dictionary": identity(study.dictionary),
            "training": identity(study.training, exclude={"checkpoint_seconds", "leave_out"}),
            "harvest": _order(study.harvest),
            "mean_tokens": SAMPLE,
            "seeds": study.seeds,
        }
        if null := self._null(at):
            decides["null"] = null.decides
        if draw := self._draw:
            decides["draw"] = draw
        named = {dictionary_name(*key): value for key, value in targets.items()}
        return {**decides, "target_l0": named} if named else decides

    def work(self, at: Worker) -> Work:
        config, seeds = at.config, len(self.role.seeds)
        n_tokens = config.training.n_tokens or config.tokens.train
        disk = 8.0 * (seeds + MOMENTS * len(self.role.subject(at).study.copied)) * at.multiply_adds
        return Work(read=n_tokens, trained=n_tokens * seeds * at.multiply_adds, disk=disk)

    def make(self, folder: Path, at: Worker) -> None:
        subject, statistics, targets = self.role.subject(at), at.of(self.statistics), self._matched_l0(at)
        study, network = subject.study, subject.network
        source = study.harvest.build(
            network, subject.tokens.train, subject.sites, folder=folder / "activations", reporter=at.reporter
        )
        dictionaries = {
            (site, seed): study.dictionary.build(
                at.read_widths[site],
                None if binding.is_autoencoder else sum(map(network.width, binding.writes)),
                seed=derive_seed(seed, "dictionary", site, *self._draw),
                device=network.device,
            )
            for site, seed in self._keys(at)
            for binding in (subject.bindings[site],)
        }
        if null := self._null(at):
            dictionaries = {key: null.dictionary(d, dictionary_name(*key)) for key, d in dictionaries.items()}
        jobs = [
            Job(dictionary_name(site, seed), dictionary, study.bindings[site], seed, targets.get((site, seed)))
            for (site, seed), dictionary in dictionaries.items()
        ]

        def copy(n_tokens: int) -> None:
            for (site, seed), dictionary in dictionaries.items():
                if seed in study.copied:
                    path = folder / _SO_FAR / copy_name(n_tokens, site, seed)
                    save_dictionary(path, dictionary, {"site": site, "seed": seed, "n_tokens": n_tokens})

        trained = fit(
            jobs,
            source,
            study.training,
            checkpoints=folder / "checkpoints",
            spreads=statistics.spreads,
            at_doubling=copy if study.copied else None,
            reporter=at.reporter,
        )
        means = statistics.means
        if statistics.trained_on:
            kept = {n: statistics.trained_on[s] for n, s in subject.sites.items() if s in statistics.trained_on}
            means = site_means(network, sample(self.role, at), subject.sites, ordinary=kept, reporter=at.reporter)
        save_tensors(folder / "means.safetensors", means)
        save_json(folder / "history.json", {t.name: t.history for t in trained})
        if (so_far := folder / _SO_FAR / COPIES).is_dir():
            shutil.copytree(so_far, folder / COPIES, ignore=shutil.ignore_patterns(".*"))
            save_json(folder / _COPIED, sorted(int(path.name) for path in (folder / COPIES).iterdir()))
        for ((site, seed), dictionary), job in zip(dictionaries.items(), trained, strict=True):
            where = {"site": site, "module": unnamed(subject.bindings[site]), "seed": seed, "n_tokens": job.n_tokens}
            metadata = {**where, "study": subject.label, "network": subject.base, "tokens": subject.tokens.train_key}
            frozen = {"frozen": sorted(dictionary.frozen)} if dictionary.frozen else {}
            save_dictionary(folder / dictionary_name(site, seed), dictionary, {**metadata, **frozen})

    def load(self, artifact: Artifact, at: Worker) -> Trained:
        keys, targets = self._keys(at), self._matched_l0(at)
        dictionaries: dict[tuple[str, int], Dictionary] = {
            key: load_dictionary(artifact.file(f"{dictionary_name(*key)}/dictionary.json").parent) for key in keys
        }
        history = artifact.parsed("history.json", _HISTORY.validate_python)
        wanted = {key: targets.get(key, at.config.training.target_l0) for key in keys}
        return Trained(
            dictionaries=dictionaries,
            history={key: history[dictionary_name(*key)] for key in keys},
            means=artifact.tensors("means.safetensors"),
            statistics=at.of(self.statistics),
            artifact=artifact,
            target_l0={
                key: target
                for key, target in wanted.items()
                if target is not None and dictionaries[key].has_coefficient
            },
            copied_at=artifact.parsed(_COPIED, _COPIED_AT.validate_python) if _COPIED in artifact.records else (),
        )

    def _keys(self, at: Worker) -> list[tuple[str, int]]:
        return [(site, seed) for site in at.bindings for seed in self.role.seeds]

    def _null(self, at: Worker) -> Null | None:
        """The null of the dictionary that the control or the whole study is of."""
        return next((n for n in (self.role.null, at.config.null) if n and n.targets == "dictionary"), None)

    @property
    def starts_as_judged(self) -> bool:
        """Whether its dictionaries start from the weights that those of the study start from."""
        return not self._draw

    @property
    def _draw(self) -> tuple[int, ...]:
        """What tells further draws of a null from its first, so that nothing random is the same in two of them."""
        null = self.role.null
        return (null.seed,) if null and null.seed and null.targets != "dictionary" else ()

    def _matched_l0(self, at: Worker) -> dict[tuple[str, int], float]:
        """The L0 of the study's own dictionaries, by site and seed."""
        if self.matched is None:
            return {}
        sums = at.of(self.matched).sums
        return {key: next(s for s in sums[key] if s.name == "l0").record().value for key in self._keys(at)}


def _order(harvest: HarvestConfig) -> dict[str, Any]:
    """What of the harvest decides the vectors and their order: neither where they are kept, nor what prepares them."""
    shown = {"cache", "prefetch"} if harvest.cache == "disk" else {"cache", "prefetch", "shard_dtype"}
    return identity(harvest, exclude=shown)
