"""Levels of evidence: what each sets, what takes precedence, and which draws of its controls a study has."""

from itertools import pairwise
from typing import Any

import pytest

from polyseme.causal import CausalConfig
from polyseme.core.config import MAX_SEED
from polyseme.core.errors import InputError
from polyseme.core.validation import validate_config
from polyseme.studies.config import StudyConfig
from polyseme.studies.levels import DEFAULT, LEVELS, at_level
from polyseme.studies.run import as_config

EVERY: dict[str, Any] = {"seeds": (0, 4, 9), "draws": 3, "causal": {"n_samples": 7, "n_directions": 6}}


def made(**fields: Any) -> StudyConfig:
    return validate_config(fields, StudyConfig, where="the study")


def set_by_level(config: StudyConfig) -> tuple[int, int, int, int]:
    return len(config.seeds), config.draws, config.causal.n_samples, config.causal.n_directions


def test_each_level_rests_on_more_than_the_one_before() -> None:
    assert list(LEVELS) == ["quick", "standard", "paper"]
    for one, more in pairwise(LEVELS):
        pairs = zip(set_by_level(made(evidence=one)), set_by_level(made(evidence=more)), strict=True)
        assert all(few < many for few, many in pairs)


@pytest.mark.parametrize("level", list(LEVELS))
def test_every_level_can_judge(level: str) -> None:
    config = made(evidence=level, controls=[{"kind": "gaussian_reinit"}])
    row = LEVELS[level]
    assert set_by_level(config) == (1 + row.partners, row.draws, row.n_samples, row.n_directions)
    assert config.missing == {}


def test_without_a_level_a_study_has_the_default_one_and_so_have_the_fields() -> None:
    config, fields = made(), StudyConfig.model_fields
    assert (config, config.evidence) == (made(evidence=DEFAULT), DEFAULT)
    assert (fields["seeds"].default, fields["draws"].default) == (config.seeds, config.draws)
    assert config.causal == CausalConfig()


@pytest.mark.parametrize("level", list(LEVELS))
@pytest.mark.parametrize("name", list(EVERY))
def test_what_a_study_says_itself_takes_precedence(level: str, name: str) -> None:
    default, config = made(evidence=level), made(evidence=level, **{name: EVERY[name]})
    for field in EVERY:
        found = getattr(config, field)
        found = found.model_dump(include=EVERY["causal"]) if field == "causal" else found
        kept = getattr(default, field)
        kept = kept.model_dump(include=EVERY["causal"]) if field == "causal" else kept
        assert found == (EVERY[field] if field == name else kept), field


def test_a_part_of_a_table_takes_precedence_and_leaves_the_rest_to_the_level() -> None:
    for given in ({"n_samples": 5}, CausalConfig(n_samples=5)):
        causal = made(evidence="paper", causal=given).causal
        assert (causal.n_samples, causal.n_directions) == (5, LEVELS["paper"].n_directions)
    # What is given is given, also where it is what another level sets.
    same = CausalConfig(n_samples=LEVELS["standard"].n_samples)
    assert made(evidence="paper", causal=same).causal.n_samples == LEVELS["standard"].n_samples


def test_a_saved_config_says_everything_itself() -> None:
    config = made(evidence="quick", controls=[{"kind": "spectrum_reinit"}])
    saved = config.model_dump(mode="json")
    assert (saved["draws"], saved["causal"]["n_directions"]) == (2, LEVELS["quick"].n_directions)
    assert StudyConfig.model_validate(saved) == config
    moved = StudyConfig.model_validate({**saved, "evidence": "paper"})
    assert set_by_level(moved) == set_by_level(config)
    assert as_config(config).fingerprint() == config.fingerprint()


def test_a_level_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    for wrong in ("slow", 3, None, ["quick"]):
        with pytest.raises(InputError, match="evidence: must be 'quick', 'standard' or 'paper'"):
            made(evidence=wrong)


