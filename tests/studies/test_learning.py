"""A study's learning curves: what they are made of, what computes them again, and what the report says of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polyseme
from polyseme.activations import collect_firings
from polyseme.core.progress import Silent
from polyseme.evaluation.learning import matches_of
from polyseme.evaluation.matches import Sides
from polyseme.report.html.render import render
from polyseme.store import Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from polyseme.studies.stage import Worker
from polyseme.studies.stages.learning import LearningStage
from polyseme.studies.stages.matching import matched_on
from polyseme.training import fit
from tests.studies.small import JUDGED, shown, small_config

SITE = "blocks.0.resid_post"


def config(network: Path, texts: Path, /, **changes: Any) -> StudyConfig:
    base = {**JUDGED, "controls": [], "sites": [SITE], "causal": {"n_samples": 2, "n_directions": 2}}
    return StudyConfig.model_validate(small_config(network, texts, **{**base, **changes}))


def curves(study: StudyConfig, root: Path) -> tuple[Worker, Any]:
    """The worker of a study that ran its learning stage, and what that gave."""
    at = Worker(study, Store(root), Silent())
    [stage] = Plan.of(study).kind(LearningStage)
    return at, at.of(stage)


def artifacts(root: Path, stage: str) -> list[Path]:
    return sorted(root.glob(f"objects/{stage}-*"))


def test_moments_lie_on_the_plateau_and_copies_of_three_seeds_are_kept(finished: polyseme.StudyResult) -> None:
    trained = finished.findings.real.trained
    assert trained.copied_at == (6 * 256, 13 * 256, 26 * 256)  # of 32 steps the last 6 decay
    last = {seed: trained.copy(26 * 256, SITE, seed) for seed in finished.seeds}
    for seed, copy in last.items():
        assert copy.n_latents == 32
        assert not np.array_equal(copy.write_directions(), finished.dictionary(SITE, seed).write_directions())


def test_curves_are_of_the_copies_matched_as_latents_are(finished: polyseme.StudyResult) -> None:
    findings = finished.findings
    trained, subject = findings.real.trained, findings.real.subject
    for i, n_tokens in enumerate(trained.copied_at):
        copies = {str(s): (subject.bindings[SITE], trained.copy(n_tokens, SITE, s)) for s in finished.seeds}
        learn, heldout = (
            collect_firings(subject.network, text, copies) for text in (matched_on(subject), subject.tokens.heldout)
        )
        found = matches_of([Sides(learn[name], heldout[name]) for name in copies])
        assert findings.learning[SITE].match[i] == pytest.approx(found.value, nan_ok=True)


def test_metrics_and_report_say_the_same(finished: polyseme.StudyResult) -> None:
    written = [m for m in finished.run.metrics if m.name.startswith("recurring")]
    assert len(written) == 2 * 8
    for dictionary in shown(finished).dictionaries:
        mine = [m for m in written if m.scope["site"] == dictionary.name]
        assert [(m.name, m.value) for m in dictionary.learning] == [(m.name, m.value) for m in mine]


def test_the_plan_has_curves_of_three_seeds_and_none_of_two(small_network: Path, small_corpus: Path) -> None:
    def names(seeds: list[int]) -> set[str]:
        return {stage.shown for stage in Plan.of(config(small_network, small_corpus, seeds=seeds)).alone}

    assert "learning (trained)" in names([0, 1, 2])
    assert not any(name.startswith("learning") for name in names([0, 1]))


def test_further_seeds_are_not_copied(small_network: Path, small_corpus: Path, tmp_path: Path) -> None:
    at, found = curves(config(small_network, small_corpus, seeds=[3, 1, 0, 2]), tmp_path)
    [folder] = artifacts(tmp_path, "dictionaries")
    assert {path.name for path in (folder / "copies").glob("*/*")} == {f"{SITE}-seed{seed}" for seed in (3, 1, 0)}
    assert found[SITE].match.shape == (3, 6, 32)
    assert at.config.copied == (3, 1, 0)


def test_what_a_verdict_asks_for_makes_no_curve_again(small_network: Path, small_corpus: Path, tmp_path: Path) -> None:
    study = config(small_network, small_corpus)
    _, low = curves(study, tmp_path)
    asked = {**JUDGED["verdicts"], "recurrence": 0.9}
    at, high = curves(config(small_network, small_corpus, verdicts=asked), tmp_path)
    assert {record.stage for record in at.records if not record.reused} == set()
    assert (low[SITE].bar, high[SITE].bar) == (0.2, 0.9)
    more = {"n_resamples": 100, "lookup_tokens": 2000, "n_continuations": 0, "match_tokens": 1500}
    at, _ = curves(config(small_network, small_corpus, evaluation=more), tmp_path)
    assert {record.stage for record in at.records if not record.reused} == {"learning (trained)"}


def test_dictionaries_made_without_copies_are_kept_and_say_nothing(
    small_network: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a polyseme that kept none, or of a training whose rate is never at its plateau."""
    study = config(small_network, small_corpus)
    with monkeypatch.context() as old:
        old.setattr("polyseme.studies.stages.dictionaries.fit", lambda *a, at_doubling, **k: fit(*a, **k))
        at = Worker(study, Store(tmp_path), Silent())
        before = at.artifact(Plan.of(study).real.dictionaries)
    assert not (before.path / "copies").exists()
    result = polyseme.study(study, root=tmp_path)
    assert [s.reused for s in result.stages if s.stage == "dictionaries (trained)"] == [True]
    assert list(result.findings.learning[SITE].records({})) == []
    report = shown(result)
    assert "Not measured: it takes three seeds" in render(report)
    assert "doubling" not in " ".join(report.headlines)

    again = polyseme.study(study, root=tmp_path, resume=False)
    assert len(again.findings.learning[SITE].tokens) == 3


def test_a_study_stopped_between_two_moments_has_the_same_copies(
    small_network: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = config(small_network, small_corpus)
    _, whole = curves(study, tmp_path / "whole")
    seen: list[int] = []

    def stopping(*args: Any, at_doubling: Any, **more: Any) -> Any:
        def stop(n_tokens: int) -> None:
            at_doubling(n_tokens)
            seen.append(n_tokens)
            if len(seen) == 2:
                raise KeyboardInterrupt

        return fit(*args, at_doubling=stop, **more)

    monkeypatch.setattr("polyseme.studies.stages.dictionaries.fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        curves(study, tmp_path / "stopped")
    _, resumed = curves(study, tmp_path / "stopped")
    assert seen == [6 * 256, 13 * 256, 13 * 256, 26 * 256]  # the moment at which it stopped is copied again
    assert resumed[SITE].tokens == whole[SITE].tokens
    assert np.array_equal(resumed[SITE].match, whole[SITE].match, equal_nan=True)
    [folder] = artifacts(tmp_path / "stopped", "dictionaries")
    assert {path.name for path in folder.iterdir()} >= {"copies", "copies.json"}
    assert "so-far" not in {path.name for path in folder.iterdir()}
