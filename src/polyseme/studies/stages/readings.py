"""The readings stage: one pass over held-out documents for everything that needs only vectors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from polyseme.activations.firings import Firings, FiringsCollector
from polyseme.corpora import Windows
from polyseme.evaluation import DocumentSums, ReconstructionSums, load_sums, save_sums, sweep
from polyseme.store import Artifact, save_array
from polyseme.studies.measured import Readings
from polyseme.studies.rates import firings_bytes
from polyseme.studies.stage import Stage, Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.stages.statistics import StatisticsStage
from polyseme.studies.subject import Role, dictionary_name, file_name, on

L0_TOLERANCE = 0.1
"""Largest relative distance of the held-out L0 from its target that goes without a note."""


@dataclass(frozen=True, eq=False)
class ReadingsStage(Stage[Readings]):
    """Reconstruction statistics and firings of every dictionary, from one pass of the network.

    Attributes:
        role: whose network is read, and whose dictionaries.
        text: on whose held-out tokens; a control on tokens is read on the study's own too, so that its latents can be
            correlated with the study's.
    """

    name = "readings"
    version = 3
    """2 was keyed with its defaults."""

    role: Role
    statistics: StatisticsStage
    dictionaries: DictionariesStage
    text: Role

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {
            "network": at.base,
            "heldout": self.text.subject(at).tokens.heldout_key,
            "dictionaries": at.artifact(self.dictionaries).key,
            "ordinary": at.of(self.statistics).ordinary_key,
        }

    def identity(self, at: Worker) -> dict[str, Any]:
        names = sorted(dictionary_name(*key) for key in at.of(self.dictionaries).dictionaries)
        return {**self.role.subject(at).identity, "dictionaries": names}

    def work(self, at: Worker) -> Work:
        n_tokens, seeds = at.config.tokens.heldout, len(self.role.seeds)
        # Encoding is a third of a training step.
        encoded = n_tokens * seeds * at.multiply_adds / 3
        return Work(read=n_tokens, trained=encoded, disk=firings_bytes(at, n_tokens, seeds * len(at.bindings)))

    def make(self, folder: Path, at: Worker) -> None:
        subject, trained, heldout = self.role.subject(at), at.of(self.dictionaries), self._heldout(at)
        network, statistics = subject.network, trained.statistics
        located = {
            dictionary_name(*key): (subject.bindings[key[0]], dictionary)
            for key, dictionary in on(network.device, trained.dictionaries).items()
        }
        reconstruction = ReconstructionSums(located, heldout, statistics.ordinary)
        # A latent does not fire where its dictionary is not meant to be: no verdict rests on what training left out.
        collector = FiringsCollector.of(located, statistics.trained_on)
        sweep(
            network,
            heldout,
            located,
            [reconstruction.see, collector.see],
            batch_windows=subject.study.evaluation.batch_windows,
            reporter=at.reporter,
        )
        for site, seed in trained.dictionaries:
            name, scope = dictionary_name(site, seed), {"site": site, "seed": seed, "study": subject.label}
            save_sums(folder, reconstruction.finish(scope=scope)[name], heldout.names, stem=f"{name}.sums")
        for name, firings in collector.finish().items():
            firings.save(folder, name)
        for name, binding in subject.bindings.items():
            save_array(folder / _left_out(name), np.flatnonzero(~reconstruction.ordinary(binding)))

    def load(self, artifact: Artifact, at: Worker) -> Readings:
        trained = at.of(self.dictionaries)
        names = {key: dictionary_name(*key) for key in trained.dictionaries}
        sums = {key: load_sums(artifact.path, stem=f"{name}.sums", of="reconstruction") for key, name in names.items()}
        firings = {key: Firings.load(artifact.path, name) for key, name in names.items()}
        left_out = {name: artifact.array(_left_out(name)) for name in at.bindings}
        if self.text is self.role:  # a target is about the subject's own tokens
            for key, target in trained.target_l0.items():
                sums[key] = [_against_target(entry, target, names[key], self.role.label, at) for entry in sums[key]]
        return Readings(sums, firings, left_out, artifact)

    def firings(self, at: Worker, site: str, seed: int) -> Firings:
        """Firings of one dictionary, read without those of the others."""
        return Firings.load(at.artifact(self).path, dictionary_name(site, seed))

    def _heldout(self, at: Worker) -> Windows:
        return self.text.subject(at).tokens.heldout


def _left_out(site: str) -> str:
    return f"{file_name(site)}.left_out.npy"


def _against_target(entry: DocumentSums, target: float, name: str, label: str, at: Worker) -> DocumentSums:
    """The L0 metric with its target, and with a note (which is reported, too) where it misses it."""
    if entry.name != "l0":
        return entry
    value = float(entry.values(entry.sums.sum(0)))
    details: dict[str, object] = {**entry.details, "target": target}
    if abs(value / target - 1) > L0_TOLERANCE:
        note = (
            f"L0 is {value:.3g} on held-out tokens, and the target is {target:.3g}: train longer, or set another target"
        )
        at.reporter.message(f"{name} ({label}): {note}")
        details["note"] = note
    return replace(entry, details=details)
