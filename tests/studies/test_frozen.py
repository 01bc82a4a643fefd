"""Nulls of the dictionary as controls of a whole study, from the study file alone."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polyseme
from polyseme.core.errors import InputError
from polyseme.dictionaries import dictionary_metadata
from polyseme.studies.plan import Plan
from polyseme.studies.run import as_config
from tests.studies.small import JUDGED, shown, small_config

SITES = ("blocks.0.resid_post", "blocks.1.resid_post")
CONTROLS = [{"kind": "gaussian_reinit"}, {"kind": "frozen_decoder"}, {"kind": "frozen_directions", "seed": 1}]
FROZEN = ("frozen_decoder", "frozen_directions_seed1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frozen")


@pytest.fixture(scope="module")
def result(small_network: Path, small_corpus: Path, root: Path) -> polyseme.StudyResult:
    return polyseme.study(small_config(small_network, small_corpus, controls=CONTROLS, **JUDGED), root=root)


@pytest.fixture(scope="module")
def without(result: polyseme.StudyResult, small_network: Path, small_corpus: Path, root: Path) -> polyseme.StudyResult:
    """The same study with the control on the weights alone."""
    return polyseme.study(small_config(small_network, small_corpus, controls=CONTROLS[:1], **JUDGED), root=root)


def test_the_controls_dictionaries_keep_the_directions_that_were_drawn(result: polyseme.StudyResult) -> None:
    real, frozen = (result.findings.controls[name] for name in ("gaussian_reinit", "frozen_decoder"))
    [null] = [control for control in result.findings.config.controls if control.name == "frozen_decoder"]
    for site in SITES:
        name = f"{site}-seed0"
        given = result.findings.config.dictionary.build(result.dictionary(site).d_in, seed=0)
        drawn = null.dictionary(given, name).write_directions()
        kept = frozen.trained.dictionaries[site, 0]
        torch.testing.assert_close(kept.write_directions(), drawn)
        cosines = torch.cosine_similarity(kept.read_directions(), null.dictionary(given, name).read_directions(), dim=1)
        assert float(cosines.max()) < 0.999  # the encoder was trained
        assert dictionary_metadata(frozen.trained.artifact.path / name)["frozen"] == ["W_dec"]
        assert "frozen" not in dictionary_metadata(real.trained.artifact.path / name)


def test_network_text_and_statistics_are_the_studys_own(result: polyseme.StudyResult) -> None:
    found, keys = result.findings, result.run.record.parents
    assert found.controls["frozen_decoder"].subject.network is found.real.subject.network
    assert found.controls["frozen_decoder"].subject.tokens is found.real.subject.tokens
    assert keys["statistics (frozen_decoder)"] == keys["statistics (trained)"] != keys["statistics (gaussian_reinit)"]
    for stage in ("dictionaries", "readings", "splice"):
        of_stage = {keys[f"{stage} ({label})"] for label in ("trained", "gaussian_reinit", *FROZEN)}
        assert len(of_stage) == 4


def test_no_verdict_rests_on_them(result: polyseme.StudyResult, without: polyseme.StudyResult) -> None:
    table, same = result.latents(), without.latents()
    assert table.columns.keys() == same.columns.keys()
    for name, column in table.columns.items():
        np.testing.assert_array_equal(column, same[name])
    for site in SITES:
        stage = f"recurrence ({site})"
        assert result.run.record.parents[stage] == without.run.record.parents[stage]
    assert sum(count for status, count in table.counts.items() if status != "undecided") > 0
    for line in (result.run.artifacts / "verdicts.jsonl").read_text().splitlines():
        nulls = {evidence["null"] for axis in json.loads(line)["axes"] for evidence in axis["evidence"]}
        assert "gaussian_reinit" in nulls
        assert not any("frozen" in null for null in nulls)


def test_their_scores_stand_beside_the_studys(result: polyseme.StudyResult) -> None:
    for comparison in shown(result).comparisons:
        values = {value.control: value for value in comparison.controls}
        assert set(values) == {"gaussian_reinit", *FROZEN}
        for value in values.values():
            if not math.isnan(value.gap):
                assert value.gap == pytest.approx(comparison.trained.value - value.record.value)
    fvu = {c.site: c for c in shown(result).comparisons if c.trained.name == "fvu"}
    assert set(fvu) == set(SITES)
    for comparison in fvu.values():
        decoder, directions = (v.record.value for v in comparison.controls if v.control in FROZEN)
        assert comparison.trained.value < decoder < directions


def test_what_is_said_of_them_is_about_directions_and_not_about_networks(
    result: polyseme.StudyResult, without: polyseme.StudyResult
) -> None:
    lines, plain = shown(result).headlines, shown(without).headlines
    mine = [line for line in lines if "dictionaries of frozen" in line]
    assert len(mine) == 2
    values = {c.site: c for c in shown(result).comparisons if c.trained.name == "fvu"}[SITES[0]]
    for line, name in zip(mine, FROZEN, strict=True):
        [value] = [v for v in values.controls if v.control == name]
        assert line == (
            f"On the same network, dictionaries of {name} reconstruct worse than freely trained ones at 2 of 2 sites "
            f"(FVU {value.record.value:.3f} and {values.trained.value:.3f} at {SITES[0]})."
        )
    others = [line for line in lines if line not in mine]
    assert not any("frozen" in line for line in others)
    with_them = "than the dictionary of any control of the weights or tokens does"
    assert [line.replace(with_them, "than any control's dictionary does") for line in others] == list(plain)
    text = result.report.read_text()
    assert "A control of the dictionary has the real network and corpus" in text
    assert "A control of the dictionary has the real network and corpus" not in without.report.read_text()


def test_they_alone_are_no_control_that_a_verdict_could_rest_on(
    small_network: Path, small_corpus: Path, root: Path
) -> None:
    config = small_config(small_network, small_corpus, controls=CONTROLS[1:2], **JUDGED)
    plan = Plan.of(as_config(config))
    assert plan.draws == {}
    assert plan.config.missing == {"network": "the study has no control of the weights (`controls`)"}
    table = polyseme.study(config, root=root).latents()
    assert set(table["network"]) == {"unknown"}
    assert {status for status, n in table.counts.items() if n} <= {"not_recurrent", "undecided"}
    assert set(table["recurrent"]) > {"unknown"}


def test_a_study_of_a_frozen_dictionary_itself(
    result: polyseme.StudyResult, small_network: Path, small_corpus: Path, root: Path
) -> None:
    """How many latents of random decoders the verdicts would support: the control's dictionaries are frozen, too."""
    config = small_config(
        small_network, small_corpus, null={"kind": "frozen_decoder"}, controls=CONTROLS[:1], sites=SITES[:1], **JUDGED
    )
    found = polyseme.study(config, root=root)
    torch.testing.assert_close(
        found.dictionary(SITES[0]).write_directions(),
        result.findings.controls["frozen_decoder"].trained.dictionaries[SITES[0], 0].write_directions(),
    )
    folders = [m.trained.artifact.path for m in (found.findings.real, *found.findings.controls.values())]
    assert [dictionary_metadata(folder / f"{SITES[0]}-seed0")["frozen"] for folder in folders] == [["W_dec"]] * 2
    assert ("null", "frozen_decoder (instead of the real dictionary)") in shown(found).summary.settings


@pytest.mark.parametrize("changes", [{"controls": CONTROLS[1:2]}, {"null": CONTROLS[1], "controls": []}])
def test_one_direction_of_a_tied_dictionary_is_refused_before_anything_is_trained(
    changes: dict[str, Any], small_network: Path, small_corpus: Path, tmp_path: Path
) -> None:
    dictionary = {"architecture": "relu", "n_latents": 32, "tie_weights": True}
    config = small_config(small_network, small_corpus, dictionary=dictionary, **changes)
    with pytest.raises(InputError, match="its write directions cannot be frozen alone"):
        polyseme.study(config, root=tmp_path)
    assert not list((tmp_path / "objects").glob("*"))
