"""The matching stage: firings that matches of latents are chosen on, and random latents that stand for chance."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyseme.activations.firings import Firings, collect_firings
from polyseme.activations.massive import Ordinary
from polyseme.activations.reading import read_windows
from polyseme.core.binding import Binding
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.corpora import Windows
from polyseme.dictionaries import LatentEncoder
from polyseme.nulls.random_latents import random_latents
from polyseme.store import Artifact
from polyseme.studies.measured import Matching, random_name
from polyseme.studies.rates import firings_bytes
from polyseme.studies.stage import Stage, Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.stages.statistics import StatisticsStage
from polyseme.studies.subject import Role, Subject, dictionary_name, on

N_RANDOM = 1024
"""Random latents of a site."""
SAMPLE = 16_384
"""Vectors, about, that their directions and thresholds are of."""


@dataclass(frozen=True, eq=False)
class MatchingStage(Stage[Matching]):
    """Firings of every dictionary on train tokens of the study; of the study itself random latents' on both sides too.

    Attributes:
        role: whose network is read, and whose dictionaries.
        statistics: of its vectors, which say what training left out.
        dictionaries: those that are matched.
        study: the role of the study itself, on whose tokens all are read.
    """

    name = "matching"
    version = 2
    """1 had random latents of the densities of latents, few of them dense."""

    role: Role
    statistics: StatisticsStage
    dictionaries: DictionariesStage
    study: Role

    def inputs(self, at: Worker) -> Mapping[str, str]:
        text = self.study.subject(at)
        found = {
            "network": at.base,
            "train": matched_on(text).fingerprint,
            "dictionaries": at.artifact(self.dictionaries).key,
            "trained on": at.of(self.statistics).trained_on_key,
        }
        if self._has_random:
            found |= {"heldout": text.tokens.heldout_key, "ordinary": at.of(self.statistics).ordinary_key}
        return found

    def identity(self, at: Worker) -> dict[str, Any]:
        names = sorted(dictionary_name(*key) for key in at.of(self.dictionaries).dictionaries)
        random = {"random": [N_RANDOM, SAMPLE], "seed": self.role.seeds[0]} if self._has_random else {}
        return {**self.role.subject(at).identity, "dictionaries": names, **random}

    def work(self, at: Worker) -> Work:
        config = at.config
        learn, random = config.evaluation.match_tokens, 0.0
        read, seeds, sites = float(learn), len(self.role.seeds), len(at.bindings)
        disk = firings_bytes(at, learn, seeds * sites)
        if self._has_random:
            both = learn + config.tokens.heldout
            read += both + SAMPLE
            random = both * N_RANDOM * sum(at.read_widths.values())
            disk += firings_bytes(at, both, sites)
        # Encoding is a third of a training step.
        return Work(read=read, trained=(learn * seeds * at.multiply_adds + random) / 3, disk=disk)

    def make(self, folder: Path, at: Worker) -> None:
        subject, trained, text = self.role.subject(at), at.of(self.dictionaries), self.study.subject(at)
        located = {
            dictionary_name(*key): (subject.bindings[key[0]], dictionary)
            for key, dictionary in on(subject.network.device, trained.dictionaries).items()
        }
        statistics = at.of(self.statistics)
        firings = self._collected(subject, matched_on(text), located, statistics.trained_on, at)
        for name, of_dictionary in firings.items():
            of_dictionary.save(folder, name)
        if not self._has_random:
            return
        random: dict[str, tuple[Binding[Site], LatentEncoder]] = {}
        for site, vectors in self._sample(subject, at):
            densities = firings[dictionary_name(site, self.role.seeds[0])].densities
            seed = derive_seed(self.role.seeds[0], "random latents", site)
            latents = random_latents(vectors, spread(densities), seed)
            random[site] = subject.bindings[site], latents
        for site, of_random in self._collected(subject, matched_on(text), random, statistics.ordinary, at).items():
            of_random.save(folder, random_name(site, "learn"))
        for site, of_random in self._collected(subject, text.tokens.heldout, random, statistics.ordinary, at).items():
            of_random.save(folder, random_name(site, "heldout"))

    def load(self, artifact: Artifact, at: Worker) -> Matching:
        return Matching(artifact)

    @property
    def _has_random(self) -> bool:
        return self.role is self.study

    def _collected(
        self,
        subject: Subject,
        windows: Windows,
        dictionaries: Mapping[str, tuple[Binding[Site], LatentEncoder]],
        fires_at: Mapping[Site, Ordinary],
        at: Worker,
    ) -> dict[str, Firings]:
        return collect_firings(
            subject.network,
            windows,
            dictionaries,
            trained_on=fires_at,
            batch_windows=at.config.evaluation.batch_windows,
            reporter=at.reporter,
        )

    def _sample(self, subject: Subject, at: Worker) -> Iterator[tuple[str, Float[Tensor, "sample d"]]]:
        """Ordinary vectors that each site's dictionaries read, of windows evenly spread over the train tokens.

        A few massive ones make most of a covariance and of a correlation. Random latents that saw them all fired at
        them far more than anywhere else, and so matched whatever latent does: two such tokens of 20,235, at
        `blocks.15.resid_post` of SmolLM2-135M, put the floor at 0.998 for every latent, and at 0.67 without them.
        """
        windows, ordinary = matched_on(self.study.subject(at)), at.of(self.statistics).ordinary
        n = min(len(windows), -(-SAMPLE * len(windows) // max(1, windows.n_tokens)))
        rows = np.linspace(0, len(windows) - 1, max(1, n)).astype(np.int64)
        for site, binding in subject.bindings.items():
            ruled = [place for place in binding.places if place in ordinary]
            found: list[Tensor] = []
            for reading in read_windows(
                subject.network,
                windows,
                [*binding.reads, *ruled],
                batch_windows=at.config.evaluation.batch_windows,
                rows=np.unique(rows),
            ):
                kept = reading.ordinary(ruled, ordinary)
                vectors = reading.at(binding.reads).float()
                found.append(vectors if kept is None else vectors[kept])
            yield site, torch.cat(found)


def matched_on(subject: Subject) -> Windows:
    """The train windows that matches and predictions of latents are chosen on."""
    return subject.learned_on(subject.study.evaluation.match_tokens)


def spread(densities: Float[np.ndarray, " latent"]) -> Float[np.ndarray, " random"]:
    """`N_RANDOM` densities with equal ratios, from the 5th percentile of the latents that fire to twice the largest.

    A floor is a percentile over the random latents of nearest densities. There are few dense latents: with densities
    evenly spread over those of the latents, the neighbours of the densest were sparser than they are, and 45% of the
    densest 2% of random latents on `pylm` exceeded their floor (p < 0.05); with equal ratios, 0%.
    """
    fires = densities[densities > 0]
    if not len(fires):
        fires = np.array([0.01])
    high = min(2 * float(fires.max()), 0.9)
    return np.geomspace(min(float(np.quantile(fires, 0.05)), high), high, N_RANDOM)
