"""The latents worth showing, and what a report says about itself."""

import math
from pathlib import Path

import pytest

from polyseme.core.errors import InputError
from polyseme.core.numbers import count, duration, interval, memory, percent, plain, short, signed
from polyseme.core.records import DECIDED, STATUSES, Interval, MetricRecord, Status
from polyseme.interpret.ranking import Candidate, most_telling
from polyseme.report.headlines import headlines, reasons
from polyseme.report.profiles import RULE_AXES, RULE_LINES, asked
from polyseme.report.schema import StudyReport
from polyseme.report.words import gap_of, metric_name, value_of
from tests.report.fixture import ANSWERS, JUDGING, MISSING, NO_EFFECTS, bare_report, encoder, record, sample_report


def candidate(
    latent: int,
    status: Status,
    frequency: float = 0.9,
    *,
    site: str = "a",
    documents: int = 5,
    missing: str = "",
) -> Candidate:
    return Candidate(site, latent, status, missing, frequency, documents)


def ids(found: tuple) -> list[int]:
    return [t.candidate.latent for t in found]


@pytest.mark.parametrize("status", DECIDED)
def test_the_most_stable_of_a_word_come_first_and_of_those_the_ones_seen_most(status: Status):
    rows = [
        *(candidate(1, status, 0.5, documents=99), candidate(2, status, 0.9), candidate(3, status, 0.9, documents=7)),
        candidate(4, status, math.nan, documents=500),
    ]
    found = most_telling(rows, 50)
    assert ids(found[status]) == [3, 2, 1, 4]
    assert found[status][0].why == "a repetition is most likely to give it the same word: no. 1 at this site"
    assert all(not found[other] for other in STATUSES if other != status)


def test_what_the_undecided_lack_takes_turns():
    rows = [candidate(i, "undecided", documents=i, missing="power") for i in (1, 2, 3)]
    rows += [candidate(i, "undecided", documents=i, missing="documents") for i in (11, 12)]
    found = most_telling(rows, 4)["undecided"]
    assert ids(found) == [3, 12, 2, 11]
    assert found[1].why == "of those that lack the same, it fires in most documents: no. 1 at this site"


def test_sites_take_turns_and_the_number_is_kept():
    rows = [candidate(i, "token_level", site="a", documents=i) for i in range(60)]
    rows += [candidate(i, "token_level", site="b", documents=0) for i in range(2)]
    found = most_telling(rows, 50)["token_level"]
    assert len(found) == 50
    assert [(t.candidate.site, t.candidate.latent) for t in found[:5]] == [
        *(("a", 59), ("b", 0), ("a", 58), ("b", 1), ("a", 57)),
    ]


def test_a_report_survives_json(tmp_path: Path):
    report = sample_report(per_status=1, hostile=True)
    path = tmp_path / "report.json"
    report.save(path)
    again = StudyReport.load(path)
    assert again.model_dump_json() == report.model_dump_json()
    assert math.isnan(again.dictionaries[0].metrics[-2].value)
    assert "NaN" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "[]", '{"title": 3}', "\x00"])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"not a report|not the JSON|not the record"):
        StudyReport.load(path)


def test_another_schema_version_is_refused(tmp_path: Path):
    path = tmp_path / "report.json"
    bare_report(schema_version=99).save(path)
    with pytest.raises(InputError, match="schema version 99"):
        StudyReport.load(path)


def test_headlines_say_what_was_found():
    text = "\n".join(headlines(sample_report(per_status=1)))
    # 142 + 112 + 82 network features of three dictionaries of 2,048; 480 of 630 undecided fire in too few documents.
    assert "336 of 6,144 latents (5.5%) are network features: every axis says yes." in text
    assert "token-level 1,131, use not shown 1,113, not shown beyond nulls 864, not shown recurrent 2,070" in text
    assert f"undecided 630 (480: {MISSING}; 150: no value" in text
    # (336·0.91 + 1131·0.84 + 1113·0.80 + 864·0.77 + 2070·0.95) / 5514
    assert (
        "87% of the 5,514 latents with a word would be expected to keep it, and 91% of the 336 network features" in text
    )
    assert "Recurrent: yes for 2,436, not shown for 3,108, no answer for 600. Yes means that" in text
    assert f"No axis has an answer for 600 latents ({MISSING})." in text
    assert text.count(MISSING) == 2  # once for the words and once for the axes
    assert "87% [86%, 90%] of 240 features; of the 2 kinds that are not features, at most 1.4% [0.20%, 4.5%]" in text
    assert "at 3 of 3 sites a control is reconstructed better" in text
    assert "from 2.95 to 3.42 nats/token" in text
    assert "With every site patched the 3.9 M model predicts like a 0.6 M one." in text
    assert "nan" not in text.lower().replace("finan", "")


