"""Every toy's slow checks, and what `docs/zoo.md` says of each: the ones that hold, and the ones found not to.

Finished experiments are kept in `.attacks`, or in the folder that `POLYSEME_ATTACKS` names: a killed run goes on.
"""

import re
from pathlib import Path

import pytest

from polyseme.core.progress import Silent
from polyseme.zoo import TOYS
from polyseme.zoo.running import run_experiment
from tests.attacks.attacks import ROOT

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
WORDS = {"pass": "pass", "fail": "fail", "not_measured": "not measured"}
SLOW = [(name, e) for name, toy in TOYS.items() for e in toy.experiments if e.cost == "slow"]


def documented() -> dict[tuple[str, str], list[str]]:
    """(toy, check) → its outcomes in the page's tables, one for each experiment that makes it."""
    found: dict[tuple[str, str], list[str]] = {}
    toy = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"### (\w+):", line):
            toy = heading[1]
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if toy and len(cells) == 6 and cells[5] in WORDS.values():
            found.setdefault((toy, cells[0]), []).append(cells[5])
    return found


@pytest.mark.long
@pytest.mark.parametrize(("name", "experiment"), SLOW, ids=[f"{name}-{e.name}" for name, e in SLOW])
def test_the_slow_checks_come_out_as_the_page_says(name: str, experiment: object) -> None:
    result = run_experiment(name, TOYS[name].config(), experiment, root=ROOT, reporter=Silent())
    assert result.checks
    page = documented()
    differing = {
        check.name: f"{check.value}, {check.outcome}, where the page has {page.get((name, check.name))}"
        for check in result.checks
        if WORDS[check.outcome] not in page.get((name, check.name), [])
    }
    assert not differing


def test_the_page_has_the_tables_that_slow_checks_are_compared_with() -> None:
    page = documented()
    assert {name for name, _ in SLOW} <= {toy for toy, _ in page}
    assert {outcome for outcomes in page.values() for outcome in outcomes} == set(WORDS.values())
