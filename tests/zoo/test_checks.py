"""Every toy's fast checks, run in full: what a faithful implementation must reproduce."""

from pathlib import Path

import pytest

from polyseme import zoo
from polyseme.core.progress import Silent
from polyseme.zoo import TOYS
from polyseme.zoo.running import run_experiment

_SHARED = "pairs share a direction, but between neurons or beside others: the .90 is our proposal, and found too strict"
KNOWN: dict[tuple[str, str], str] = {
    ("correlated_pairs", "pairs that share a direction at ρ = 0.5"): _SHARED,
    ("correlated_pairs", "neurons that hold one pair and nothing else at ρ = 0.5"): _SHARED,
    ("correlated_pairs", "neurons that hold one pair and nothing else at ρ = 0.9"): _SHARED,
    ("incidental", "polysemantic neurons at n = 32, m = 128, against pairs"): (
        "1.63 ± .14 (s.e.) against 1.94, n = 40: it counts pairs, and neurons are 1.72"
    ),
    ("missed_solution", "AND, n = 5, H = 40: neurons of one AND"): "6 of 640 neurons by our rule, not none",
}
"""(toy, check) that does not reproduce → why; docs/zoo.md says what was found."""
FAST = [(name, e) for name, toy in TOYS.items() for e in toy.experiments if e.cost == "fast"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "experiment"), FAST, ids=[f"{name}-{e.name}" for name, e in FAST])
def test_the_fast_checks_hold(name: str, experiment: object) -> None:
    result = run_experiment(name, TOYS[name].config(), experiment, reporter=Silent())
    assert result.checks
    failed = {c.name: f"{c.value} against {c.reference}: {c.note}" for c in result.checks if c.outcome != "pass"}
    unexpected = {check: why for check, why in failed.items() if (name, check) not in KNOWN}
    assert not unexpected
    mended = [c.name for c in result.checks if c.outcome == "pass" and (name, c.name) in KNOWN]
    assert not mended, "a check that was known to fail passes: take it off the list"


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_says_what_it_is(name: str) -> None:
    toy = TOYS[name]
    assert toy.config.title
    assert toy.config.paper
    assert toy.experiments
    names = [e.name for e in toy.experiments]
    assert len(set(names)) == len(names)


def test_a_toy_is_one_folder_and_one_line() -> None:
    folder = Path(zoo.__file__).parent
    assert {path.parent.name for path in folder.glob("*/toy.py")} - {"tools"} == set(TOYS)
    for name, toy in TOYS.items():
        functions = [e.run for e in toy.experiments] + list(toy.figures.values()) + [toy.config]
        assert {f.__module__.rpartition(".")[0] for f in functions} == {f"polyseme.zoo.{name}"}
