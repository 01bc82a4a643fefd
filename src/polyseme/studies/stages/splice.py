"""The splice stage: what the network loses when reconstructions stand in for its own vectors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyseme.corpora import Windows
from polyseme.evaluation import DocumentSums, load_sums, save_sums, splice_sums
from polyseme.store import Artifact
from polyseme.studies.measured import Spliced
from polyseme.studies.stage import Stage, Work, Worker
from polyseme.studies.stages.dictionaries import DictionariesStage
from polyseme.studies.stages.statistics import StatisticsStage
from polyseme.studies.subject import Role, on


@dataclass(frozen=True, eq=False)
class SpliceStage(Stage[Spliced]):
    """CE, KL and their recovery with every site patched alone and all patched jointly, for the first seed.

    Attributes:
        role: whose network is patched, with whose dictionaries.
    """

    name = "splice"
    version = 4
    """3 was keyed with its defaults."""

    role: Role
    statistics: StatisticsStage
    dictionaries: DictionariesStage

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {
            "network": at.base,
            "heldout": self._windows(at).fingerprint,
            "dictionaries": at.artifact(self.dictionaries).key,
            "ordinary": at.of(self.statistics).ordinary_key,
        }

    def identity(self, at: Worker) -> dict[str, Any]:
        return {**self.role.subject(at).identity, "seed": self.role.seeds[0]}

    def work(self, at: Worker) -> Work:
        sites = len(at.bindings)
        # Clean; then reconstructions, zeros and means at each site and at all of them.
        return Work(passed=at.config.tokens.splice * (1 + 3 * (sites + (sites > 1))))

    def make(self, folder: Path, at: Worker) -> None:
        subject, trained, windows = self.role.subject(at), at.of(self.dictionaries), self._windows(at)
        network, seed, statistics = subject.network, self.role.seeds[0], trained.statistics
        on(network.device, trained.dictionaries)
        patched = {subject.bindings[name]: d for name, d in trained.of_seed(seed).items()}
        means = {subject.sites[name]: mean.to(network.device) for name, mean in trained.means.items()}
        sums = splice_sums(
            network,
            windows,
            {str(seed): patched},
            means,
            trained_on=statistics.trained_on,
            ordinary=statistics.ordinary,
            scope={"study": subject.label},
            reporter=at.reporter,
        )
        named = [_of_seed(entry, seed) for entry in sums[str(seed)]]
        save_sums(folder, named, windows.names, stem="splice")

    def load(self, artifact: Artifact, at: Worker) -> Spliced:
        return Spliced(load_sums(artifact.path, stem="splice", of="splice"), artifact)

    def _windows(self, at: Worker) -> Windows:
        return self.role.subject(at).first("heldout", at.config.tokens.splice)


def _of_seed(entry: DocumentSums, seed: int) -> DocumentSums:
    """The same metric, its set the seed."""
    scope = {key: value for key, value in entry.scope.items() if key != "set"}
    return replace(entry, scope={**scope, "seed": seed})
