"""What cannot come out significant is refused or said before the work, never shown as a finding after it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyseme.causal import CausalConfig
from polyseme.causal.clusters import cluster_by_document, sign_flip_p
from polyseme.core.stats import benjamini_hochberg
from polyseme.studies.config import StudyConfig
from polyseme.verdicts.judge import VerdictConfig
from polyseme.verdicts.requirements import impossible, samples_alone, shortfalls

GAUSSIAN = {"kind": "gaussian_reinit"}


def study(**changes):
    return StudyConfig.model_validate({"controls": [GAUSSIAN], **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"verdicts": {"alpha": 1e-6}}, "`causal.n_flips` to 1,000,000 or more"),
        ({"verdicts": {"alpha": 1e-5}, "dictionary": {"n_latents": 100}}, "`causal.n_flips` to 100,000 or more"),
        ({"verdicts": {"margin_fdr": 0.0}}, "margin_fdr"),
    ],
)
def test_thresholds_that_nothing_can_reach_are_refused(changes, says):
    dictionary = {"architecture": "topk", "n_latents": 1024, "k": 4, **changes.pop("dictionary", {})}
    with pytest.raises(ValidationError, match=says):
        study(dictionary=dictionary, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"verdicts": {"alpha": 1e-5}, "dictionary": {"n_latents": 10_000}},  # wide dictionaries get more flips
        {"verdicts": {"alpha": 1e-6}, "causal": {"n_flips": 2_000_000}},
        {"verdicts": {"alpha": 1e-6}, "controls": []},  # nothing to compare with: no verdict is asked for
        {"verdicts": {"alpha": 1e-6}, "seeds": [0]},
        {"verdicts": {"alpha": 1e-6}, "causal": {"n_samples": 0}},  # no causal test is asked for
        {"causal": {"n_samples": 3}},  # a small study: said, not refused
    ],
)
def test_what_can_pass_or_is_not_asked_for_is_not_refused(changes):
    study(
        **{"dictionary": {"architecture": "topk", "n_latents": 64, "k": 4, **changes.pop("dictionary", {})}, **changes}
    )


@given(n_flips=st.integers(1, 3000), n_latents=st.integers(1, 300), alpha=st.sampled_from([1e-4, 0.001, 0.05, 0.2]))
@settings(deadline=None, max_examples=60)
def test_what_is_refused_is_what_the_largest_effect_cannot_reach(n_flips, n_latents, alpha):
    config = CausalConfig(n_flips=n_flips, n_samples=1000)
    best = benjamini_hochberg(np.full(n_latents, config.smallest_p(n_latents)))
    assert bool(impossible(config, VerdictConfig(alpha=alpha), n_latents)) == (best[0] > alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("n_latents", [1, 30, 1024, 70_000])
def test_one_latent_passes_alone_with_the_samples_named(n_latents, alpha):
    p = np.ones(n_latents)
    needed = samples_alone(n_latents, alpha)
    p[0] = CausalConfig(n_samples=needed).smallest_p(n_latents)
    assert benjamini_hochberg(p)[0] <= alpha
    if needed > 2:
        p[0] = CausalConfig(n_samples=needed - 1).smallest_p(n_latents)
        assert benjamini_hochberg(p)[0] > alpha


def test_the_smallest_p_of_a_config_is_that_of_the_test_itself():
    for n_samples in (2, 5, 9):
        made = cluster_by_document(np.zeros(n_samples, int), np.arange(n_samples), np.ones((n_samples, 1)), 1)
        above, _ = sign_flip_p(made, 0, seed=0, n_flips=CausalConfig().flips(1))
        assert above[0] == CausalConfig(n_samples=n_samples).smallest_p(1)


WELL = {"n_documents": 200, "predicts": True, "lacks": ()}


def said(causal=None, verdicts=None, width=1024, **changes):
    causal, verdicts = CausalConfig(**(causal or {})), VerdictConfig(**(verdicts or {}))
    return " ".join(shortfalls(causal, verdicts, [width, 4 * width], **{**WELL, **changes}))


def test_a_study_that_lacks_nothing_is_told_nothing():
    assert said() == ""
    assert said(width=16_384) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        # 4,096 · 2⁻⁸ / .05 = 320 latents must have it; 2⁻¹⁷ · 4,096 ≤ .05.
        ({"causal": {"n_samples": 8}}, "at least 320 have it; with 17 samples"),
        ({"causal": {"n_samples": 4}}, "none can pass, and no latent gets a verdict; with 17 samples"),
        ({"n_documents": 8, "verdicts": {"min_documents": 5}}, "at least 320 have it"),
        ({"n_documents": 12}, "a latent to fire in 20"),
        ({"n_documents": 1}, "fewer than two documents"),
        ({"width": 49}, "select 50 latents or more, and a dictionary has 49"),
        ({"width": 3, "verdicts": {"margin_fdr": 0.3}}, "select 4 latents or more, and a dictionary has 3"),
        ({"predicts": False}, "does not predict the next token"),
        ({"lacks": ["control"]}, "the study has no control: no latent"),
        ({"lacks": ["second seed"]}, "the study has no second seed: no latent"),
        ({"lacks": ["control", "second seed"]}, "the study has no control and no second seed: no latent"),
        ({"causal": {"n_samples": 0}}, "n_samples = 0"),
        ({"verdicts": {"alpha": 0.001}}, "at least 25 have it"),
    ],
)
def test_what_a_study_lacks_is_said_with_the_least_that_is_needed(changes, says):
    assert says in said(**changes)
