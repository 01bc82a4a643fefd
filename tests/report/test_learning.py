"""What the learning curves say in words, for one site and for several."""

import pytest

from polyseme.report import learning
from polyseme.report.headlines import headlines
from polyseme.report.html.render import render
from tests.report.fixture import LEARNED, bare_report, one_site, sample_report


def test_the_sentence_of_a_site_has_its_figures_and_what_they_say():
    first = sample_report(per_status=0).dictionaries[0]
    assert learning.sentence(first) == (
        "Before the learning rate falls, the share of latents that recur in another seed is 10.0% at 240k tokens, "
        "18.0% at 480k tokens, 24.3% at 960k tokens. The last doubling changed it by +6.30 pp [+5.30, +7.30], "
        "and the mean best match by +0.0630 [+0.0530, +0.0730]. Recurrence is still rising: more training tokens would "
        "change verdicts."
    )


@pytest.mark.parametrize(("i", "says"), list(enumerate(said for said, *_ in LEARNED)))
def test_each_site_says_what_its_own_figures_say(i: int, says: str):
    assert learning.outcome(sample_report(per_status=0).dictionaries[i]) == says


@pytest.mark.parametrize(
    ("share", "match", "says"),
    [
        ("flat", "flat", "flat"), ("flat", "rising", "rising"), ("open", "rising", "rising"), ("flat", "open", "open"),
        ("falling", "flat", "falling"),
    ],
)  # fmt: skip
def test_flat_needs_both_figures(share: str, match: str, says: str):
    first = sample_report(per_status=0).dictionaries[0]
    outcomes = {"recurring_change": share, "recurring_match_change": match}
    records = [
        one.model_copy(update={"details": {**one.details, "outcome": outcomes[one.name]}}) if one.details else one
        for one in first.learning
    ]
    assert learning.outcome(first.model_copy(update={"learning": tuple(records)})) == says


def test_the_headline_of_several_sites_groups_them_by_what_they_say():
    text = learning.headline(sample_report(per_status=0))
    places = [text.index(part) for part in ("still rising", "known too poorly", "flat: twice")]
    assert places == sorted(places)
    assert text in headlines(sample_report(per_status=0))


def test_one_site_says_its_sentence_and_none_says_nothing():
    report = one_site()
    assert learning.headline(report) == learning.sentence(report.dictionaries[0])
    assert learning.headline(bare_report()) == learning.sentence(bare_report().dictionaries[0]) == ""
    assert "Not measured: it takes three seeds" in render(bare_report())
