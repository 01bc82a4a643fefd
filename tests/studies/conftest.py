"""A finished study that several files look at."""

from pathlib import Path
from typing import Any

import pytest

import polyseme
from tests.studies.small import small_config

REACHED: dict[str, Any] = {
    "verdicts": {"min_documents": 6, "margin_fdr": 1.0, "alpha": 0.6},
    "tokens": {"train": 4000, "heldout": 700, "heldout_document_tokens": 64, "splice": 400, "heldout_fraction": 0.4},
}
"""Thresholds that a small study can reach."""


@pytest.fixture(scope="session")
def finished(small_network: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> polyseme.StudyResult:
    """A study that ended, with two sites, two seeds and two controls."""
    config = small_config(small_network, small_corpus, **REACHED)
    return polyseme.study(config, root=tmp_path_factory.mktemp("finished"))
