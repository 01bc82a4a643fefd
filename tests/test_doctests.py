"""The examples in docstrings are run, and print what they say."""

import doctest
from importlib import import_module

import pytest
import torch

import polyseme

MODULES = ["polyseme.networks.network", "polyseme.api.latent_edits", "polyseme.api.continued"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(name):
    found = doctest.testmod(import_module(name), extraglobs={"polyseme": polyseme, "torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
