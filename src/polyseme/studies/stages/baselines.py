"""What tokens alone explain, and how large a plain model predicts like the patched one."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from polyseme.evaluation import DocumentSums, LookupConfig, LookupSums, Rung, load_sums, save_sums, sweep
from polyseme.store import Artifact
from polyseme.studies.runner import Bench
from polyseme.studies.stages.tokens import first_windows
from polyseme.studies.subject import Statistics, Subject


@dataclass(frozen=True)
class Baselines:
    """FVU of the look-up tables: site name to `fvu_token` and `fvu_bigram`."""

    sums: dict[str, list[DocumentSums]]
    artifact: Artifact


def baselines_stage(subject: Subject, statistics: Statistics, bench: Bench) -> Baselines:
    """Learn the look-up tables on train tokens and score them on the held-out ones."""
    study = subject.study
    train = first_windows(subject.tokens.train, study.evaluation.lookup_tokens)
    settings = LookupConfig(batch_windows=study.evaluation.batch_windows)
    config = {**subject.identity, "lookup": settings.model_dump(exclude={"batch_windows"})}
    inputs = {"network": subject.base, "train": train.fingerprint, "heldout": subject.tokens.heldout_key}
    inputs["ordinary"] = statistics.ordinary_key

    def make(folder: Path) -> None:
        network, heldout = subject.network, subject.tokens.heldout
        sites = list(subject.sites.values())
        tables = settings.build(network, train, heldout, sites, ordinary=statistics.ordinary, reporter=bench.reporter)
        sums = LookupSums(tables, heldout)
        sweep(network, heldout, {}, [sums.see], sites=sites, reporter=bench.reporter)
        save_sums(folder, sums.finish(scope={"study": subject.label}), heldout.names)

    def load(artifact: Artifact) -> list[DocumentSums]:
        return load_sums(artifact.path)

    artifact, sums = bench.stage("baselines", config, inputs, make, load, label=subject.label, version=2)
    by_site = {
        name: [entry for entry in sums if entry.scope["site"] == str(site)] for name, site in subject.sites.items()
    }
    return Baselines(by_site, artifact)


def shipped_ladder(source: str) -> tuple[Rung, ...]:
    """The measured ladder that a shipped network is a rung of; empty for any other network."""
    if source != "pylm":
        return ()
    text = files("polyseme.networks").joinpath("pylm", "ladder.json").read_text(encoding="utf-8")
    ladder: dict[str, Any] = json.loads(text)
    return tuple(
        Rung(n_parameters=rung["n_parameters"], ce=rung["heldout_ce_nats_per_token"]) for rung in ladder["rungs"]
    )
