"""The evidence stages: what every latent of a judged dictionary does, and whether it is the network's own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from polyseme.activations.firings import Firings
from polyseme.causal import CausalConfig, CausalEffects, causal_effects
from polyseme.core.records import MetricRecord
from polyseme.core.seeds import derive_seed
from polyseme.evaluation import stability
from polyseme.evaluation.specificity import Margin, Specificity, specificity
from polyseme.evaluation.token_share import TokenShare, token_share
from polyseme.store import load_array, load_json, save_array, save_json
from polyseme.studies.bench import Bench
from polyseme.studies.measure import Readings
from polyseme.studies.subject import Subject, Trained, dictionary_name, on

_RECORDS = TypeAdapter(dict[str, list[MetricRecord]])


def causal_stage(
    subject: Subject, trained: Trained, readings: Readings, seed: int, config: CausalConfig, bench: Bench
) -> dict[str, CausalEffects]:
    """Causal effects of every latent of every site's dictionary of one seed; empty where nothing is predicted."""
    if not subject.network.predicts_tokens:
        return {}
    sites = {site: dictionary_name(site, seed) for site in subject.sites}
    stage = {**subject.identity, "causal": config, "seed": seed}
    inputs = {**subject.inputs, "readings": readings.artifact.key}

    def make(folder: Path) -> None:
        network = subject.network
        on(network.device, trained.dictionaries)
        for site, name in sites.items():
            if (folder / name / "effect.npy").exists():
                continue  # finished before this stage was interrupted
            effects = causal_effects(
                network,
                subject.tokens.heldout,
                subject.sites[site],
                trained.dictionaries[site, seed],
                readings.firings[site, seed],
                config=config,
                seed=derive_seed(seed, "causal", site),
                reporter=bench.reporter,
            )
            # `effect` is written last: where it stands, the others do too.
            for field, array in sorted(effects.arrays().items(), key=lambda item: item[0] == "effect"):
                save_array(folder / name / f"{field}.npy", array)

    artifact = bench.stage("causal", stage, inputs, make, label=subject.label, version=3)
    return {site: CausalEffects(**_arrays(artifact.path / name)) for site, name in sites.items()}


def specificity_stage(
    real: Readings, others: Mapping[str, Readings], sites: tuple[str, ...], seeds: tuple[int, ...], bench: Bench
) -> dict[str, Specificity]:
    """Model-specificity of every latent of the first seed's dictionaries; empty with a single seed or no control.

    Args:
        real: firings of the real study.
        others: control name to the firings of its dictionaries, over the same held-out tokens.
        sites: names of the sites.
        seeds: the first is judged against the second.
        bench: store and progress.
    """
    if len(seeds) < 2 or not others:
        return {}
    stage = {"sites": sites, "seeds": seeds[:2], "controls": list(others)}
    inputs = {"readings": real.artifact.key} | {name: o.artifact.key for name, o in others.items()}

    def make(folder: Path) -> None:
        progress = bench.reporter.task("model-specificity", len(sites), "sites")
        for done, site in enumerate(sites, start=1):
            found = specificity(
                real.firings[site, seeds[0]],
                real.firings[site, seeds[1]],
                {name: _any_seed(readings, site) for name, readings in others.items()},
                seed=derive_seed(seeds[0], "specificity", site),
            )
            at = folder / dictionary_name(site, seeds[0])
            margins = {"recurrence": found.recurrence}
            margins |= {f"control-{i}": found.controls[name] for i, name in enumerate(others)}
            margins |= {f"margin-{i}": found.margins[name] for i, name in enumerate(others)}
            for name, margin in margins.items():
                for field, array in margin.arrays().items():
                    save_array(at / f"{name}.{field}.npy", array)
            save_array(at / "noise.npy", found.noise)
            save_array(at / "n_documents.npy", found.n_documents)
            save_json(at / "controls.json", list(others))
            progress.update(done)

    artifact = bench.stage("specificity", stage, inputs, make)
    return {site: _load_specificity(artifact.path / dictionary_name(site, seeds[0])) for site in sites}


def stability_stage(
    real: Readings, trained: Trained, sites: tuple[str, ...], seeds: tuple[int, ...], bench: Bench
) -> dict[str, list[MetricRecord]]:
    """Matched cosines between the first two seeds' dictionaries at every site; empty with a single seed."""
    if len(seeds) < 2:
        return {}

    def make(folder: Path) -> None:
        progress = bench.reporter.task("seed stability", len(sites), "sites")
        found: dict[str, list[MetricRecord]] = {}
        for done, site in enumerate(sites, start=1):
            one, other = ((trained.dictionaries[site, s].write_directions(), real.alive(site, s)) for s in seeds[:2])
            scope = {"site": site, "seeds": f"{seeds[0]}, {seeds[1]}"}
            found[site] = stability(one[0], other[0], alive_a=one[1], alive_b=other[1], scope=scope)
            progress.update(done)
        save_json(folder / "stability.json", found)

    artifact = bench.stage(
        "stability", {"sites": sites, "seeds": seeds[:2]}, {"readings": real.artifact.key}, make, label="trained"
    )
    return _RECORDS.validate_python(load_json(artifact.file("stability.json")))


def token_shares(readings: Readings, sites: tuple[str, ...], seed: int) -> dict[str, TokenShare]:
    """Token share of every latent of one seed's dictionaries."""
    return {site: token_share(readings.firings[site, seed], seed=derive_seed(seed, "token", site)) for site in sites}


def _any_seed(readings: Readings, site: str) -> Firings:
    return next(firings for (name, _), firings in readings.firings.items() if name == site)


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: load_array(path) for path in sorted(folder.glob("*.npy"))}


def _load_specificity(folder: Path) -> Specificity:
    def margin(name: str) -> Margin:
        return Margin(**{field: load_array(folder / f"{name}.{field}.npy") for field in ("value", "low", "high", "p")})

    controls: list[str] = load_json(folder / "controls.json")
    return Specificity(
        recurrence=margin("recurrence"),
        controls={name: margin(f"control-{i}") for i, name in enumerate(controls)},
        margins={name: margin(f"margin-{i}") for i, name in enumerate(controls)},
        noise=load_array(folder / "noise.npy"),
        n_documents=load_array(folder / "n_documents.npy"),
    )
