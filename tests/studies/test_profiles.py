"""A whole study of a network that learned a language, and of the same network before it learned anything."""

from pathlib import Path
from typing import Any

import pytest

import polyseme
from tests.language import write_documents, write_llama

FIELDS: dict[str, Any] = {
    "sites": ["blocks.1.resid_post"],
    "evidence": "quick",
    "tokens": {"train": 20_000, "heldout": 6_000, "splice": 500, "heldout_fraction": 0.3},
    "dictionary": {"architecture": "topk", "n_latents": 128, "k": 6},
    "training": {"n_tokens": 80_000, "batch_size": 512},
    "evaluation": {"n_resamples": 100, "n_continuations": 0},
    "controls": [{"kind": "gaussian_reinit"}],
}
LEARNED = 200
"""Steps of training, after which the network predicts better than any table of two tokens."""


def _study(folder: Path, steps: int) -> polyseme.StudyResult:
    network = write_llama(folder / "network", steps=steps)
    texts = write_documents(folder / "texts.jsonl", 1_500)
    corpus = {"kind": "jsonl", "paths": [str(texts)]}
    return polyseme.study({**FIELDS, "network": {"source": str(network)}, "corpus": corpus}, root=folder / "runs")
