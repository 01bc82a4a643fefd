"""The evidence stages: what every latent of a judged dictionary does, and whether it is the network's own."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from pydantic import TypeAdapter

from polyseme.activations.firings import Firings
from polyseme.causal import CausalConfig, CausalEffects, causal_effects
from polyseme.core.progress import Reporter
from polyseme.core.records import MetricRecord
from polyseme.core.seeds import derive_seed
from polyseme.evaluation import stability
from polyseme.evaluation.specificity import Margin, Specificity, SpecificityConfig, specificity
from polyseme.evaluation.token_share import TokenShare, token_share
from polyseme.store import Artifact, save_array, save_json
from polyseme.studies.runner import Bench
from polyseme.studies.stages.measure import Readings
from polyseme.studies.subject import Subject, Trained, dictionary_name, on

_RECORDS = TypeAdapter(dict[str, list[MetricRecord]])


def causal_stage(
    subject: Subject, trained: Trained, readings: Readings, seed: int, config: CausalConfig, bench: Bench
) -> dict[str, CausalEffects]:
    """Causal effects of every latent of every site's dictionary of one seed; empty where nothing is predicted."""
    if not subject.network.predicts_tokens:
        return {}
    return {site: _causal_effects(subject, trained, readings, site, seed, config, bench) for site in subject.sites}


def _causal_effects(
    subject: Subject,
    trained: Trained,
    readings: Readings,
    site: str,
    seed: int,
    config: CausalConfig,
    bench: Bench,
) -> CausalEffects:
    """One site's effects, an artifact of its own: a study that is killed keeps the sites it has finished."""
    stage = {
        **subject.identity,
        "site": site,
        "seed": seed,
        "causal": config.model_dump(exclude={"max_ghosts", "tokens_per_pass", "logit_bytes"}),  # these bound the memory
    }
    inputs = {"network": subject.base, "heldout": subject.tokens.heldout_key, "readings": readings.artifact.key}

    def make(folder: Path) -> None:
        network = subject.network
        on(network.device, trained.dictionaries)
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
        for field, array in effects.arrays().items():
            save_array(folder / f"{field}.npy", array)

    def load(artifact: Artifact) -> CausalEffects:
        return CausalEffects(**{field.name: artifact.array(f"{field.name}.npy") for field in fields(CausalEffects)})

    label = f"{subject.label}, {site}" if len(subject.sites) > 1 else subject.label
    return bench.stage("causal", stage, inputs, make, load, label=label, version=4)[1]


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
    settings = SpecificityConfig()
    stage = {
        "sites": sites,
        "seeds": seeds[:2],
        "controls": list(others),
        "specificity": settings.model_dump(exclude={"chunk_bytes"}),
    }
    inputs = {"readings": real.artifact.key} | {name: o.artifact.key for name, o in others.items()}

    def make(folder: Path) -> None:
        for site in sites:
            found = specificity(
                real.firings[site, seeds[0]],
                real.firings[site, seeds[1]],
                {name: _any_seed(readings, site) for name, readings in others.items()},
                config=settings,
                seed=derive_seed(seeds[0], "specificity", site),
                progress=bench.reporter.task(
                    f"model-specificity of {site}", real.firings[site, seeds[0]].n_latents, "latents"
                ),
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

    def load(artifact: Artifact) -> dict[str, Specificity]:
        return {site: _load_specificity(artifact, dictionary_name(site, seeds[0])) for site in sites}

    return bench.stage("specificity", stage, inputs, make, load)[1]


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

    def load(artifact: Artifact) -> dict[str, list[MetricRecord]]:
        return artifact.parsed("stability.json", _RECORDS.validate_python)

    stage = {"sites": sites, "seeds": seeds[:2]}
    return bench.stage("stability", stage, {"readings": real.artifact.key}, make, load, label="trained", version=2)[1]


def token_shares(readings: Readings, sites: tuple[str, ...], seed: int, reporter: Reporter) -> dict[str, TokenShare]:
    """Token share of every latent of one seed's dictionaries."""
    progress = reporter.task("token share", len(sites), "sites")
    found: dict[str, TokenShare] = {}
    for site in sites:
        found[site] = token_share(readings.firings[site, seed], seed=derive_seed(seed, "token", site))
        progress.update(len(found))
    return found


def _any_seed(readings: Readings, site: str) -> Firings:
    return next(firings for (name, _), firings in readings.firings.items() if name == site)


def _load_specificity(artifact: Artifact, at: str) -> Specificity:
    def margin(name: str) -> Margin:
        return Margin(**{field.name: artifact.array(f"{at}/{name}.{field.name}.npy") for field in fields(Margin)})

    controls = artifact.parsed(f"{at}/controls.json", TypeAdapter(list[str]).validate_python)
    return Specificity(
        recurrence=margin("recurrence"),
        controls={name: margin(f"control-{i}") for i, name in enumerate(controls)},
        margins={name: margin(f"margin-{i}") for i, name in enumerate(controls)},
        noise=artifact.array(f"{at}/noise.npy"),
        n_documents=artifact.array(f"{at}/n_documents.npy"),
    )
