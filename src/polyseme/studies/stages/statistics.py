"""The statistics stage: each site's mean and how far its vectors lie from its centre, over a sample of train tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from polyseme.activations import site_statistics
from polyseme.activations.massive import FACTOR, SAMPLE, Spread, SpreadSums
from polyseme.corpora import Windows
from polyseme.store import Artifact, save_tensors
from polyseme.studies.measured import Statistics
from polyseme.studies.stage import Stage, Work, Worker
from polyseme.studies.subject import Role
from polyseme.training.leaving_out import massive_message


@dataclass(frozen=True, eq=False)
class StatisticsStage(Stage[Statistics]):
    """Where the vectors of each site lie; its result says which sites have massive vectors before anything is trained.

    Attributes:
        role: whose vectors.
    """

    name = "statistics"

    role: Role

    def inputs(self, at: Worker) -> Mapping[str, str]:
        return {"network": at.base, "train": sample(self.role, at).fingerprint}

    def identity(self, at: Worker) -> dict[str, Any]:
        return self.role.subject(at).identity

    def work(self, at: Worker) -> Work:
        return Work(read=min(SAMPLE, at.config.tokens.train))

    def make(self, folder: Path, at: Worker) -> None:
        subject = self.role.subject(at)
        sums = {name: SpreadSums() for name in subject.sites}
        few = sample(self.role, at)
        found = site_statistics(subject.network, few, subject.sites, spreads=sums, reporter=at.reporter)
        tensors: dict[str, Tensor] = {}
        for i, name in enumerate(subject.sites):
            tensors[f"{i}.mean"] = found[name].mean.float()
            tensors |= {f"{i}.{part}": tensor for part, tensor in sums[name].finish().tensors().items()}
        save_tensors(folder / "statistics.safetensors", tensors)

    def load(self, artifact: Artifact, at: Worker) -> Statistics:
        subject, tensors = self.role.subject(at), artifact.tensors("statistics.safetensors")
        leave_out = subject.study.training.leave_out
        factor = FACTOR if leave_out.norm is None else leave_out.norm
        means: dict[str, Tensor] = {}
        spreads: dict[str, Spread] = {}
        for i, name in enumerate(subject.sites):
            own = {key.removeprefix(f"{i}."): tensor for key, tensor in tensors.items() if key.startswith(f"{i}.")}
            means[name], spreads[name] = own["mean"], Spread.of_tensors(own)
            called = name if subject.label == "trained" else f"{name} ({subject.label})"
            if text := massive_message(called, spreads[name], leave_out):
                at.reporter.message(text)
        by_site = {subject.sites[name]: spread for name, spread in spreads.items()}
        trained_on = {site: s.ordinary(leave_out.norm, leave_out.positions) for site, s in by_site.items()}
        return Statistics(
            means,
            spreads,
            trained_on={site: of_site for site, of_site in trained_on.items() if not of_site.keeps_all},
            ordinary={site: s.ordinary(factor, leave_out.positions) for site, s in by_site.items()},
        )


def sample(role: Role, at: Worker) -> Windows:
    """The train windows that statistics are of."""
    return role.subject(at).first("train", SAMPLE)
