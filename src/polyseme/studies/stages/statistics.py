"""The statistics stage: each site's mean and how far its vectors lie from its centre, over a sample of train tokens."""

from pathlib import Path

from torch import Tensor

from polyseme.activations import site_statistics
from polyseme.activations.massive import FACTOR, SAMPLE, Spread, SpreadSums
from polyseme.store import Artifact, save_tensors
from polyseme.studies.runner import Bench
from polyseme.studies.stages.tokens import first_windows
from polyseme.studies.subject import Statistics, Subject
from polyseme.training.leaving_out import told


def statistics_stage(subject: Subject, bench: Bench) -> Statistics:
    """Measure (or find) them, and say which sites have massive vectors: before anything is trained."""
    few = first_windows(subject.tokens.train, SAMPLE)

    def make(folder: Path) -> None:
        sums = {name: SpreadSums() for name in subject.sites}
        found = site_statistics(subject.network, few, subject.sites, spreads=sums, reporter=bench.reporter)
        tensors: dict[str, Tensor] = {}
        for i, name in enumerate(subject.sites):
            tensors[f"{i}.mean"] = found[name].mean.float()
            tensors |= {f"{i}.{part}": tensor for part, tensor in sums[name].finish().tensors().items()}
        save_tensors(folder / "statistics.safetensors", tensors)

    def load(artifact: Artifact) -> dict[str, Tensor]:
        return artifact.tensors("statistics.safetensors")

    inputs = {"network": subject.base, "train": few.fingerprint}
    _, tensors = bench.stage("statistics", subject.identity, inputs, make, load, label=subject.label)
    leave_out = subject.study.training.leave_out
    factor = FACTOR if leave_out.norm is None else leave_out.norm
    means: dict[str, Tensor] = {}
    spreads: dict[str, Spread] = {}
    for i, name in enumerate(subject.sites):
        own = {key.removeprefix(f"{i}."): tensor for key, tensor in tensors.items() if key.startswith(f"{i}.")}
        means[name], spreads[name] = own["mean"], Spread.of_tensors(own)
        called = name if subject.label == "trained" else f"{name} ({subject.label})"
        if text := told(called, spreads[name], leave_out):
            bench.reporter.message(text)
    by_site = {subject.sites[name]: spread for name, spread in spreads.items()}
    trained_on = {site: s.ordinary(leave_out.norm, leave_out.positions) for site, s in by_site.items()}
    return Statistics(
        means,
        spreads,
        trained_on={site: of_site for site, of_site in trained_on.items() if not of_site.keeps_all},
        ordinary={site: s.ordinary(factor, leave_out.positions) for site, s in by_site.items()},
    )
