"""Shapes are checked at run time in every test; the network is blocked by pytest's options."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook takes the checker by name, and finds it only once it is imported

install_import_hook("polyseme", "tests.typecheck.checked")

import torch  # noqa: E402  after the hook

# A shell that started the tests in the background made them deaf to Ctrl-C; some tests are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests' matrices are small: a second thread costs more in waiting than it brings.
torch.set_num_threads(1)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The test runs with one thread of torch, and with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GPT-2 and its tokenizer."""
    from tests.studies.small import write_network

    return write_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text files."""
    from tests.studies.small import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus") / "texts")
