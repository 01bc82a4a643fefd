"""A whole study small enough for a test: a two-block GPT-2, a folder of text, narrow dictionaries."""

from pathlib import Path
from typing import Any

import numpy as np

from polyseme.report.schema import StudyReport
from polyseme.studies.result import StudyResult
from tests.tiny import tiny_gpt2, tiny_tokenizer

WORDS = ("def", "return", "self", "import", "for", "in", "if", "else", "not", "x", "y", "(", ")", ":", "=", "None")

JUDGED: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "draws": 2,
    "verdicts": {"min_documents": 6, "alpha": 0.4, "recurrence": 0.2, "margin": 0.0},
    "tokens": {"train": 4000, "heldout": 700, "heldout_document_tokens": 64, "splice": 400, "heldout_fraction": 0.4},
}
"""Partners, draws and thresholds with which a small study judges latents either way."""


def write_network(folder: Path) -> Path:
    """A tiny random GPT-2 with its tokenizer, as a Hugging Face folder."""
    tiny_gpt2().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def shown(result: StudyResult) -> StudyReport:
    """What the report of a study shows, as it was written."""
    return StudyReport.load(result.run.artifacts / "report.json")


def write_corpus(folder: Path, documents: int = 40, words: int = 120) -> Path:
    """Text files of random words, different in each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(documents):
        text = " ".join(rng.choice(WORDS, size=words).tolist())
        (folder / f"{i:03d}.txt").write_text(f"# {i}\n{text}\n")
    return folder


def small_config(network: Path, corpus: Path, /, **changes: Any) -> dict[str, Any]:
    """The config of a study that takes a few seconds; with one partner and one draw it judges nothing (`JUDGED`)."""
    config: dict[str, Any] = {
        "name": "small",
        "network": {"source": str(network)},
        "corpus": {"kind": "text", "paths": [str(corpus)]},
        "sites": ["blocks.0.resid_post", "blocks.1.resid_post"],
        "tokens": {"train": 4000, "heldout": 1200, "splice": 400, "heldout_fraction": 0.4},
        "dictionary": {"architecture": "topk", "n_latents": 32, "k": 4},
        "training": {"n_tokens": 8192, "batch_size": 256},
        "evaluation": {"n_resamples": 100, "lookup_tokens": 2000, "n_continuations": 0},
        "seeds": [0, 1],
        "draws": 1,
        "controls": [{"kind": "gaussian_reinit"}, {"kind": "shuffled_tokens"}],
        "causal": {"n_samples": 8, "n_directions": 2},
        "shown": 3,
    }
    return {**config, **changes}