def test_a_reason_stands_without_its_number_only_where_it_is_that_of_all():
    assert reasons({"few": 3}) == reasons({"few": 3}, of=3) == " (few)"
    assert reasons({"few": 1}, of=3) == " (1: few)"
    assert reasons({}, of=3) == ""


def test_an_axis_says_what_it_was_compared_with_in_this_study():
    said = {axis: asked(axis, JUDGING) for axis in ("recurrent", "network", "beyond_tokens", "used")}
    assert "the dictionaries of 2 other seeds" in said["recurrent"]
    assert "more than 0.7 and more than that of 95% of random directions that fire as often" in said["recurrent"]
    assert "explains more than 70% of the variance of it" in said["recurrent"]
    assert said["network"].endswith(
        "by more than 0.05, than that from the dictionaries of spectrum_reinit or gaussian_reinit+embeddings, 2 draws "
        "each"
    )
    assert said["beyond_tokens"].endswith("than a table of token, previous token, bigram or position does")
    assert "at up to 16 of its firings" in said["used"]
    assert "more than removing null directions of equal norm does (3 each: isotropic, covariance," in said["used"]
    text = JUDGING.nulls[0].model_copy(update={"name": "unigram_tokens", "targets": "tokens", "draws": 1})
    other = JUDGING.model_copy(
        update={"partners": (4,), "margin": 0.1, "nulls": (JUDGING.nulls[0].model_copy(update={"draws": 5}), text)}
    )
    assert "from the dictionary of 1 other seed" in asked("network", other)
    assert asked("network", other).endswith(
        "more than 0.1, than that from the dictionaries of spectrum_reinit, 5 draws"
    )
    assert asked("beyond_tokens", other).endswith("a table of token, previous token, bigram or position does")


def test_a_site_where_most_latents_have_no_answer_is_named():
    report = sample_report(per_status=0)
    first = report.dictionaries[0]
    axes = tuple(
        part.model_copy(update={"yes": 3, "no": 5, "unknown": 2040, "missing": {"no power": 2040}})
        if part.axis == "beyond_tokens"
        else part
        for part in first.axes
    )
    changed = report.model_copy(
        update={"dictionaries": (first.model_copy(update={"axes": axes}), *report.dictionaries[1:])}
    )
    said = "At blocks.0.resid_post the axis beyond tokens answers for 8 of 2,048 latents only (no power)."
    assert said in headlines(changed)
    assert not any(line.startswith("At ") for line in headlines(report))


def test_headlines_of_an_empty_study_claim_nothing():
    assert headlines(bare_report()) == ("No latent was judged.",)
    none = sample_report(per_status=0)
    counts = {"use_not_shown": 3, "undecided": 7}
    none = none.model_copy(
        update={
            "dictionaries": tuple(
                d.model_copy(update={"verdict_counts": counts, "verdicts_missing": {"of that": 1, "of this": 6}})
                for d in none.dictionaries
            ),
            "calibration": None,
        }
    )
    assert headlines(none)[0] == (
        "None of 30 latents is a network feature. Words of the others: use not shown 9, undecided 21 (18: of this; "
        "3: of that)."
    )
    assert "How often this procedure errs was not measured on planted networks." in headlines(none)


def test_one_network_feature_is_one():
    report = sample_report(per_status=0)
    one = report.dictionaries[0].model_copy(update={"verdict_counts": {"network_feature": 1, "token_level": 14}})
    assert headlines(report.model_copy(update={"dictionaries": (one,)}))[0].startswith(
        "1 of 15 latents (6.7%) is a network feature: every axis says yes. Words of the others: token-level 14."
    )


def test_a_study_that_decides_no_latent_says_why():
    report = sample_report(per_status=0)
    dictionaries = tuple(
        d.model_copy(update={"verdict_counts": {"undecided": 9}, "verdicts_missing": {"no second seed": 9}, "axes": ()})
        for d in report.dictionaries[:1]
    )
    said = headlines(report.model_copy(update={"dictionaries": dictionaries}))
    assert said[0] == "All 9 latents are undecided (no second seed)."
    assert "planted" not in " ".join(said)  # no rate of a procedure that was not run
    assert "expected to keep" not in " ".join(said)


def test_an_axis_without_any_answer_says_why_and_nothing_else():
    said = [line for line in headlines(encoder()) if line.startswith("Used")]
    assert said == [f"Used: no latent has an answer ({NO_EFFECTS})."]


