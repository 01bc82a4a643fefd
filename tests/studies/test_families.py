"""A study of every family of networks: it runs to its report, or says before any work why it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest

import polyseme
from polyseme.core.errors import InputError
from tests import tiny
from tests.studies.small import small_config
from tests.studies.test_study import Told

SMALL: dict[str, Any] = {
    "sites": ["blocks.1.resid_post"],
    "tokens": {"train": 1000, "heldout": 400, "splice": 100, "heldout_fraction": 0.4, "context": 16},
    "dictionary": {"architecture": "matryoshka", "n_latents": 16, "k": 4},
    "training": {"n_tokens": 1024, "batch_size": 128},
    "harvest": {"cache": "disk"},
    "controls": [{"kind": "unigram_tokens"}],
    "causal": {"n_samples": 2},
}


def _study(family: str, corpus: Path, folder: Path, **changes: Any) -> tuple[polyseme.StudyResult, list[str]]:
    network = folder / family
    getattr(tiny, f"tiny_{family}")().save_pretrained(network)
    tiny.tiny_tokenizer().save_pretrained(network)
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": p.read_text()}) + "\n" for p in sorted(corpus.glob("*.txt"))))
    config = small_config(network, corpus, corpus={"kind": "jsonl", "paths": [str(texts)]}, **{**SMALL, **changes})
    told = Told()
    return polyseme.study(config, root=folder / "runs", reporter=told), told.lines


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "mamba", "bert"])
def test_a_study_runs_to_its_report_on_every_family_of_text(family: str, small_corpus: Path, tmp_path: Path) -> None:
    result, told = _study(family, small_corpus, tmp_path)
    assert "<html" in result.report.read_text()
    assert sum(result.verdict_counts.values()) == 16
    own = {r.name: r for r in result.run.metrics if r.scope.get("study") == "trained" and r.scope.get("seed") == 0}
    assert own["fvu"].value == own["fvu"].value
    predicts = family != "bert"
    assert (own["ce_patched"].value == own["ce_patched"].value) == predicts
    assert any("does not predict the next token" in line for line in told) != predicts
    if not predicts:
        assert "no next-token prediction" in own["ce_patched"].details["note"]
        assert set(result.latents()["used"]) == {"unknown"}
        assert result.verdict_counts["network_feature"] == result.verdict_counts["use_not_shown"] == 0
        assert "the network does not predict the next token" in result.report.read_text()


def test_a_network_of_pixels_is_refused_before_any_work(small_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reads text.*\(vit\) reads pixel_values.*TensorSource"):
        _study("vit", small_corpus, tmp_path)
    assert not list((tmp_path / "runs").glob("objects/*"))


@pytest.mark.slow
def test_a_missed_target_l0_is_told_and_recorded(small_corpus: Path, tmp_path: Path) -> None:
    """Eight steps cannot bring a jumprelu of 16 latents, which starts near half a latent, to twelve."""
    dictionary = {"architecture": "jumprelu", "n_latents": 16}
    training = {**SMALL["training"], "target_l0": 12}
    result, told = _study("gpt2", small_corpus, tmp_path, dictionary=dictionary, training=training, controls=[])
    (l0,) = [r for r in result.run.metrics if r.name == "l0" and r.scope["seed"] == 0]
    assert l0.details["target"] == 12
    assert "the target is 12" in l0.details["note"]
    assert any("seed0 (trained)" in line and "the target is 12" in line for line in told)
