"""Every control of the table turns a study into the same study on a null."""

import pytest
from pydantic import TypeAdapter

from polyseme.controls import CONTROLS, ControlConfig
from polyseme.controls.reinit import WeightControl
from polyseme.controls.study import as_config
from polyseme.controls.target import kind_of
from polyseme.controls.transform import TokenControl
from polyseme.core.errors import InputError
from polyseme.studies.config import StudyConfig


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: c.__name__)
def test_a_control_changes_its_target_alone_and_says_what_it_keeps(control: type[WeightControl | TokenControl]) -> None:
    study = StudyConfig()
    null = control(seed=3).apply(study)
    changed = {name for name in StudyConfig.model_fields if getattr(null, name) != getattr(study, name)}
    assert changed == {"weights": {"network"}, "data": {"tokens"}}[control.targets]
    assert control().preserves
    assert control().destroys
    assert control(seed=3).apply(study) == null
    assert control(seed=4).apply(study) != null


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: c.__name__)
def test_a_control_is_known_by_its_kind(control: type[WeightControl | TokenControl]) -> None:
    one = control()
    assert TypeAdapter(ControlConfig).validate_python(one.model_dump()) == one


@pytest.mark.parametrize("control", [c for c in CONTROLS if issubclass(c, WeightControl)], ids=lambda c: c.__name__)
def test_a_control_that_keeps_the_embeddings_says_so(control: type[WeightControl]) -> None:
    kept = control(keep_embeddings=True)
    assert "embeddings" in kept.preserves
    assert "except in the input embeddings" in kept.destroys
    assert "embeddings" not in control().preserves + control().destroys


def test_controls_that_differ_have_names_that_differ() -> None:
    names = {control(seed=seed).name for control in CONTROLS for seed in (0, 1)}
    names |= {
        control(keep_embeddings=True, seed=seed).name
        for control in CONTROLS
        if issubclass(control, WeightControl)
        for seed in (0, 1)
    }
    assert len(names) == 16
    assert {control().name for control in CONTROLS} == {kind_of(control()) for control in CONTROLS}


def test_the_same_control_twice_is_refused_and_another_seed_is_another_control() -> None:
    twice = {"kind": "gaussian_reinit", "seed": 3}
    with pytest.raises(InputError, match=r"gaussian_reinit_seed3 more than once: remove one or give another `seed`"):
        as_config({"name": "x", "controls": [twice, {"kind": "shuffled_tokens"}, twice]})
    config = as_config({"name": "x", "controls": [twice, {**twice, "seed": 4}, {**twice, "seed": 0}]})
    assert [control.name for control in config.controls] == [
        "gaussian_reinit_seed3",
        "gaussian_reinit_seed4",
        "gaussian_reinit",
    ]
