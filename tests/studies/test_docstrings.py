"""The examples in the docstrings of what a finished study gives are run, and print what they say."""

import doctest
from importlib import import_module

import pytest

import polyseme

MODULES = ("result", "opening", "comparing", "metric_table", "latent_table")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(finished: polyseme.StudyResult, name: str):
    known = {"polyseme": polyseme, "result": finished, "root": finished.run.path.parent}
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    module = import_module(f"polyseme.studies.{name}")
    found = doctest.testmod(module, extraglobs=known, optionflags=options)
    assert found.attempted > 0
    assert found.failed == 0
