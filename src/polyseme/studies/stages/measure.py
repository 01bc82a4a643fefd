"""Measuring a subject on held-out documents: one pass for all that needs only vectors, then splicing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from polyseme.activations.firings import Firings, FiringsCollector
from polyseme.corpora import Windows
from polyseme.evaluation import DocumentSums, ReconstructionSums, load_sums, save_sums, splice_sums, sweep
from polyseme.store import Artifact, save_array
from polyseme.studies.runner import Bench
from polyseme.studies.stages.tokens import first_windows
from polyseme.studies.subject import Subject, Trained, dictionary_name, file_name, on

L0_TOLERANCE = 0.1
"""Largest relative distance of the held-out L0 from its target that goes without a note."""
_Sums = dict[tuple[str, int], list[DocumentSums]]


@dataclass(frozen=True)
class Readings:
    """What one pass over held-out windows gave.

    Attributes:
        sums: (site name, seed) to its reconstruction metrics.
        firings: (site name, seed) to its latents.
        left_out: site name to the rows of the firings that the figures of ordinary vectors leave out.
        artifact: where they are kept.
    """

    sums: dict[tuple[str, int], list[DocumentSums]]
    firings: dict[tuple[str, int], Firings]
    left_out: dict[str, Int[np.ndarray, " row"]]
    artifact: Artifact

    def alive(self, site: str, seed: int) -> Bool[np.ndarray, " n_latents"]:
        """Which latents fired at all."""
        return np.diff(self.firings[site, seed].columns.indptr) > 0


def readings_stage(
    subject: Subject, trained: Trained, heldout: Windows, heldout_key: str, bench: Bench, *, label: str | None = None
) -> Readings:
    """Reconstruction statistics and firings of every dictionary over `heldout`, from one pass of the network.

    Args:
        subject: whose network is read.
        trained: its dictionaries.
        heldout: windows; a control on data is read on the real ones too, so that its latents can be correlated.
        heldout_key: what the windows are, for the artifact's key.
        bench: store and progress.
        label: of the stage, by default the subject's.
    """
    names = {key: dictionary_name(*key) for key in trained.dictionaries}
    config = {**subject.identity, "dictionaries": sorted(names.values())}
    inputs = {
        "network": subject.base,
        "heldout": heldout_key,
        "dictionaries": trained.artifact.key,
        "ordinary": trained.statistics.ordinary_key,
    }

    def make(folder: Path) -> None:
        network = subject.network
        located = {
            names[key]: (subject.sites[key[0]], dictionary)
            for key, dictionary in on(network.device, trained.dictionaries).items()
        }
        reconstruction = ReconstructionSums(located, heldout, trained.statistics.ordinary)
        # A latent does not fire where its dictionary is not meant to be: no verdict rests on what training left out.
        trained_on = trained.statistics.trained_on
        collector = FiringsCollector(
            {name: dictionary.n_latents for name, (_, dictionary) in located.items()},
            {name: (site, trained_on[site]) for name, (site, _) in located.items() if site in trained_on},
        )
        sweep(
            network,
            heldout,
            located,
            [reconstruction.see, collector.see],
            batch_windows=subject.study.evaluation.batch_windows,
            reporter=bench.reporter,
        )
        for (site, seed), name in names.items():
            scope = {"site": site, "seed": seed, "study": subject.label}
            save_sums(folder, reconstruction.finish(scope=scope)[name], heldout.names, stem=f"{name}.sums")
        for name, firings in collector.finish().items():
            firings.save(folder, name)
        for name, site in subject.sites.items():
            save_array(folder / _left_out(name), np.flatnonzero(~reconstruction.ordinary(site)))

    def load(artifact: Artifact) -> tuple[_Sums, dict[tuple[str, int], Firings], dict[str, np.ndarray]]:
        sums = {key: load_sums(artifact.path, stem=f"{name}.sums") for key, name in names.items()}
        firings = {key: Firings.load(artifact.path, name) for key, name in names.items()}
        return sums, firings, {name: artifact.array(_left_out(name)) for name in subject.sites}

    artifact, (sums, firings, left_out) = bench.stage(
        "readings", config, inputs, make, load, label=label or subject.label, version=2
    )
    if label is None:  # a target is about the subject's own tokens
        for key, target in trained.target_l0.items():
            sums[key] = [_against_target(entry, target, names[key], subject.label, bench) for entry in sums[key]]
    return Readings(sums, firings, left_out, artifact)


def _left_out(site: str) -> str:
    return f"{file_name(site)}.left_out.npy"


def _against_target(entry: DocumentSums, target: float, name: str, label: str, bench: Bench) -> DocumentSums:
    """The L0 metric with its target, and with a note (told as well) where it misses it; any other metric as it is."""
    if entry.name != "l0":
        return entry
    value = float(entry.values(entry.sums.sum(0)))
    details: dict[str, object] = {**entry.details, "target": target}
    if abs(value / target - 1) > L0_TOLERANCE:
        note = f"L0 is {value:.3g} on held-out tokens where {target:.3g} was asked for: train longer, or set another"
        bench.reporter.message(f"{name} ({label}): {note}")
        details["note"] = note
    return replace(entry, details=details)


@dataclass(frozen=True)
class Spliced:
    """What the network loses when reconstructions stand in for its own vectors.

    Attributes:
        sums: the metrics of every site and of all jointly, for the judged seed.
        windows: the held-out windows it was measured on.
        artifact: where they are kept.
    """

    sums: list[DocumentSums]
    windows: Windows
    artifact: Artifact


def splice_stage(subject: Subject, trained: Trained, bench: Bench) -> Spliced:
    """CE, KL and their recovery with every site patched alone and all patched jointly, for the first seed."""
    study, seed = subject.study, subject.study.seeds[0]
    windows = first_windows(subject.tokens.heldout, study.tokens.splice)
    config = {**subject.identity, "seed": seed}
    inputs = {
        "network": subject.base,
        "heldout": windows.fingerprint,
        "dictionaries": trained.artifact.key,
        "ordinary": trained.statistics.ordinary_key,
    }

    def make(folder: Path) -> None:
        network = subject.network
        on(network.device, trained.dictionaries)
        shown = {str(site): name for name, site in subject.sites.items()}
        patched = {subject.sites[name]: d for name, d in trained.of_seed(seed).items()}
        means = {subject.sites[name]: mean.to(network.device) for name, mean in trained.means.items()}
        sums = splice_sums(
            network,
            windows,
            {str(seed): patched},
            means,
            trained_on=trained.statistics.trained_on,
            ordinary=trained.statistics.ordinary,
            scope={"study": subject.label},
            reporter=bench.reporter,
        )
        named = [_renamed(entry, seed, shown) for entry in sums[str(seed)]]
        save_sums(folder, named, windows.names, stem="splice")

    def load(artifact: Artifact) -> list[DocumentSums]:
        return load_sums(artifact.path, stem="splice")

    artifact, sums = bench.stage("splice", config, inputs, make, load, label=subject.label, version=3)
    return Spliced(sums, windows, artifact)


def _renamed(entry: DocumentSums, seed: int, shown: Mapping[str, str]) -> DocumentSums:
    """The same metric with its site called as the study calls it."""
    scope = {key: value for key, value in entry.scope.items() if key != "set"}
    site = str(scope.get("site", ""))
    return replace(entry, scope={**scope, "site": shown.get(site, site), "seed": seed})
