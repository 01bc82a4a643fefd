"""Every control of the table turns a study into the same study on a null."""

import pytest
from pydantic import TypeAdapter

from polyseme.controls import CONTROLS, ControlConfig
from polyseme.controls.reinit import WeightControl
from polyseme.controls.transform import TokenControl
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
def test_a_control_is_told_apart_by_its_kind(control: type[WeightControl | TokenControl]) -> None:
    one = control()
    assert TypeAdapter(ControlConfig).validate_python(one.model_dump()) == one


@pytest.mark.parametrize("control", [c for c in CONTROLS if issubclass(c, WeightControl)], ids=lambda c: c.__name__)
def test_a_control_that_keeps_the_embeddings_says_so(control: type[WeightControl]) -> None:
    kept = control(keep_embeddings=True)
    assert "embeddings" in kept.preserves
    assert "except in the input embeddings" in kept.destroys
    assert "embeddings" not in control().preserves + control().destroys


def test_names_tell_controls_with_and_without_embeddings_apart() -> None:
    names = {control().name for control in CONTROLS}
    names |= {control(keep_embeddings=True).name for control in CONTROLS if issubclass(control, WeightControl)}
    assert len(names) == 8
