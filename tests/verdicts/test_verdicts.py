"""From evidence to answers and words: the table, latent by latent, and what must not change it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from polyseme.core.errors import InputError
from polyseme.core.records import AXES, STATUSES, Verdict
from polyseme.evaluation.matches import Correlations
from polyseme.evaluation.recurrence import Recurrence
from polyseme.verdicts.evidence import VerdictConfig, site_evidence
from polyseme.verdicts.judge import NOT_TOGETHER, judge
from polyseme.verdicts.words import CHAIN, words
from tests.verdicts.fakes import contrast, site

YES, NO = 0.9, 0.0
"""Differences of an error of 0.1."""


def answers(judged, axis):
    return judged.outcomes[axis].answer.tolist()


TABLE = {
    # recurrent, network, used, beyond_tokens: the first of them that is not `yes` decides.
    ("yes", "yes", "yes", "yes"): "network_feature",
    ("yes", "yes", "yes", "no"): "token_level",
    ("yes", "yes", "no", "yes"): "use_not_shown",
    ("yes", "yes", "no", "no"): "use_not_shown",
    ("yes", "no", "yes", "yes"): "not_beyond_nulls",
    ("yes", "no", "unknown", "no"): "not_beyond_nulls",
    ("no", "yes", "yes", "yes"): "not_recurrent",
    ("no", "unknown", "unknown", "unknown"): "not_recurrent",
    ("unknown", "no", "yes", "yes"): "undecided",
    ("yes", "unknown", "no", "yes"): "undecided",
    ("yes", "yes", "unknown", "no"): "undecided",
    ("yes", "yes", "yes", "unknown"): "undecided",
}


@pytest.mark.parametrize(("profile", "word"), TABLE.items())
def test_the_word_of_a_profile(profile, word):
    given_answers = {axis: np.array([answer], object) for (axis, _), answer in zip(CHAIN, profile, strict=True)}
    status, decisive = words(given_answers)
    assert status[0] == word
    stop = next((i for i, answer in enumerate(profile) if answer != "yes"), None)
    assert decisive[0] == ("" if stop is None else CHAIN[stop][0])


def test_every_profile_has_one_word_and_every_word_a_profile():
    profiles = list(itertools.product(("yes", "no", "unknown"), repeat=4))
    status, _ = words({axis: np.array([p[i] for p in profiles], object) for i, (axis, _) in enumerate(CHAIN)})
    assert set(status) == set(STATUSES)


def test_a_profile_from_its_evidence():
    n = [30, 30, 30, 30, 30, 19, 30]
    found = judge(
        {
            "here": site(
                n,
                recurrent={"floor": contrast([YES, YES, YES, YES, NO, YES, YES])},
                network={
                    "gaussian": contrast([YES, YES, YES, NO, YES, YES, math.nan]),
                    "spectrum": contrast([YES, YES, YES, YES, YES, YES, math.nan]),
                },
                used={"isotropic": contrast([YES, YES, NO, YES, YES, YES, YES])},
                beyond_tokens={"bigram": contrast([YES, NO, YES, YES, YES, YES, YES])},
            )
        },
        scope={"seed": 3},
    )["here"]
    assert found.status.tolist() == [
        "network_feature",
        "token_level",
        "use_not_shown",
        "not_beyond_nulls",
        "not_recurrent",
        "undecided",
        "undecided",
    ]
    assert found.missing.tolist() == [
        *[""] * 5,
        "it fires in fewer than 20 held-out documents",
        "it could not be measured",
    ]
    network = found.verdicts[3].axis("network")
    assert (network.answer, network.hardest, network.n) == ("no", "gaussian", 30)
    assert [evidence.null for evidence in network.evidence] == ["gaussian", "spectrum"]
    interval = network.evidence[1].interval
    assert (interval.low, interval.high) == pytest.approx((YES - 0.196, YES + 0.196), abs=1e-4)
    assert network.evidence[0].p == 0.5
    assert network.evidence[1].p == pytest.approx(norm.sf(9))
    # Five tests, for one latent fires too rarely and one could not be measured: four of them are that small.
    assert found.outcomes["network"].p_corrected[0] == pytest.approx(norm.sf(9) * 5 / 4)
    assert found.verdicts[5].axis("recurrent").missing == "it fires in fewer than 20 held-out documents"
    assert [verdict.status for verdict in found.verdicts] == found.status.tolist()
    assert [verdict.status for verdict in found.verdicts[2:4]] == found.status.tolist()[2:4]
    for verdict in found.verdicts:
        written = verdict.model_dump_json()
        assert Verdict.model_validate_json(written).model_dump_json() == written
    [record] = [record for record in found.records if record.name == "share_undecided"]
    assert (record.value, record.details["count"], record.scope) == (2 / 7, 2, {"seed": 3, "site": "here"})


def test_the_hardest_null_counts():
    both = {"a": contrast([YES, YES, NO]), "b": contrast([YES, 0.1, YES])}
    found = judge({"s": site(network=both)})["s"]
    assert answers(found, "network") == ["yes", "no", "no"]
    assert found.outcomes["network"].hardest.tolist()[1:] == ["b", "a"]


def test_the_margin_must_be_exceeded_and_not_zero():
    made = contrast([0.06, 0.06, 0.2], error=0.01)
    assert answers(judge({"s": site(network={"a": made})})["s"], "network") == ["yes"] * 3
    kept = judge({"s": site(network={"a": made}, least={"network": 0.05})})["s"]
    assert answers(kept, "network") == ["no", "no", "yes"]
    assert kept.verdicts[0].axis("network").evidence[0].least == 0.05


def test_an_axis_without_evidence_says_why_and_the_rest_still_counts():
    found = judge({"s": site(recurrent={"floor": contrast([YES, NO])}, missing={"network": "there is no control"})})[
        "s"
    ]
    assert found.status.tolist() == ["undecided", "not_recurrent"]
    assert found.missing.tolist() == ["there is no control", ""]
    assert answers(found, "used") == ["yes", "yes"]
    empty = judge({"s": site(recurrent={"floor": contrast([YES])}, network={})})["s"]
    assert empty.outcomes["network"].missing.tolist() == ["there is nothing to compare it with"]


def test_a_null_that_no_latent_could_be_compared_with_is_left_out_and_named():
    nothing = contrast([YES, YES], error=math.nan)
    found = judge({"s": site(network={"single": nothing, "many": contrast([YES, NO])})})["s"]
    assert answers(found, "network") == ["yes", "no"]
    assert found.outcomes["network"].left_out == ("single",)
    alone = judge({"s": site(network={"single": nothing}, missing={})})["s"]
    assert alone.outcomes["network"].missing.tolist() == ["it could not be measured"] * 2


def test_no_power_is_unknown_unless_another_null_says_no():
    # From a null of 0.97 there is no room for a difference of 0.05 up to 1.
    high = contrast([0.02, 0.02, 0.5, -0.5], null=[0.97, 0.97, 0.2, 0.97], reach=1.0, error=0.05)
    other = contrast([YES, NO, YES, YES])
    found = judge({"s": site(network={"high": high, "other": other}, least={"network": 0.05})})["s"]
    assert answers(found, "network") == ["unknown", "no", "yes", "no"]
    assert found.outcomes["network"].missing[0] == "no value that there can be would have been shown to exceed high"
    # It stays among the tests that are corrected for: how it is called changes nothing for the others.
    p = np.sort(found.outcomes["network"].p)
    assert found.outcomes["network"].p_corrected[2] == pytest.approx(p[0] * 4)


def test_the_correction_is_over_the_latents_of_all_sites():
    first, second = (0.1 * norm.isf(np.array([p])) for p in (0.03, 0.04))
    for axis in AXES:
        alone = judge({"a": site(**{axis: {"n": contrast(first)}})})["a"]
        assert answers(alone, axis) == ["yes"]
        beside = judge({"a": site(**{axis: {"n": contrast(first)}}), "b": site(**{axis: {"n": contrast([NO, NO])}})})[
            "a"
        ]
        assert answers(beside, axis) == ["no"]
        assert beside.outcomes[axis].p_corrected[0] == pytest.approx(0.09)
        both = judge({"a": site(**{axis: {"n": contrast(first)}}), "b": site(**{axis: {"n": contrast(second)}})})
        assert both["a"].outcomes[axis].p_corrected[0] == pytest.approx(0.04)


def test_axes_that_pass_one_by_one_and_not_together_make_no_word():
    # Each half passes an axis that the other half does not; the few that pass both by luck are no more than luck.
    rng = np.random.default_rng(0)
    half = np.arange(2000) < 1000
    luck = 0.1 * rng.normal(size=(2, 2000))
    found = judge(
        {
            "s": site(
                recurrent={"a": contrast(np.where(half, YES, luck[0]))},
                network={"b": contrast(np.where(half, luck[1], YES))},
            )
        }
    )["s"]
    both = found.outcomes["recurrent"].yes & found.outcomes["network"].yes
    assert 20 < both.sum() < 120
    assert (found.status != "network_feature").all()
    assert set(found.missing[both]) == {NOT_TOGETHER}


def test_a_frequency_that_is_not_known_is_no_frequency_of_zero():
    sure = {"redrawn": [math.nan, 0.01], "error": 0.01}
    found = judge({"s": site(used={"a": contrast([0.9, 0.9], **sure)})})["s"]
    assert list(found.status) == ["network_feature"] * 2
    assert math.isnan(found.frequencies.expected[0])
    (share,) = (r for r in found.records if r.name == "share_network_feature")
    assert share.details["expected_to_keep_the_word"] == found.frequencies.expected[1] > 0.9


def test_nothing_is_compared_on_an_axis_that_the_study_says_nothing_of():
    many = Correlations(np.full((1, 3), 0.9), np.full((1, 20, 3), 0.9))
    found = Recurrence(many, np.zeros((1, 3), int), many, {"null": many}, {}, {}, {}, np.full(3, 0.1), np.full(3, 40))
    few = dict.fromkeys(("recurrent", "network", "beyond_tokens"), "there is one partner")
    evidence = site_evidence(np.full(3, 40), found, None, config=VerdictConfig(), missing=few)
    judged = judge({"s": evidence})["s"]
    assert (judged.status == "undecided").all()
    assert set(judged.outcomes["recurrent"].missing) == {"there is one partner"}
    assert (
        judge({"s": site_evidence(np.full(3, 40), found, None, config=VerdictConfig(), missing={})})["s"]
        .outcomes["recurrent"]
        .made.all()
    )


def test_evidence_about_other_latents_is_refused():
    with pytest.raises(InputError, match="same latents"):
        judge({"s": site([30, 30, 30], network={"a": contrast([YES, YES])})})


def test_nothing_to_judge():
    assert judge({}) == {}
    empty = judge({"s": site(network={"a": contrast([])})})["s"]
    assert len(empty.verdicts) == 0
    assert math.isnan(empty.records[0].value)


ODD = st.sampled_from([0.0, 1.0, -1.0, 0.05, 1e-300, 1e300, math.nan, math.inf, -math.inf])
SIZES = st.sampled_from([0.0, 0.1, 1e-300, math.nan, math.inf])


@given(st.lists(st.tuples(ODD, ODD, SIZES, st.sampled_from([1.0, 2.5, math.inf, math.nan]), SIZES), max_size=6))
@settings(deadline=None, max_examples=100)
def test_odd_figures_never_make_a_feature_of_what_was_not_measured(rows):
    difference, null, error, freedom, redrawn = np.array(rows, float).reshape(-1, 5).T
    with np.errstate(all="ignore"):
        made = contrast(difference, null=null, error=error, freedom=freedom, redrawn=redrawn, reach=1.0)
    found = judge({"s": site(recurrent={"a": made, "b": contrast(np.full(len(rows), YES))}, least={"recurrent": 0.05})})
    outcome = found["s"].outcomes["recurrent"]
    measured = np.isfinite(made.value) & np.isfinite(made.null) & np.isfinite(error) & ~np.isnan(freedom)
    if measured.any():
        assert not outcome.yes[~measured].any()
        with np.errstate(all="ignore"):
            assert (made.difference[outcome.yes] > 0.05).all()
    frequency = found["s"].frequency
    assert ((frequency >= 0) & (frequency <= 1)).all()
    list(found["s"].verdicts)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 25))
@settings(deadline=None, max_examples=40)
def test_neither_the_order_of_latents_nor_of_sites_nor_the_names_of_nulls_matter(seed, n):
    rng = np.random.default_rng(seed)

    def drawn(names, order):
        return {
            name: contrast(x[order], error=e[order], redrawn=e[order])
            for name, (x, e) in zip(names, values, strict=True)
        }

    values = [(rng.normal(0.3, 0.3, n), rng.uniform(0.01, 0.3, n)) for _ in range(2)]
    beside = site(network={"z": contrast(rng.normal(0.3, 0.3, 7))})
    order = rng.permutation(n)
    plain = {"one": site(network=drawn(("a", "b"), np.arange(n))), "two": beside}
    moved = {"two": beside, "uno": site(network=dict(reversed(drawn(("c", "d"), order).items())))}
    first, second = judge(plain), judge(moved)
    for left, right, at in ((first["one"], second["uno"], order), (first["two"], second["two"], np.arange(7))):
        assert (left.status[at] == right.status).all()
        np.testing.assert_allclose(left.frequency[at], right.frequency, rtol=1e-12)
        mine, other = left.outcomes["network"], right.outcomes["network"]
        np.testing.assert_allclose(mine.p_corrected[at], other.p_corrected, rtol=1e-12)
        np.testing.assert_allclose(mine.detectable[at], other.detectable, rtol=1e-12)
    renamed = np.vectorize({"a": "c", "b": "d"}.get)(first["one"].outcomes["network"].hardest[order])
    assert (renamed == second["uno"].outcomes["network"].hardest).all()


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_a_second_site_changes_nothing_but_the_correction(seed):
    rng = np.random.default_rng(seed)
    one = site(network={"a": contrast(rng.normal(0.2, 0.2, 12))}, used={"b": contrast(rng.normal(0.2, 0.2, 12))})
    two = site(network={"a": contrast(rng.normal(0, 0.2, 30))})
    alone, beside = judge({"one": one})["one"], judge({"one": one, "two": two})["one"]
    for axis in AXES:
        np.testing.assert_array_equal(alone.outcomes[axis].p, beside.outcomes[axis].p)
        assert (alone.outcomes[axis].missing == beside.outcomes[axis].missing).all()
    for verdict, other in zip(alone.verdicts, beside.verdicts, strict=True):
        assert [axis.evidence for axis in verdict.axes] == [axis.evidence for axis in other.axes]


def test_a_frequency_is_the_normal_share_of_repetitions_above_what_passes():
    config = VerdictConfig(alpha=0.05)
    made = contrast([0.3, 0.1], error=0.1, redrawn=[0.1, 0.05])
    found = judge({"s": site(network={"a": made})}, config=config)["s"]
    # One of two passes, so a repetition must have p ≤ 0.05 · 1 / 2.
    bar = 0.1 * norm.isf(0.025)
    expected = norm.cdf((np.array([0.3, 0.1]) - bar) / (math.sqrt(2) * np.array([0.1, 0.05])))
    np.testing.assert_allclose(found.outcomes["network"].frequency, expected)
    np.testing.assert_allclose(found.outcomes["network"].detectable, bar)


def test_the_judge_of_a_large_study_takes_seconds():
    import time

    rng = np.random.default_rng(0)
    sites = {
        str(i): site(
            **{
                axis: {
                    str(k): contrast(rng.normal(0.2, 0.2, 16_384), freedom=rng.uniform(2, 20, 16_384)) for k in range(2)
                }
                for axis in AXES
            }
        )
        for i in range(3)
    }
    start = time.process_time()
    found = judge(sites)
    assert time.process_time() - start < 15
    assert len(found["0"].verdicts) == 16_384
