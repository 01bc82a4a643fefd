"""A whole study of a network that learned a language, and of the same network before it learned anything."""

from pathlib import Path
from typing import Any

import pytest

import polyseme
from polyseme.core.records import Axis
from tests.language import write_documents, write_llama

FIELDS: dict[str, Any] = {
    "sites": ["blocks.1.resid_post"],
    "evidence": "quick",
    "tokens": {"train": 12_000, "heldout": 4_000, "splice": 500, "heldout_fraction": 0.3},
    "dictionary": {"architecture": "topk", "n_latents": 64, "k": 6},
    "training": {"n_tokens": 40_000, "batch_size": 512},
    "evaluation": {"n_resamples": 100, "n_continuations": 0},
    "controls": [{"kind": "gaussian_reinit"}],
}
LEARNED = 150
"""Steps of training, after which the network predicts better than any table of two tokens."""


def _study(folder: Path, steps: int) -> polyseme.StudyResult:
    network = write_llama(folder / "network", steps=steps)
    texts = write_documents(folder / "texts.jsonl", 1_000)
    corpus = {"kind": "jsonl", "paths": [str(texts)]}
    return polyseme.study({**FIELDS, "network": {"source": str(network)}, "corpus": corpus}, root=folder / "runs")


def _yes(result: polyseme.StudyResult, axis: Axis) -> int:
    (judged,) = result.findings.verdicts.values()
    return int(judged.outcomes[axis].yes.sum())


@pytest.mark.slow
def test_latents_of_a_network_that_learned_are_its_own_and_used(tmp_path: Path) -> None:
    """Nearly all of them are, at the lowest level of evidence."""
    result = _study(tmp_path, LEARNED)
    assert _yes(result, "used") > 40
    assert _yes(result, "network") > 25


@pytest.mark.slow
def test_no_latent_of_a_random_network_is_used(tmp_path: Path) -> None:
    """Its dictionary has latents of tokens like any other; what they write moves predictions in no direction."""
    result = _study(tmp_path, 0)
    assert _yes(result, "used") <= 1
    claimed = result.verdict_counts["network_feature"] + result.verdict_counts["token_level"]
    assert claimed <= 1
    assert sum(result.verdict_counts.values()) == 64
