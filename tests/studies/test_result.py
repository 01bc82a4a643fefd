"""What a finished study hands out: dictionaries, firings, metrics and latents, each with errors that help."""

import re

import numpy as np
import pytest
import torch

import polyseme
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.studies.result import StudyResult
from tests.interpret.test_shown import Parsed

SITE = "blocks.0.resid_post"


def test_the_firings_are_what_the_dictionary_makes_of_the_heldout_tokens(finished: polyseme.StudyResult):
    windows = finished.heldout
    vectors = finished.network.read(torch.from_numpy(windows.tokens).long(), [SITE])
    x = next(iter(vectors.values()))
    for seed in (None, 1):
        firings = finished.firings(SITE, seed)
        at = x[firings.window, firings.position].float()
        dense = finished.dictionary(SITE, seed).encode(at).dense()
        np.testing.assert_allclose(firings.matrix.toarray(), dense.numpy(), atol=1e-5)
    assert not np.array_equal(finished.firings(SITE).matrix.data, finished.firings(SITE, 1).matrix.data)


def test_the_metrics_are_the_runs_in_one_table(finished: polyseme.StudyResult):
    table, records = finished.metrics, finished.run.metrics
    assert len(table) == len(records) > 100
    assert table["name"].tolist() == [r.name for r in records]
    np.testing.assert_array_equal(table["value"], [r.value for r in records])
    one = table.where("fvu", site=SITE, seed=1, study="trained")
    assert len(one) == 1
    record = next(r for r in records if r.name == "fvu" and r.scope["site"] == SITE and r.scope["seed"] == 1)
    assert record.interval is not None
    assert (one["value"][0], one["low"][0], one["high"][0]) == (
        record.value,
        record.interval.low,
        record.interval.high,
    )
    assert table.to_pandas().shape == (len(records), len(table.columns))
    with pytest.raises(InputError, match=r"no metric has the name 'fvuu'.*fvu"):
        table.where("fvuu")
    with pytest.raises(InputError, match=r"no column 'sight'.*site"):
        table.where(sight=SITE)


@pytest.mark.parametrize("ask", [StudyResult.dictionary, StudyResult.firings])
def test_a_site_or_a_seed_that_was_not_studied_is_said_not_to_be(finished: polyseme.StudyResult, ask):
    with pytest.raises(InputError, match=r"no site 'blocks\.0\.resid_pst'\. Fix: nearest: blocks\.0\.resid_post"):
        ask(finished, "blocks.0.resid_pst")
    with pytest.raises(InputError, match=r"no seed 9\. Fix: one of 0, 1"):
        ask(finished, SITE, 9)


def test_a_latent_that_the_dictionary_lacks_is_said_not_to_be(finished: polyseme.StudyResult):
    for index in (-1, 32):
        with pytest.raises(InputError, match="0 to 31"):
            finished.latent(SITE, index)
    with pytest.raises(InputError, match=r"nearest: blocks\.0\.resid_post"):
        finished.latent("blocks.0.resid", 0)


def test_a_study_shows_itself(finished: polyseme.StudyResult):
    lines = repr(finished).splitlines()
    assert re.match(r"study small-[0-9a-f]{8}: 64 latents at 2 sites of /", lines[0])
    fvu = finished.metrics.where("fvu", site=SITE, seed=0, study="trained")["value"][0]
    assert lines[2].split()[:2] == [SITE, f"{fvu:.3g}"]
    counts = finished.latents(SITE).counts
    assert [int(n) for n in lines[2].split()[-len(counts) :]] == list(counts.values())
    shown = Parsed(finished._repr_html_()).text
    assert SITE in shown
    assert str(finished.report) in shown


def test_metrics_that_were_changed_are_not_shown(finished: polyseme.StudyResult):
    path = finished.run.path / "metrics.jsonl"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b'"fvu"', b'"fvv"', 1))
        again = StudyResult(finished.run, finished.findings)
        with pytest.raises(DamagedArtifact, match="changed after the run wrote it"):
            _ = again.metrics
    finally:
        path.write_bytes(whole)
