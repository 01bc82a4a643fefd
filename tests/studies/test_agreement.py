"""Two runs of one study, latent by latent: what is drawn again, what is the same, and how far the answers agree."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import polyseme
from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.core.records import AXES, DECIDED, Status
from polyseme.store import Store
from polyseme.studies.agreement import agreement
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from polyseme.studies.result import StudyResult
from polyseme.studies.stage import Worker
from tests.studies.small import small_config

SITE = "blocks.0.resid_post"


class Run(StudyResult):
    """As much of a study as is compared: by site and column, what is said of its latents."""

    def __init__(self, answers: dict[str, dict[str, list[Any]]], weight: float = 0.0):
        object.__setattr__(self, "run", SimpleNamespace(id="a run"))
        object.__setattr__(self, "answers", answers)
        object.__setattr__(self, "weight", weight)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.answers)

    def dictionary(self, site: str, seed: int | None = None) -> Any:
        return SimpleNamespace(tensors=lambda: {"w": torch.tensor([self.weight, len(site)])})

    def latents(self, site: str | None = None, *, status: Status | None = None) -> Any:
        columns = self.answers[site]
        return {name: np.array(x, dtype=float if name == "frequency" else object) for name, x in columns.items()}


def site(status: list[str], frequency: list[float] | None = None, **answers: list[str]) -> dict[str, list[Any]]:
    often = [0.5] * len(status) if frequency is None else frequency
    return {
        "status": status,
        "frequency": often,
        **{axis: answers.get(axis, ["yes"] * len(status)) for axis in AXES},
    }


F, T, N, U = "network_feature", "token_level", "not_recurrent", "undecided"
ONE = Run(
    {
        "a": site([F, F, T, U], recurrent=["yes", "yes", "no", "unknown"], used=["unknown"] * 4),
        "b": site([N, N, N, N], frequency=[0.95, 0.9, 0.89, 1.0]),
    }
)
OTHER = Run(
    {
        "a": site([F, T, T, U], recurrent=["yes", "no", "no", "unknown"], used=["unknown"] * 4),
        "c": site([N, N, N, N]),
        "b": site([F, N, N, U], frequency=[0.5, 0.2, 0.97, math.nan]),
    }
)


def rows(one: Run, other: Run) -> dict[tuple[str, str, str], Any]:
    return {(row.site, row.of, row.measure): row for row in agreement(one, other)}


def test_shares_and_sets_are_counted_by_hand() -> None:
    found = rows(ONE, OTHER)

    def at(*key: str) -> tuple[int, int, float, int]:
        row = found[key]
        return row.one, row.other, row.share, row.n

    assert at("a", "recurrent", "kept") == (3, 3, 2 / 3, 3)  # the fourth has no answer in either run
    assert at("a", "recurrent", "Jaccard") == (2, 1, 1 / 2, 2)
    assert at("a", "network", "kept") == (4, 4, 1.0, 4)
    assert at("a", "word", "kept") == (3, 3, 2 / 3, 3)
    assert at("a", F, "Jaccard") == (2, 1, 1 / 2, 2)
    assert at("a", T, "Jaccard") == (1, 2, 1 / 2, 2)
    assert at("a", "every axis", "kept") == (4, 4, 3 / 4, 4)
    assert at("b", "word", "kept") == (4, 3, 2 / 4, 4)  # a word of one run alone is not kept
    assert at("all", "word", "kept") == (7, 6, 4 / 7, 7)
    assert at("all", N, "Jaccard") == (4, 2, 1 / 2, 4)
    assert at("b", N, "stable, kept") == (3, 1, 2 / 4, 4)  # stable in either run; two have the word in both
    assert at("a", F, "stable, kept")[:2] == (0, 0)
    for key in (("a", "used", "kept"), ("a", "use_not_shown", "Jaccard")):
        assert at(*key)[:2] == (0, 0)
        assert math.isnan(found[key].share)
    assert {row for row, _, _ in found} == {"all", "a", "b"}
    assert {of for _, of, _ in found} == {*AXES, *DECIDED, "word", "every axis"}
    for row in found.values():
        assert math.isnan(row.share) or row.low < row.share <= row.high or row.share in (0.0, 1.0)


def test_a_run_agrees_with_itself_and_in_either_order() -> None:
    assert all(row.share == 1 for row in rows(ONE, ONE).values() if row.n)
    there, back = rows(ONE, OTHER), rows(OTHER, ONE)
    assert {key: (row.share, row.n) for key, row in there.items() if row.n} == {
        key: (row.share, row.n) for key, row in back.items() if row.n
    }


def test_runs_of_other_dictionaries_are_refused() -> None:
    with pytest.raises(InputError, match="judge no dictionary that is the same"):
        rows(ONE, Run(ONE.answers, weight=1.0))


def test_a_single_site_stands_under_its_name_too() -> None:
    one = Run({"a": ONE.answers["a"]})
    assert {site for site, _, _ in rows(one, one)} == {"all", "a"}


REDRAWN: dict[str, Any] = {
    "seeds": [0, 11, 12],
    "draw_seed": 5,
    "controls": [{"kind": "gaussian_reinit", "seed": 100}, {"kind": "shuffled_tokens", "seed": 100}],
}
"""Everything but the judged dictionary."""


def test_everything_but_the_judged_dictionary_can_be_drawn_again(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    base = small_config(small_network, small_corpus, sites=[SITE], seeds=[0, 1, 2], draws=2)
    workers = [
        Worker(StudyConfig.model_validate({**base, **changes}), Store(tmp_path), Silent()) for changes in ({}, REDRAWN)
    ]
    plans = [Plan.of(at.config) for at in workers]
    subjects = [plan.real.role.subject(at) for plan, at in zip(plans, workers, strict=True)]
    trained = [at.of(plan.real.dictionaries) for plan, at in zip(plans, workers, strict=True)]
    judged = [of_study.dictionaries[SITE, 0].tensors() for of_study in trained]
    assert all(torch.equal(tensor, judged[1][name]) for name, tensor in judged[0].items())
    first, second = ({seed for _, seed in of_study.dictionaries} - {0} for of_study in trained)
    assert not first & second

    assert subjects[0].tokens.train_key == subjects[1].tokens.train_key
    assert subjects[0].tokens.heldout_key != subjects[1].tokens.heldout_key
    texts = [set(subject.tokens.heldout.names) for subject in subjects]
    sides = [set(subject.tokens.train.names) for subject in subjects]
    assert not (texts[0] | texts[1]) & (sides[0] | sides[1]), "no document changes its side"

    names = [[null.role.label for null in plan.nulls] for plan in plans]
    assert not set(names[0]) & set(names[1])
    drawn = [plan.nulls[0].role.subject(at) for plan, at in zip(plans, workers, strict=True)]
    weights = [next(iter(subject.network.module.parameters())) for subject in drawn]
    assert not torch.equal(*weights)
    keys = [
        {at.artifact(null.dictionaries).key for null in plan.nulls} for plan, at in zip(plans, workers, strict=True)
    ]
    assert len(keys[0] | keys[1]) == 2 * len(names[0])


@pytest.mark.slow
def test_two_runs_that_share_only_the_judged_dictionary_are_compared(
    finished: polyseme.StudyResult, tmp_path: Path
) -> None:
    config = {**finished.findings.config.model_dump(), **REDRAWN, "name": "redrawn"}
    again = polyseme.study(config, root=finished.run.path.parent)
    both = polyseme.compare(finished, again)
    assert not both.shares_tokens
    table = both.agreement
    word = next(row for row in table if (row.site, row.of) == ("all", "word"))
    one, other = finished.latents()["status"], again.latents()["status"]
    said = (one != U) | (other != U)
    assert (word.n, word.share) == (said.sum(), (one == other)[said].mean())
    assert word.n > 0
    one, other = (run.findings.effects[SITE].sample_row for run in (finished, again))
    assert not np.array_equal(one, other)
