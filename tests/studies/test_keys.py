"""Which stages a changed setting computes again: those that rest on it, and no others."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from polyseme.activations import HarvestConfig
from polyseme.core.progress import Silent
from polyseme.networks import Network
from polyseme.store import Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from polyseme.studies.run import find
from polyseme.studies.stage import Worker
from polyseme.training import TrainingConfig
from polyseme.training.config import LeaveOutConfig
from tests.studies.small import small_config

BASE: dict[str, Any] = {
    "sites": ["blocks.1.resid_post"],
    "tokens": {
        "train": 1500,
        "heldout": 500,
        "splice": 150,
        "heldout_fraction": 0.4,
        "context": 16,
        "heldout_document_tokens": 60,
    },
    "training": {"n_tokens": 1024, "batch_size": 128},
    "controls": [{"kind": "gaussian_reinit"}],
    "causal": {"n_samples": 3, "n_directions": 2},
    "evaluation": {"n_resamples": 100, "lookup_tokens": 500, "match_tokens": 600, "n_continuations": 0},
}
OF_DICTIONARIES = {"dictionaries", "readings", "splice", "causal", "matching", "recurrence", "stability"}
OF_HELDOUT = {"tokens (heldout)", "readings", "causal", "matching", "recurrence", "stability", "baselines"}
ALL = {"tokens (train)", "statistics", *OF_DICTIONARIES, *OF_HELDOUT}
OF_NETWORK = ALL - {"tokens (train)", "tokens (heldout)"}

WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "name": {"name": "another"},
    "shown": {"shown": 7},
    "evidence": {"evidence": "paper"},
    "verdicts": {"verdicts": {"alpha": 0.01, "recurrence": 0.3, "margin": 0.1}},
    "training.checkpoint_seconds": {"training": {"checkpoint_seconds": 1.0}},
    "harvest.cache": {"harvest": {"cache": "disk"}},
    "harvest.prefetch": {"harvest": {"prefetch": True}},
    "evaluation.n_resamples": {"evaluation": {"n_resamples": 200}},
    "evaluation.batch_windows": {"evaluation": {"batch_windows": 4}},
    "causal.tokens_per_pass": {"causal": {"tokens_per_pass": 512}},
    "causal.max_ghosts": {"causal": {"max_ghosts": 64}},
    "causal.logit_bytes": {"causal": {"logit_bytes": 2**27}},
}
"""What is shown, judged, resampled, kept or bounds the memory: no artifact rests on it."""

CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "heldout": ({"tokens": {"heldout": 600}}, OF_HELDOUT),
    "heldout_document_tokens": ({"tokens": {"heldout_document_tokens": 50}}, {*OF_HELDOUT, "splice"}),
    "splice": ({"tokens": {"splice": 300}}, {"splice"}),
    "train": ({"tokens": {"train": 1800}}, {"tokens (train)", "statistics", "baselines", *OF_DICTIONARIES}),
    "seed of the tokens": ({"tokens": {"seed": 1}}, ALL),
    "allow_fewer": ({"tokens": {"allow_fewer": True}}, {"tokens (train)", "tokens (heldout)"}),
    "k": ({"dictionary": {"k": 5}}, OF_DICTIONARIES),
    "seeds": ({"seeds": [0, 2]}, OF_DICTIONARIES),
    "lookup_tokens": ({"evaluation": {"lookup_tokens": 900}}, {"baselines", "causal"}),
    "match_tokens": ({"evaluation": {"match_tokens": 900}}, {"matching", "recurrence"}),
    "draws": ({"draws": 2}, {"statistics", "dictionaries", "readings", "matching", "recurrence"}),
    "draw_seed": ({"draw_seed": 1}, {*OF_HELDOUT, "splice"}),
    "n_samples": ({"causal": {"n_samples": 4}}, {"causal"}),
    "n_directions": ({"causal": {"n_directions": 3}}, {"causal"}),
    "context": ({"tokens": {"context": 24}}, ALL),
    # The train tokens and the first held-out ones are of documents that stay on their side.
    "heldout_fraction": ({"tokens": {"heldout_fraction": 0.5}}, {"tokens (train)", *OF_HELDOUT}),
    "dtype of the network": ({"network": {"dtype": "bfloat16"}}, OF_NETWORK),
    "linear": ({"network": {"linear": "fused"}}, OF_NETWORK),
    "another site": ({"sites": ["blocks.1.resid_post", "blocks.0.resid_post"]}, OF_NETWORK),
    "another control": (
        {"controls": [{"kind": "gaussian_reinit"}, {"kind": "shuffled_tokens"}]},
        {"statistics", "dictionaries", "readings", "splice", "matching", "recurrence"},
    ),
}


def config(network: Path, texts: Path, /, **changes: Any) -> StudyConfig:
    base = small_config(network, texts, **BASE)
    for name, value in changes.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, dict) else value
    return StudyConfig.model_validate(base)


def made(study: StudyConfig, root: Path) -> set[str]:
    """Names of the stages of the study itself that were computed, labels aside but for the side of the tokens."""
    worker = Worker(study, Store(root), Silent())
    find(worker)
    new = [record.stage for record in worker.records if not record.reused]
    return {name if name.startswith("tokens") else name.split(" (")[0] for name in new}


@pytest.fixture(scope="module")
def finished(small_network: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keys")
    assert made(config(small_network, small_corpus), root) == ALL
    return root


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_computes_again_what_rests_on_it_and_nothing_else(
    finished: Path, small_network: Path, small_corpus: Path, change: str
) -> None:
    changes, expected = CHANGES[change]
    assert made(config(small_network, small_corpus, **changes), finished) == expected


@pytest.mark.parametrize("change", list(WITHOUT_EFFECT))
def test_a_change_that_no_artifact_rests_on_computes_nothing_again(
    finished: Path, small_network: Path, small_corpus: Path, change: str
) -> None:
    assert made(config(small_network, small_corpus, **WITHOUT_EFFECT[change]), finished) == set()


def test_another_control_leaves_what_the_study_and_the_first_control_made(
    finished: Path, small_network: Path, small_corpus: Path
) -> None:
    both = [{"kind": "gaussian_reinit"}, {"kind": "unigram_tokens"}]
    worker = Worker(config(small_network, small_corpus, controls=both), Store(finished), Silent())
    find(worker)
    new = {record.stage for record in worker.records if not record.reused}
    assert {name for name in new if "unigram_tokens" not in name} == {"recurrence"}


def test_what_was_moved_or_renamed_is_not_computed_again(
    finished: Path, small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    network = shutil.copytree(small_network, tmp_path / "network")
    corpus = shutil.copytree(small_corpus, tmp_path / "texts")
    assert made(config(network, corpus, corpus={"glob": "*.txt"}), finished) == set()


def _key(study: StudyConfig, network: Network, root: Path) -> str:
    """The key that the dictionaries of a study have."""
    worker = Worker(study, Store(root), Silent())
    worker.__dict__["network"] = network
    return worker.key(Plan.of(study).real.dictionaries)


OTHER = {
    "training": {
        "n_tokens": 77, "batch_size": 77, "lr": 0.077, "warmup": 0.07, "decay": 0.07, "beta1": 0.7, "beta2": 0.7,
        "clip": 0.7, "target_l0": 7.0, "sparsity_warmup": 0.07, "dead_after": 77, "checkpoint_seconds": 7.0,
        "revive": 0.07, "leave_out": LeaveOutConfig(positions=3),
    },
    "harvest": {
        "block_tokens": 77, "batch_windows": 7, "cache": "disk", "shard_dtype": "float16", "prefetch": True, "seed": 7,
    },
}  # fmt: skip
DECIDES_NOTHING = {"checkpoint_seconds", "cache", "prefetch", "shard_dtype"}
"""`shard_dtype` decides where shards are kept; see the last assertion below."""


def test_every_field_of_training_and_harvest_is_in_the_key_unless_it_decides_nothing(
    finished: Path, small_network: Path, small_corpus: Path
) -> None:
    base = config(small_network, small_corpus)
    network = base.network.build()
    before = _key(base, network, finished)
    for part, model in (("training", TrainingConfig), ("harvest", HarvestConfig)):
        known = set(OTHER[part])
        missing = set(model.model_fields) - known
        assert not missing, f"say in OTHER what other value {missing} may have"
        for name, value in OTHER[part].items():
            changed = getattr(base, part).model_copy(update={name: value})
            same = _key(base.model_copy(update={part: changed}), network, finished) == before
            assert same == (name in DECIDES_NOTHING), name
    halved = base.harvest.model_copy(update={"cache": "disk", "shard_dtype": "float16"})
    assert _key(base.model_copy(update={"harvest": halved}), network, finished) != before
