"""The examples in docstrings are run, and print what they say."""

import doctest
from importlib import import_module

import pytest
import torch

import polyseme

API = ("latent_edits", "continued", "top_tokens", "splice_loss", "train", "probes")
MODULES = ["polyseme.networks.network", *(f"polyseme.api.{name}" for name in API)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(name):
    found = doctest.testmod(import_module(name), extraglobs={"polyseme": polyseme, "torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
