"""The dictionaries stage: every site and seed of a subject, trained in one pass over its activations."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter
from torch import Tensor

from polyseme.activations import HarvestConfig, site_means
from polyseme.activations.massive import SAMPLE
from polyseme.core.binding import Binding
from polyseme.core.seeds import derive_seed
from polyseme.dictionaries import Dictionary, load_dictionary, save_dictionary
from polyseme.store import Artifact, save_json, save_tensors
from polyseme.studies.runner import Bench
from polyseme.studies.stages.statistics import statistics_stage
from polyseme.studies.stages.tokens import first_windows
from polyseme.studies.subject import Subject, Trained, dictionary_name
from polyseme.training import HistoryPoint, Job, fit

_History = dict[str, tuple[HistoryPoint, ...]]
_HISTORY = TypeAdapter(_History)
_SCRATCH = ("checkpoints", "activations")
_VERSION = 3
"""1 steered L0 more slowly, and reached fewer targets; 2 rested on held-out tokens, too."""


def dictionaries_stage(
    subject: Subject, bench: Bench, *, target_l0: Mapping[tuple[str, int], float] | None = None
) -> Trained:
    """Train (or find) a dictionary for every site and seed.

    Args:
        subject: network, tokens, sites, and the study's config.
        bench: store and progress.
        target_l0: L0 each dictionary must reach, for a control that is to match the real study; only dictionaries whose
            sparsity is bought with a coefficient need it.

    Raises:
        Diverged: a training went wrong; the last good checkpoint is kept.
    """
    study = subject.study
    statistics = statistics_stage(subject, bench)
    keys = [(site, seed) for site in subject.sites for seed in study.seeds]
    names = {key: dictionary_name(*key) for key in keys}
    left_out = {"trained on": statistics.trained_on_key} if statistics.trained_on_key else {}
    config = {
        **subject.identity,
        "dictionary": study.dictionary,
        "training": study.training.model_dump(exclude={"checkpoint_seconds", "leave_out"}),
        "harvest": _order(study.harvest),
        "mean_tokens": SAMPLE,
        "seeds": study.seeds,
        "target_l0": {names[key]: value for key, value in (target_l0 or {}).items()},
    }

    def make(folder: Path) -> None:
        network = subject.network
        source = study.harvest.build(
            network, subject.tokens.train, subject.sites, folder=folder / "activations", reporter=bench.reporter
        )
        dictionaries = {
            (site, seed): study.dictionary.build(
                network.width(subject.sites[site]), seed=derive_seed(seed, "dictionary", site), device=network.device
            )
            for site, seed in keys
        }
        jobs = [
            Job(names[site, seed], dictionary, Binding.at(site), seed, (target_l0 or {}).get((site, seed)))
            for (site, seed), dictionary in dictionaries.items()
        ]
        trained = fit(
            jobs,
            source,
            study.training,
            checkpoints=folder / "checkpoints",
            spreads=statistics.spreads,
            reporter=bench.reporter,
        )
        means = statistics.means
        if left_out:
            few = first_windows(subject.tokens.train, SAMPLE)
            kept = {n: statistics.trained_on[s] for n, s in subject.sites.items() if s in statistics.trained_on}
            means = site_means(network, few, subject.sites, ordinary=kept, reporter=bench.reporter)
        save_tensors(folder / "means.safetensors", means)
        save_json(folder / "history.json", {t.name: t.history for t in trained})
        for (site, seed), job in zip(keys, trained, strict=True):
            where = {"site": site, "module": str(subject.sites[site]), "seed": seed, "n_tokens": job.n_tokens}
            metadata = {**where, "study": subject.label, "network": subject.base, "tokens": subject.tokens.train_key}
            save_dictionary(folder / names[site, seed], dictionaries[site, seed], metadata)

    def load(artifact: Artifact) -> tuple[dict[tuple[str, int], Dictionary], _History, dict[str, Tensor]]:
        dictionaries: dict[tuple[str, int], Dictionary] = {
            key: load_dictionary(artifact.file(f"{name}/dictionary.json").parent) for key, name in names.items()
        }
        history = artifact.parsed("history.json", _HISTORY.validate_python)
        return dictionaries, history, artifact.tensors("means.safetensors")

    inputs = {"network": subject.base, "tokens": subject.tokens.train_key, **left_out}
    artifact, (dictionaries, history, means) = bench.stage(
        "dictionaries", config, inputs, make, load, label=subject.label, version=_VERSION, scratch=_SCRATCH
    )
    targets = {key: (target_l0 or {}).get(key, study.training.target_l0) for key in keys}
    return Trained(
        dictionaries=dictionaries,
        history={key: history[name] for key, name in names.items()},
        means=means,
        statistics=statistics,
        artifact=artifact,
        target_l0={
            key: target for key, target in targets.items() if target is not None and dictionaries[key].has_coefficient
        },
    )


def _order(harvest: HarvestConfig) -> dict[str, object]:
    """What of the harvest decides the vectors and their order: neither where they are kept, nor what prepares them."""
    shard_dtype = harvest.shard_dtype if harvest.cache == "disk" else "float32"
    return {**harvest.model_dump(exclude={"cache", "prefetch"}), "shard_dtype": shard_dtype}
