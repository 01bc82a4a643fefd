"""What a report says of the axes of a dictionary, from evidence made by hand."""

import math

import numpy as np
import pytest

from polyseme.core.records import AXES
from polyseme.report.dictionaries import axis_reports
from polyseme.verdicts.judge import judge
from tests.verdicts.fakes import contrast, site

DIFFERENCE = np.array([0.5, 0.4, 0.6, 0.0, -0.1, math.nan])


def reports(**axes):
    evidence = site(**axes)
    [judged] = judge({"a": evidence}).values()
    return judged, {report.axis: report for report in axis_reports(evidence, judged)}


def test_an_axis_counts_its_answers_and_names_what_is_missing():
    judged, found = reports(network={"spectrum_reinit": contrast(DIFFERENCE)}, missing={"used": "no effects"})
    assert tuple(found) == AXES
    network, used = found["network"], found["used"]
    assert (network.yes, network.no, network.unknown) == (3, 2, 1)
    assert network.missing == {str(judged.outcomes["network"].missing[5]): 1}
    assert network.n_answered == 5
    assert (used.n_answered, used.unknown, used.missing) == (0, 6, {"no effects": 6})
    assert math.isnan(used.value)
    assert used.differences == used.nulls == ()
    assert used.hardest == ""


def test_medians_are_of_the_answered_against_their_hardest_null():
    easy, hard = contrast(np.full(6, 0.9)), contrast(DIFFERENCE, null=0.3)
    hard = contrast(np.where(np.arange(6) == 2, math.nan, hard.difference), null=0.3)
    judged, found = reports(network={"easy": easy, "hard": hard})
    network = found["network"]
    made = judged.outcomes["network"].made
    assert made.tolist() == [True, True, False, True, True, False]
    assert network.null_value == pytest.approx(0.3)
    assert network.value == pytest.approx(0.3 + np.median([0.5, 0.4, 0.0, -0.1]))
    assert network.hardest == "hard"
    assert {null.null: null.n_hardest for null in network.nulls} == {"easy": 0, "hard": 4}
    medians = {null.null: null.difference[2] for null in network.nulls}
    assert medians["easy"] == pytest.approx(0.9)
    assert medians["hard"] == pytest.approx(np.median([0.5, 0.4, 0.0, -0.1]))
    assert network.detectable == pytest.approx(np.median(judged.outcomes["network"].detectable[made]))


def test_kept_is_the_frequency_of_the_same_answer():
    judged, found = reports(network={"spectrum_reinit": contrast([0.5, 0.5, -0.5, -0.5])})
    outcome = judged.outcomes["network"]
    expected = np.mean([*outcome.frequency[:2], *(1 - outcome.frequency[2:])])
    assert found["network"].kept == pytest.approx(expected)
    assert 0.5 < found["network"].kept <= 1


def test_every_difference_is_in_a_bar_of_its_answer_however_far_out():
    difference = np.concatenate([np.linspace(0.3, 0.6, 200), np.linspace(-0.1, 0.0, 200), [1e6]])
    _, found = reports(network={"spectrum_reinit": contrast(difference)})
    bars = dict(found["network"].differences)
    assert {answer: sum(histogram.counts) for answer, histogram in bars.items()} == {
        "yes": 201,
        "no": 200,
        "unknown": 0,
    }
    edges = {histogram.edges for histogram in bars.values()}
    assert len(edges) == 1
    assert max(next(iter(edges))) < 1