def test_a_study_at_another_level_keeps_its_judged_seed_and_the_rest() -> None:
    config = made(seeds=[3, 8], draws=1, causal={"horizon": 2}, shown=7)
    found = StudyConfig.model_validate(at_level(config.model_dump(), "paper"))
    assert found.seeds == (3, 0, 1, 2, 4, 5, 6, 7, 8, 9)
    assert set_by_level(found) == set_by_level(made(evidence="paper"))
    assert (found.shown, found.causal.horizon) == (7, 2)


def drawn(config: StudyConfig) -> dict[str, list[str]]:
    return {kind: [null.name for null in nulls] for kind, nulls in config.drawn.items()}


def test_a_control_is_drawn_several_times_unless_it_is_listed_with_several_seeds() -> None:
    controls = [
        {"kind": "gaussian_reinit"},
        {"kind": "spectrum_reinit", "seed": 5},
        {"kind": "spectrum_reinit", "seed": 2},
        {"kind": "shuffled_tokens", "seed": 40},
        {"kind": "gaussian_reinit", "keep_embeddings": True, "seed": 7},
        {"kind": "frozen_decoder"},
    ]
    config = made(draws=3, controls=controls)
    assert drawn(config) == {
        "gaussian_reinit": ["gaussian_reinit", "gaussian_reinit_seed1", "gaussian_reinit_seed2"],
        "spectrum_reinit": ["spectrum_reinit_seed5", "spectrum_reinit_seed2"],
        "shuffled_tokens": ["shuffled_tokens_seed40", "shuffled_tokens_seed41"],  # no answer rests on it
        "gaussian_reinit_keep_embeddings": [f"gaussian_reinit_keep_embeddings_seed{i}" for i in (7, 8, 9)],
    }
    assert config.missing == {}
    last = made(draws=2, controls=[{"kind": "gaussian_reinit", "seed": MAX_SEED}])
    assert [null.seed for null in last.drawn["gaussian_reinit"]] == [MAX_SEED, 0]


WEIGHTS, TEXT = [{"kind": "gaussian_reinit"}], [{"kind": "shuffled_tokens"}]


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"controls": WEIGHTS}, {}),
        ({"controls": TEXT}, {"network": "no control of the weights"}),
        ({}, {"network": "no control of the weights"}),
        ({"controls": WEIGHTS, "draws": 1}, {"network": "one draw"}),
        ({"controls": [{"kind": "gaussian_reinit", "seed": i} for i in range(2)], "draws": 1}, {}),
        ({"controls": [*WEIGHTS, *({"kind": "permuted_weights", "seed": i} for i in (0, 3))], "draws": 1}, {}),
        (
            {"controls": WEIGHTS, "seeds": [5]},
            dict.fromkeys(("recurrent", "network", "beyond_tokens"), "no dictionary of another seed"),
        ),
        (
            {"controls": WEIGHTS, "seeds": [0, 1]},
            dict.fromkeys(("recurrent", "network", "beyond_tokens"), "one dictionary of another seed"),
        ),
    ],
)
def test_a_study_says_which_axes_it_can_say_nothing_of(fields: dict[str, Any], missing: dict[str, str]) -> None:
    found = made(**fields).missing
    assert found.keys() == missing.keys()
    assert all(text in found[axis] for axis, text in missing.items())


@pytest.mark.parametrize(
    ("old", "instead"),
    [
        ({"verdicts": {"margin_fdr": 0.2}}, "verdicts.alpha"),
        ({"causal": {"null": "covariance"}}, "causal.nulls"),
        ({"causal": {"statistic": "ce"}}, "expected effect"),
        ({"causal": {"n_flips": 100}}, "Student's t"),
    ],
)
def test_a_key_of_before_is_refused_with_what_took_its_place(old: dict[str, Any], instead: str) -> None:
    (table, fields), *_ = old.items()
    (key,) = fields
    with pytest.raises(InputError) as caught:
        made(**old)
    assert f"there is no key '{table}.{key}' any more" in caught.value.what
    assert instead in caught.value.what