def test_the_table_from_profile_to_word_is_that_of_the_words():
    assert RULE_AXES == ("recurrent", "network", "used", "beyond_tokens")
    for answers, status in RULE_LINES:
        given = dict(zip(("recurrent", "network", "beyond_tokens", "used"), ANSWERS[status], strict=True))
        shown = {"yes": "yes", "no": "not shown", "unknown": "no answer"}
        for axis, answer in zip(RULE_AXES, answers, strict=True):
            assert answer in ("any", shown[given[axis]])
    assert [status for _, status in RULE_LINES[-1:]] == ["network_feature"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.1434, "0.143"), (12.54, "12.5"), (24.0, "24"), (0.09996, "0.100"), (12_345, "12.3k"), (3.9e6, "3.90M")),
        *((-0.02, "−0.0200"), (0, "0"), (math.nan, "not measured"), (math.inf, "∞"), (2.1e-7, "2.1e−7")),
    ],
)
def test_numbers_are_short(value: float, text: str):
    assert short(value) == text


def test_other_numbers():
    assert (signed(0.5), signed(-0.5), signed(0.0)) == ("+0.500", "−0.500", "0")
    assert (count(1234567), count(math.nan)) == ("1,234,567", "not measured")
    assert (percent(0.0312), percent(0.97, 3), percent(0.0), percent(1.0, 3)) == ("3.1%", "97.0%", "0%", "100%")
    assert interval(Interval(low=-0.1, high=0.2), sign=True) == "[−0.100, +0.200]"
    assert (interval(None), interval(Interval(low=math.nan, high=1))) == ("", "")
    assert [duration(s) for s in (0.25, 42, 318.4, 7260, math.nan)] == [
        "0.2 s",
        "42 s",
        "5 min 18 s",
        "2 h 01 min",
        "not measured",
    ]
    assert (memory(2.5 * 2**30), memory(2**20)) == ("2.50 GiB", "1 MiB")
    assert [plain(v) for v in (0.05, 0.7, 20, 1.0, 0.0)] == ["0.05", "0.7", "20", "1", "0"]
    assert metric_name("never_heard_of") == "Never heard of"
    assert value_of(record("ce_recovered", 0.977)) == "97.7%"
    assert gap_of(-0.12, record("ce_recovered", 0.9)) == "−12 pp"
    assert gap_of(-0.12, record("fvu", 0.9)) == "−0.120"


def test_headlines_claim_no_difference_where_an_interval_holds_zero():
    report = sample_report(per_status=0)
    faithfulness = report.faithfulness
    assert faithfulness is not None
    assert faithfulness.interaction is not None
    wide = Interval(low=-1, high=1)
    comparisons = tuple(
        c.model_copy(update={"controls": tuple(k.model_copy(update={"gap_interval": wide}) for k in c.controls)})
        for c in report.comparisons
    )
    interaction = faithfulness.interaction.model_copy(update={"interval": wide})
    faithfulness = faithfulness.model_copy(update={"interaction": interaction})
    text = "\n".join(headlines(report.model_copy(update={"comparisons": comparisons, "faithfulness": faithfulness})))
    assert "no difference is shown from what the sites one at a time add up to" in text
    assert "By FVU alone the trained network is not shown to differ from every control." in text
    assert "would mislead" not in text


def test_a_rate_is_quoted_with_its_nulls_and_the_kind_it_is_worst_for():
    report = sample_report(per_status=0)
    assert report.calibration is not None
    text = "\n".join(headlines(report))
    assert "On 12 planted networks, judged as here against gaussian_reinit, spectrum_reinit, these are called" in text
    assert "of 139 statistics of the input. All kinds are under Method." in text
    assert "half of a feature" not in text  # neither right nor wrong
    unmeasured = MetricRecord(name="called_network_feature", value=math.nan, n=0)
    kinds = tuple(
        k.model_copy(update={"called": unmeasured}) if k.name == "statistics of the input" else k
        for k in report.calibration.kinds
    )
    fewer = report.calibration.model_copy(update={"kinds": kinds})
    text = "\n".join(headlines(report.model_copy(update={"calibration": fewer})))
    assert "of 240 features; 0% [0%, 3.1%] of 300 latents of random directions. All" in text
    why = {"calibration": None, "calibration_missing": "it differs from the calibrated ones (verdicts.alpha 0.1)"}
    text = "\n".join(headlines(report.model_copy(update=why)))
    assert (
        "errs was not measured on planted networks: it differs from the calibrated ones (verdicts.alpha 0.1)." in text
    )
