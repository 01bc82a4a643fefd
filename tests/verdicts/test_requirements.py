"""What keeps verdicts from saying anything is said before the work, and of every site after it."""

import math

import numpy as np
import pytest

from polyseme.causal import CausalConfig
from polyseme.core.records import AXES
from polyseme.verdicts.evidence import VerdictConfig
from polyseme.verdicts.judge import judge
from polyseme.verdicts.requirements import power, shortfalls, unused
from tests.verdicts.fakes import contrast, site


def said(missing=None, *, n_samples=32, n_documents=200, predicts=True, n_latents=15_000):
    return shortfalls(
        missing or {},
        CausalConfig(n_samples=n_samples),
        VerdictConfig(),
        n_documents=n_documents,
        predicts=predicts,
        n_latents=n_latents,
        match_tokens=60_000,
    )


def test_predictions_that_are_over_fitted_are_named_with_what_is_enough():
    (one,) = said(n_latents=16_384)
    assert "16,384 latents are learned on 60,000 train tokens" in one
    assert "65,536 are enough" in one
    assert said({"recurrent": "there is one seed"}, n_latents=16_384) == said({"recurrent": "there is one seed"})


def test_a_study_that_lacks_nothing_is_told_nothing():
    assert said() == []
    assert said(n_documents=20) == []


def test_every_lack_is_one_sentence_and_the_words_that_are_left_are_named():
    few = "the study has 1 partner dictionary, and it takes 2"
    assert said(dict.fromkeys(("recurrent", "network", "beyond_tokens"), few)) == [
        f"Axes `recurrent`, `network` and `beyond_tokens` say `unknown` of every latent: {few}.",
        "Every latent is `undecided`.",
    ]
    assert said({"network": "there is no control"}, n_samples=0) == [
        "Axis `network` says `unknown` of every latent: there is no control.",
        "Axis `used` says `unknown` of every latent: no firings are sampled (`causal.n_samples` is 0).",
        "Every latent is `not_recurrent` or `undecided`.",
    ]
    assert said(predicts=False) == [
        "Axis `used` says `unknown` of every latent: the network does not predict the next token.",
        "Every latent is `not_recurrent`, `not_beyond_nulls` or `undecided`.",
    ]
    assert said(n_documents=19) == [
        "The held-out side has 19 documents, and a latent must fire in 20 (`verdicts.min_documents`): every latent is "
        "`undecided`."
    ]


@pytest.mark.parametrize("axis", AXES)
def test_what_is_said_before_is_what_the_judge_then_says(axis):
    why = "it takes what there is not"
    n = 6
    passing = {"a": contrast(np.full(n, 0.9))}
    failing = {"a": contrast(np.zeros(n))}
    sentence = said({axis: why})[-1]
    words = set()
    for other in AXES:
        if other != axis:
            found = judge({"s": site(missing={axis: why}, **{other: failing})})["s"]
            words |= set(found.status)
            assert set(found.outcomes[axis].missing) == {why}
    words |= set(judge({"s": site(missing={axis: why}, **{next(o for o in AXES if o != axis): passing})})["s"].status)
    assert {word for word in words if f"`{word}`" in sentence} == words


def test_no_use_can_be_shown_without_predictions_or_samples():
    assert unused(CausalConfig(), predicts=True) == ""
    assert "predict" in unused(CausalConfig(n_samples=0), predicts=False)
    assert "n_samples" in unused(CausalConfig(n_samples=0), predicts=True)


def test_the_power_of_a_site():
    found = judge(
        {
            "s": site(
                [30, 30, 30, 5],
                recurrent={"floor": contrast([0.9, 0.9, 0.0, 0.9], error=[0.1, 0.2, 0.3, 0.4])},
                network={"single": contrast([0.9] * 4, error=math.nan), "many": contrast([0.9, 0.0, 0.0, 0.9])},
                missing={"used": "nothing is predicted"},
            )
        }
    )["s"]
    recurrent, network, beyond, used = power(found)
    assert [axis.axis for axis in power(found)] == list(AXES)
    assert (recurrent.n_latents, recurrent.n_answered, recurrent.n_yes, recurrent.why_none) == (4, 3, 2, "")
    assert recurrent.detectable == pytest.approx(0.2 * 1.834, abs=1e-3)  # of p = 0.05 · 2 / 3
    assert (network.n_answered, network.n_yes, network.left_out) == (3, 1, ("single",))
    assert (used.n_answered, used.n_yes, used.why_none) == (0, 0, "nothing is predicted")
    assert math.isnan(used.detectable)
    assert beyond.n_yes == 3
