"""A finished study that several files look at."""

from pathlib import Path

import pytest

import polyseme
from tests.studies.small import JUDGED, small_config


@pytest.fixture(scope="session")
def finished(small_network: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> polyseme.StudyResult:
    """A study that ended, with two sites, three seeds and two draws of two controls."""
    config = small_config(small_network, small_corpus, **JUDGED)
    return polyseme.study(config, root=tmp_path_factory.mktemp("finished"))
