"""Two studies side by side: differences, pairing, verdicts, and matches that are found."""

import math
from pathlib import Path

import numpy as np
import pytest

import polyseme
from polyseme.core.errors import InputError
from polyseme.studies.comparing import _best
from tests.interpret.test_shown import Parsed
from tests.studies.small import JUDGED, small_config

SITE = "blocks.0.resid_post"


@pytest.fixture(scope="module")
def other(finished: polyseme.StudyResult, small_network: Path, small_corpus: Path) -> polyseme.StudyResult:
    """The same study with wider dictionaries and one control fewer, so that the tokens are shared."""
    changes = {**JUDGED, "name": "wider", "dictionary": {"architecture": "topk", "n_latents": 48, "k": 6}}
    config = small_config(small_network, small_corpus, **changes, controls=[{"kind": "gaussian_reinit"}])
    return polyseme.study(config, root=finished.run.path.parent)


@pytest.fixture(scope="module")
def elsewhere(finished: polyseme.StudyResult, small_network: Path, small_corpus: Path) -> polyseme.StudyResult:
    """The same study on other held-out tokens, at one of the sites."""
    tokens = {**JUDGED["tokens"], "heldout": 600}
    config = small_config(small_network, small_corpus, **{**JUDGED, "tokens": tokens}, name="fewer", sites=[SITE])
    return polyseme.study(config, root=finished.run.path.parent)


def test_every_difference_is_that_of_the_recorded_values(finished, other):
    table = polyseme.compare(finished, other).metrics
    assert len(table) > 50
    for row in table:
        scope = {key: value for key in ("study", "site", "seed") if (value := getattr(row, key)) is not None}
        alike = [
            [
                r.value
                for r in study.run.metrics
                if r.name == row.name
                and "gap" not in r.scope
                and r.scope.get("ablation") == row.ablation
                and scope.items() <= r.scope.items()
            ]
            for study in (finished, other)
        ]
        assert any(v == row.one or (math.isnan(v) and math.isnan(row.one)) for v in alike[0])
        assert any(v == row.other or (math.isnan(v) and math.isnan(row.other)) for v in alike[1])
        if math.isfinite(row.difference):
            assert row.difference == row.other - row.one
    fvu = next(row for row in table if row.name == "fvu" and row.study == "trained" and row.site == SITE)
    assert fvu.low <= fvu.difference <= fvu.high < 0
    assert (fvu.better, fvu.interval) == ("other", "paired")
    assert {row.study for row in table if row.study} == {"trained", "gaussian_reinit"}


def test_a_pairing_narrows_the_interval_and_is_made_on_shared_tokens_alone(finished, other, elsewhere):
    shared, apart = polyseme.compare(finished, other), polyseme.compare(finished, elsewhere)
    assert (shared.shares_tokens, apart.shares_tokens) == (True, False)
    assert set(apart.metrics["interval"]) == {"independent"}
    from polyseme.evaluation import gap_of_records

    records = [
        next(r for r in study.run.metrics if r.name == "fvu" and r.scope.get("site") == SITE)
        for study in (finished, other)
    ]
    unpaired = gap_of_records(records[1], records[0]).interval
    paired = next(row for row in shared.metrics if row.name == "fvu" and row.site == SITE and row.seed == 0)
    assert unpaired is not None
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_a_study_beside_itself_has_no_differences_and_every_latent_is_its_own_match(finished):
    same = polyseme.compare(finished, finished)
    assert not np.nan_to_num(same.metrics["difference"]).any()
    assert set(same.metrics["better"]) == {""}
    fires = finished.latents()["n_tokens"] > 0
    np.testing.assert_array_equal(same.latents["match"][fires], finished.latents()["latent"][fires])
    np.testing.assert_allclose(same.latents["correlation"][fires], 1, atol=1e-6)
    np.testing.assert_allclose(same.latents["cosine"][fires], 1, atol=1e-6)
    assert same.latents["mutual"][fires].all()


def test_matches_are_those_of_numpys_correlations(finished, other):
    table = polyseme.compare(finished, other).latents
    own, others = (study.firings(SITE).matrix.toarray().astype(np.float64) for study in (finished, other))
    found = np.corrcoef(own.T, others.T)[: own.shape[1], own.shape[1] :]
    at = table["site"] == SITE
    np.testing.assert_allclose(table["correlation"][at], found.max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(table["match"][at], found.argmax(axis=1))
    statuses = other.latents(SITE)["status"][table["match"][at]]
    assert table["match_status"][at].tolist() == statuses.tolist()


def test_without_shared_tokens_the_match_is_by_what_latents_write(finished, elsewhere):
    table = polyseme.compare(finished, elsewhere).latents
    assert set(table["site"]) == {SITE}
    assert np.isnan(table["correlation"]).all()
    write = [study.dictionary(SITE).write_directions().numpy() for study in (finished, elsewhere)]
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in write]
    np.testing.assert_allclose(table["cosine"], (unit[0] @ unit[1].T).max(axis=1), atol=1e-5)


def test_verdicts_stand_side_by_side(finished, elsewhere):
    table = polyseme.compare(finished, elsewhere).verdicts
    assert [(row.site, row.study) for row in table] == [
        (SITE, "one"),
        (SITE, "other"),
        ("blocks.1.resid_post", "one"),
    ]
    counts = elsewhere.latents(SITE).counts
    assert {status: table[status][1] for status in counts} == counts


def test_a_comparison_shows_itself(finished, other):
    both = polyseme.compare(finished, other)
    for text in (repr(both), Parsed(both._repr_html_()).text):
        assert finished.run.id in text
        assert other.run.id in text
        assert "the same held-out tokens" in text
    assert len(both.to_pandas()) == len(both.metrics)


def test_the_best_of_chunks_is_the_best_of_all():
    rng = np.random.default_rng(0)
    similar = rng.normal(size=(23, 17))
    similar[3] = -1.0
    match, value, mutual = _best(iter(np.array_split(similar, 5)), n_other=17)
    assert match[3] == -1
    assert np.isnan(value[3])
    rest = np.arange(23) != 3
    np.testing.assert_array_equal(match[rest], similar[rest].argmax(axis=1))
    for i in np.flatnonzero(mutual):
        assert similar[:, match[i]].argmax() == i
    assert mutual.sum() == sum(similar[:, similar[i].argmax()].argmax() == i for i in np.flatnonzero(rest))


def test_studies_without_a_site_in_common_have_no_matches(finished, elsewhere, monkeypatch):
    both = polyseme.compare(finished, elsewhere)
    monkeypatch.setattr(type(finished), "sites", property(lambda self: (SITE,) if self is elsewhere else ("x",)))
    with pytest.raises(InputError, match="no site in common"):
        _ = both.latents
