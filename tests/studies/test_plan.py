"""A plan is data: what it holds follows from the config alone, and each stage comes after those that it needs."""

from pathlib import Path
from typing import Any

import pytest

from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.store import Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.launchers.local import units
from polyseme.studies.plan import Plan, planned
from polyseme.studies.stage import Worker
from polyseme.studies.stages.recurrence import RecurrenceStage
from tests.studies.small import small_config

NOWHERE = Path("nowhere")


def plan(**changes: Any) -> Plan:
    return Plan.of(StudyConfig.model_validate(small_config(NOWHERE, NOWHERE, **changes)))


def names(stages: tuple[Any, ...]) -> list[str]:
    return [stage.shown for stage in stages]


def test_a_plan_is_made_without_anything_that_it_names() -> None:
    shown = names(plan().stages)
    assert shown[:4] == ["tokens (train)", "tokens (heldout)", "statistics (trained)", "dictionaries (trained)"]
    assert len(set(shown)) == len(shown)
    assert {"causal (trained, blocks.0.resid_post)", "recurrence (blocks.1.resid_post)", "stability (trained)"} <= {
        *shown
    }
    assert "readings (shuffled_tokens, on the study's own held-out tokens)" in shown
    assert "readings (gaussian_reinit, on the study's own held-out tokens)" not in shown


def test_each_stage_comes_after_those_that_it_needs() -> None:
    stages = plan(dictionary={"architecture": "relu", "n_latents": 32}).stages
    place = {id(stage): i for i, stage in enumerate(stages)}
    for stage in stages:
        assert all(place[id(needed)] < place[id(stage)] for needed in stage.needs()), stage.shown


def test_a_control_is_matched_to_the_study_where_sparsity_has_a_coefficient() -> None:
    def of_control(architecture: str) -> list[str]:
        found = plan(dictionary={"architecture": architecture, "n_latents": 32})
        return names(found.controls["gaussian_reinit"].dictionaries.needs())

    assert "readings (trained)" in of_control("relu")
    assert "readings (trained)" not in of_control("topk")


def test_nothing_is_compared_without_a_second_seed() -> None:
    alone = names(plan(seeds=[0], draws=3).stages)
    assert not [n for n in alone if n.startswith(("recurrence", "stability", "matching")) or "seed" in n]
    assert [n for n in names(plan(controls=[]).stages) if n.startswith("recurrence")]


def test_a_further_draw_goes_through_what_dictionaries_are_compared_by_and_no_more() -> None:
    once, thrice = names(plan(draws=1).stages), names(plan(draws=3).stages)
    # No answer rests on a control of the text: it has two draws at any number.
    new = {
        f"{stage} (gaussian_reinit_seed{i})"
        for stage in ("statistics", "dictionaries", "readings", "matching")
        for i in (1, 2)
    }
    assert "dictionaries (shuffled_tokens_seed1)" in once
    assert set(thrice) - set(once) == new
    assert set(once) <= set(thrice)


def test_what_compares_a_site_needs_every_partner_and_every_draw_of_every_null() -> None:
    found = plan(seeds=[0, 1, 2], draws=2, controls=[{"kind": "gaussian_reinit"}, {"kind": "frozen_decoder"}])
    for stage in found.kind(RecurrenceStage):
        assert {one.shown for one in stage.needs() if one.name == "matching"} == {
            "matching (trained)", "matching (gaussian_reinit)", "matching (gaussian_reinit_seed1)",
        }  # fmt: skip
    assert [null.role.label for null in found.nulls] == ["gaussian_reinit", "frozen_decoder", "gaussian_reinit_seed1"]
    assert not [n for n in names(found.stages) if n.startswith("matching (frozen")]


def test_latents_are_compared_with_null_texts_whose_dictionaries_start_from_other_weights() -> None:
    controls = [{"kind": "gaussian_reinit"}, *({"kind": "shuffled_tokens", "seed": seed} for seed in (3, 0))]
    for stage in plan(controls=controls).kind(RecurrenceStage):
        (drawn,) = stage.draws["shuffled_tokens"]
        assert drawn[0].shown == "matching (shuffled_tokens_seed3)"


def test_what_no_null_is_needed_for_is_a_unit_beside_each_draw() -> None:
    found = plan(draws=2)
    first, *others = units(found)
    assert not [n for n in names(first) if "reinit" in n or "shuffled" in n or n.startswith("recurrence")]
    assert [names(one)[0] for one in others] == [f"statistics ({null.role.label})" for null in found.nulls]


def test_a_plan_is_cut_after_a_stage() -> None:
    whole = plan()
    cut = names(whole.until("splice (trained)"))
    assert cut == [
        "tokens (train)", "tokens (heldout)", "statistics (trained)", "dictionaries (trained)", "splice (trained)",
    ]  # fmt: skip
    assert {"splice (gaussian_reinit)", "splice (shuffled_tokens)"} < set(names(whole.until("splice")))
    with pytest.raises(InputError, match=r"no stage 'slice'.*nearest: splice"):
        whole.until("slice")


def test_ids_name_stages_of_one_config(tmp_path: Path) -> None:
    one, other = plan(), plan(seeds=[0, 5])
    ids = [one.id(stage) for stage in one.stages]
    assert len(set(ids)) == len(ids)
    one.save(Store(tmp_path), network="0123")
    (kept,) = planned(Store(tmp_path), [ids[3], ids[1]])
    assert (kept.plan.config, kept.network) == (one.config, "0123")
    assert names(tuple(kept.stages)) == [one.stages[3].shown, one.stages[1].shown]
    with pytest.raises(InputError, match="no plan here"):
        planned(Store(tmp_path), [ids[3], other.id(other.stages[3])])
    assert not set(ids) & {other.id(stage) for stage in other.stages}
    assert [plan().id(stage) for stage in plan().stages] == ids


@pytest.mark.slow
def test_a_stage_alone_makes_what_it_needs_and_a_worker_elsewhere_finds_it(
    small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    config = StudyConfig.model_validate(small_config(small_network, small_corpus, controls=[]))
    one, other = (Worker(config, Store(tmp_path), Silent()) for _ in range(2))
    one.of(Plan.of(config).real.splice)
    made = [record.stage for record in one.records]
    assert made == names(Plan.of(config).until("splice"))
    assert not any(record.reused for record in one.records)
    other.of(Plan.of(config).real.splice)
    assert [record.stage for record in other.records] == made
    assert all(record.reused for record in other.records)


@pytest.mark.slow
def test_what_was_let_go_is_read_again_and_is_the_same(small_network: Path, small_corpus: Path, tmp_path: Path) -> None:
    config = StudyConfig.model_validate(small_config(small_network, small_corpus, controls=[]))
    worker, stages = Worker(config, Store(tmp_path), Silent()), Plan.of(config).real
    before = worker.of(stages.readings)
    records = list(worker.records)
    worker.let_go(*stages.stages)
    after = worker.of(stages.readings)
    assert after is not before
    for key, firings in before.firings.items():
        assert (firings.matrix != after.firings[key].matrix).nnz == 0
    assert worker.records == records
    assert worker.artifact(stages.readings) is before.artifact
