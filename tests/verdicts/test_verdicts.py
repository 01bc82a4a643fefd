"""Verdicts: the rule latent by latent, the luck threshold, and the record of a dictionary."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.causal import CausalEffects
from polyseme.core.errors import InputError
from polyseme.core.records import Verdict
from polyseme.evaluation.specificity import Margin, Specificity
from polyseme.verdicts.judge import (
    NO_PREDICTION,
    NO_RECURRENCE,
    VerdictConfig,
    judge,
    least_selected,
    mirror_threshold,
)


def firings(n_documents):
    """Latent i fires once in each of the first n_documents[i] documents."""
    most = max(n_documents)
    z = (np.arange(most)[:, None] < np.array(n_documents)).astype(np.float32)
    ids = [np.zeros(most), np.arange(most), np.arange(most), np.zeros(most)]
    return Firings(csr_array(z), *(x.astype(np.int32) for x in ids))


def effects(p, least=0.0):
    p = np.asarray(p, float)
    x = np.full(len(p), 0.1)
    whole = np.full(len(p), 32)
    arrays = {
        "effect": x,
        "low": x - 0.05,
        "high": x + 0.05,
        "null": x * 0,
        "p": p,
        "p_two_sided": p,
        "least_p": p * 0 + least,
    }
    moved = {"kl": x, "kl_low": x - 0.05, "kl_high": x + 0.05, "null_kl": x * 0 + 0.01}
    return CausalEffects(**arrays, **moved, n_tokens=whole, n_documents=whole)


def specific(n_documents, **margins):
    made = {
        k: Margin(np.array(v) * 1.0, np.array(v) - 0.1, np.array(v) + 0.1, np.ones(len(v))) for k, v in margins.items()
    }
    first = next(iter(made.values()))
    return Specificity(first, made, made, first.value * 0, np.array(n_documents))


PLAIN = VerdictConfig(margin_fdr=1)


def test_an_effect_whose_interval_reaches_down_to_its_null_is_not_enough() -> None:
    """A small p against the mean random direction also comes from a direction that is a little unlike the mean one."""
    close = effects([0.0001, 0.0001])
    close.null_kl[:] = [0.04, 0.06]  # the interval is 0.05 to 0.15
    judged = judge(firings([30, 30]), close, specific([30, 30], one=[0.5, 0.5]), config=PLAIN)
    assert [verdict.status for verdict in judged.verdicts] == ["supported", "mixed"]


def test_an_observed_loss_is_judged_by_its_own_interval_and_null():
    noisy = effects([0.0001, 0.0001])
    noisy.null[:] = [0.04, 0.06]  # of ΔCE, whose interval is 0.05 to 0.15
    judged = judge(firings([30, 30]), noisy, specific([30, 30], one=[0.5, 0.5]), config=PLAIN, statistic="ce")
    assert [verdict.status for verdict in judged.verdicts] == ["supported", "mixed"]
    [[test], [other]] = ([e for e in v.evidence if "effect" in e.name] for v in judged.verdicts)
    assert (test.name, test.null, other.null) == ("causal_effect", 0.04, 0.06)
    assert "CE(ablated) − CE(clean)" in test.note
    assert "KL" not in test.note


def test_the_rule():
    n = [30, 30, 30, 30, 19, 30, 30]
    judged = judge(
        firings(n),
        effects([0.001, 0.001, 0.9, 0.9, 0.001, math.nan, 0.001]),
        specific(n, one=[0.5, 0.05, 0.5, 0.05, 0.5, 0.5, 0.5], two=[0.4, 0.5, 0.5, 0.5, 0.5, 0.5, math.nan]),
        config=PLAIN,
    )
    assert [verdict.status for verdict in judged.verdicts] == [
        "supported",
        "mixed",  # its interval reaches below 0 against one control
        "mixed",  # no causal effect
        "indistinguishable_from_control",
        "insufficient_data",  # 19 documents
        "insufficient_data",  # no causal test
        "insufficient_data",  # no margin against one control
    ]
    assert [verdict.missing for verdict in judged.verdicts] == [
        *[""] * 4,
        "fired in fewer than 20 held-out documents",
        "no causal effect could be measured",
        "no model-specificity could be measured against two",
    ]
    assert judged.n_documents.tolist() == n
    first = {evidence.name: evidence for evidence in judged.verdicts[0].evidence}
    tests = {"causal_effect", "model_specificity/one", "model_specificity/two", "firing_documents"}
    assert set(first) == tests | {"observed_loss_effect"}
    # Five tests, three of them at .001: the latent of 19 documents and the one without an effect are not counted.
    assert first["causal_effect"].p_corrected == pytest.approx(0.001 * 5 / 3)
    assert first["causal_effect"].interval is not None
    assert first["causal_effect"].interval.low == pytest.approx(0.05)
    assert math.isnan(judged.verdicts[4].evidence[0].p_corrected)
    shares = {record.scope["status"]: record for record in judged.records}
    assert shares["supported"].value == pytest.approx(1 / 7)
    assert shares["insufficient_data"].details["count"] == 3
    for verdict in judged.verdicts:
        assert Verdict.model_validate_json(verdict.model_dump_json()).status == verdict.status


def test_the_correction_is_over_the_dictionary():
    n = [30] * 100
    many = specific(n, one=[0.5] * 100)
    p = np.r_[0.04, np.linspace(0.1, 1, 99)]
    assert judge(firings(n), effects(p), many, config=PLAIN).verdicts[0].status == "mixed"
    p[0] = 0.0004
    assert judge(firings(n), effects(p), many, config=PLAIN).verdicts[0].status == "supported"


def test_without_one_of_the_tests_nothing_can_be_said():
    n = [30, 3]
    causal, specificity = (
        "no causal effect: the network does not predict the next token",
        "no model-specificity: the study has no control, or no second seed",
    )
    for given_effects, given_margins, missing in (
        (None, specific(n, one=[1, 1]), causal),
        (effects([0, 0]), None, specificity),
        (None, None, causal),
    ):
        judged = judge(firings(n), given_effects, given_margins)
        assert {verdict.status for verdict in judged.verdicts} == {"insufficient_data"}
        assert {verdict.missing for verdict in judged.verdicts} == {missing}
        assert all("firing_documents" in {e.name for e in verdict.evidence} for verdict in judged.verdicts)


@pytest.mark.parametrize(
    ("lacks", "missing"),
    [
        (["control"], "the study has no control"),
        (["second seed"], "the study has no second seed"),
        (["control", "second seed"], "the study has no control and no second seed"),
    ],
)
def test_what_a_study_has_no_comparison_for_is_named(lacks, missing):
    judged = judge(firings([30, 3]), effects([0, 0]), None, lacks=lacks)
    assert {verdict.missing for verdict in judged.verdicts} == {f"no model-specificity: {missing}"}


def test_the_part_of_a_comparison_that_is_missing_is_named():
    n = [30] * 5
    found = specific(n, one=[0.5, math.nan, 0.5, math.nan, 0.5], two=[0.5, 0.5, math.nan, math.nan, 0.5])
    seed = found.recurrence
    low = np.where(np.arange(5) == 4, math.nan, 0.4)
    found = replace(found, recurrence=replace(seed, value=np.full(5, 0.5), low=low, high=np.full(5, 0.6)))
    judged = judge(firings(n), effects([0.001] * 5), found, config=PLAIN)
    what = "no model-specificity could be measured against"
    assert [verdict.missing for verdict in judged.verdicts] == [
        "",
        f"{what} one",
        f"{what} two",
        f"{what} one, two",
        NO_RECURRENCE,
    ]


def test_evidence_about_other_latents_is_refused():
    with pytest.raises(InputError, match="same latents"):
        judge(firings([30, 30]), effects([0.1]), specific([30, 30], one=[1, 1]))


def test_margins_that_luck_explains_are_not_specific():
    margins = np.r_[np.full(60, 0.5), 0.1, 0.2, -0.1, -0.2, -0.01]
    # (1 + below −τ) / above τ is 4/62 at .01, 3/62 at .1, 2/61 at .2 and 1/60 at .5.
    assert mirror_threshold(margins, q=0.05) == 0.1
    assert mirror_threshold(margins, q=0.04) == 0.2
    assert mirror_threshold(margins, q=0.02) == 0.5
    assert mirror_threshold(margins, q=0.01) == math.inf
    assert mirror_threshold(margins, q=1) == 0
    n = [30] * len(margins)
    judged = judge(firings(n), effects([0.0] * len(n)), specific(n, one=margins), config=VerdictConfig(margin_fdr=0.02))
    statuses = [verdict.status for verdict in judged.verdicts]
    assert statuses == ["supported"] * 60 + ["mixed"] * 5
    assert judged.verdicts[0].evidence[1].threshold == 0.5


def test_the_share_of_luck_among_the_specific_is_held():
    rng = np.random.default_rng(0)
    luck, own = rng.standard_t(3, (400, 150)), rng.standard_t(3, (400, 150)) + 4
    false, any_by_luck = [], []
    for nothing, something in zip(luck, own, strict=True):
        threshold = mirror_threshold(np.r_[nothing, something], q=0.1)
        chosen = (nothing >= threshold).sum(), (something >= threshold).sum()
        false.append(chosen[0] / max(1, sum(chosen)))
        any_by_luck.append((nothing >= mirror_threshold(nothing, q=0.1)).any())
    assert 0.04 < np.mean(false) < 0.12
    assert np.mean(any_by_luck) < 0.14


def test_without_causal_effects_specificity_is_judged_by_its_own_latents():
    """An encoder has no causal test; its margins are as many and as good as they are."""
    margins = np.r_[np.full(60, 0.5), np.full(10, -0.1)]
    n = [30] * 70
    with_effects = judge(firings(n), effects([0.0] * 70), specific(n, one=margins))
    without = judge(firings(n), None, specific(n, one=margins))
    assert without.thresholds == with_effects.thresholds
    assert np.isfinite(without.thresholds["one"])
    assert without.tests["model_specificity"].passed.sum() == 60
    assert without.tests["model_specificity"].made.all()
    assert not without.tests["causal_effect"].made.any()
    assert {verdict.missing for verdict in without.verdicts} == {NO_PREDICTION}
    assert [e.passed for e in without.verdicts[0].evidence if e.name == "model_specificity/one"] == [True]


def test_a_causal_test_that_no_effect_could_pass_is_no_evidence():
    """100 latents sampled in 5 documents have p of 1/32 at least: corrected, 63 must reach it for one to pass."""
    n = [30] * 100
    margins = specific(n, one=[0.5] * 100)
    p = np.where(np.arange(100) < 10, 1 / 32, 0.5)
    few = judge(firings(n), effects(p, least=1 / 32), margins, config=PLAIN)
    assert {verdict.status for verdict in few.verdicts} == {"insufficient_data"}
    assert {verdict.missing for verdict in few.verdicts} == {
        "its causal effect was sampled in too few documents for any effect to pass"
    }
    assert not few.tests["causal_effect"].made.any()
    assert {e.name: e.made for e in few.verdicts[0].evidence} == {
        "causal_effect": False,
        "model_specificity/one": True,
        "firing_documents": True,
        "observed_loss_effect": True,
    }
    many = judge(firings(n), effects(p, least=1e-4), margins, config=PLAIN)
    assert {verdict.status for verdict in many.verdicts} == {"mixed"}


def test_latents_of_few_documents_are_judged_where_the_others_carry_them():
    n = [30] * 100
    p = np.r_[np.full(90, 0.0001), np.full(9, 0.5), 1.0]
    least = np.r_[np.full(90, 1e-4), np.full(9, 1 / 32), 0.25]
    judged = judge(firings(n), effects(p, least=least), specific(n, one=[0.5] * 100), config=PLAIN)
    # With 90 of 100 at the smallest p a 91st passes at .0455: out of reach for two documents only.
    assert [v.status for v in judged.verdicts] == ["supported"] * 90 + ["mixed"] * 9 + ["insufficient_data"]


def test_the_luck_filter_without_a_threshold_is_no_evidence():
    n = [30] * 49
    few = judge(firings(n), effects([0.0] * 49), specific(n, one=[0.5] * 49))
    assert {v.missing for v in few.verdicts} == {
        "the FDR filter (margin_fdr 0.02) needs 50 specific latents, and only 49 could be compared"
    }
    n = [30] * 60
    margins = np.r_[np.full(30, 0.5), np.full(30, -0.5)]
    luck = judge(firings(n), effects([0.0] * 60), specific(n, one=margins, two=np.full(60, 0.5)))
    assert luck.thresholds == {"one": math.inf, "two": 0.5}
    assert {v.status for v in luck.verdicts} == {"insufficient_data"}
    assert {v.missing for v in luck.verdicts} == {"the FDR filter (margin_fdr 0.02) finds no threshold against one"}
    assert not luck.tests["model_specificity"].made.any()
    assert {(e.name, e.made) for e in luck.verdicts[0].evidence if "specificity" in e.name} == {
        ("model_specificity/one", False),
        ("model_specificity/two", False),
    }
    assert luck.tests["causal_effect"].made.all()


@given(st.floats(0.001, 1.5))
def test_the_least_selected_is_what_the_filter_needs(q):
    least = int(least_selected(q))
    assert math.isfinite(mirror_threshold(np.ones(least), q=q))
    if least > 1:
        assert math.isinf(mirror_threshold(np.ones(least - 1), q=q))


def test_nothing_is_selected_at_a_share_of_zero():
    assert math.isinf(least_selected(0))
    assert math.isinf(mirror_threshold(np.ones(1000), q=0))
