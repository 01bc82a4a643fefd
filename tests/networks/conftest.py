"""A folder of a small network that tests of loading share."""

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with its tokenizer, as transformers saves it."""
    folder = tmp_path_factory.mktemp("gpt2")
    tiny.tiny_gpt2().save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder
