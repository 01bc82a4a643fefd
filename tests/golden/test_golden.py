"""The keys and the numbers of fixed studies are those that were recorded, up to the rounding of another machine."""

import json
from pathlib import Path

import pytest

from tests.golden.record import HERE, STUDIES, defaults, differences, study_numbers, toy_keys

ROUNDING = 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_has_the_keys_and_the_numbers_that_were_recorded(kind: str, tmp_path: Path) -> None:
    """Where one differs on purpose: `python -m tests.golden.record --write`, and a line in the changelog."""
    golden = json.loads((HERE / f"{kind}.json").read_text())
    assert not differences(golden, study_numbers(kind, tmp_path), kind, within=ROUNDING)


def test_the_toys_and_the_trials_have_the_keys_that_were_recorded() -> None:
    """Where a default or the code changes what one finds, raise its version; then record it, with a changelog line."""
    assert not differences(json.loads((HERE / "toys_keys.json").read_text()), toy_keys(), "toys_keys")


def test_the_defaults_that_keys_leave_out_are_those_that_were_recorded() -> None:
    """Where one changes, the stages that rest on it make something else: raise their versions, then record it."""
    assert not differences(json.loads((HERE / "defaults.json").read_text()), defaults(), "defaults")


def test_a_difference_is_found_wherever_it_is() -> None:
    tree = {"keys": {"a": "1"}, "latents": {"x": [1.0, "nan", True]}}
    assert not differences(tree, tree)
    assert not differences({"x": [1.0]}, {"x": [1.0 + 1e-6]}, within=1e-5)
    assert differences({"x": [1.0]}, {"x": [1.0 + 1e-6]})
    for other in (
        {**tree, "keys": {"a": "2"}},
        {**tree, "keys": {}},
        {**tree, "keys": {"a": "1", "b": "2"}},
        {**tree, "latents": {"x": [1.0, "nan"]}},
        {**tree, "latents": {"x": [1.0, 2.0, True]}},
        {**tree, "latents": {"x": [1.0, "nan", False]}},
    ):
        assert differences(tree, other, within=1e-3)
