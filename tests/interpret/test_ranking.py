"""The latents worth showing, and what a report says about itself."""

import math
from pathlib import Path

import pytest

from polyseme.core.errors import InputError
from polyseme.core.numbers import count, duration, interval, memory, percent, short, signed
from polyseme.core.records import Evidence, Interval, Status, Verdict
from polyseme.interpret.ranking import Candidate, evidence_strength, most_telling
from polyseme.report.headlines import headlines
from polyseme.report.schema import StudyReport
from polyseme.report.words import gap_of, metric_name, value_of
from tests.report.fixture import bare_report, record, sample_report


def evidence(name: str, low: float, high: float, passed: bool, null: float = 0.0) -> Evidence:
    bounds = Interval(low=low, high=high)
    return Evidence(name=name, effect=(low + high) / 2, interval=bounds, null=null, n=10, passed=passed)


def candidate(
    latent: int,
    status: Status,
    effect: float = 1,
    margin: float = 1,
    *,
    site: str = "a",
    passed: str = "em",
    density: float = 0.1,
    documents: int = 5,
) -> Candidate:
    verdict = Verdict(
        status=status,
        evidence=(
            evidence("causal_effect", effect, effect + 1, "e" in passed),
            evidence("model_specificity/gaussian", margin, margin + 1, "m" in passed),
        ),
    )
    return Candidate(site, latent, verdict, density, documents)


def ids(found: tuple) -> list[int]:
    return [t.candidate.latent for t in found]


def test_strength_is_the_standardised_lower_bound():
    assert evidence_strength(evidence("x", 1.0, 1.0 + 2 * 1.96, True)) == pytest.approx(1.0)
    assert evidence_strength(evidence("x", 1.0, 1.0 + 2 * 1.96, True, null=0.4)) == pytest.approx(0.6)
    assert evidence_strength(None) == -math.inf
    assert evidence_strength(Evidence(name="x", effect=1, n=3, passed=True)) == -math.inf
    assert evidence_strength(evidence("x", math.nan, math.nan, False)) == -math.inf


def test_the_weaker_test_ranks_the_supported():
    found = most_telling([candidate(1, "supported", 9, 0.1), candidate(2, "supported", 3, 3)], 50)
    assert ids(found["supported"]) == [2, 1]
    assert ids(found["mixed"]) == []


def test_mixed_shows_both_kinds_in_turn():
    rows = [candidate(i, "mixed", i, 0, passed="e") for i in (1, 2, 3)]
    rows += [candidate(i, "mixed", 0, i, passed="m") for i in (11, 12)]
    found = most_telling(rows, 4)["mixed"]
    assert ids(found) == [3, 12, 2, 11]
    assert "not shown to be specific" in found[0].why
    assert "not shown to have a causal effect" in found[1].why


def test_the_control_like_and_the_dense_take_turns_without_repeats():
    like: Status = "indistinguishable_from_control"
    rows = [candidate(i, like, 0, i, passed="", density=i / 10) for i in range(4)]
    assert ids(most_telling(rows, 50)[like]) == [0, 3, 1, 2]


def test_sites_take_turns_and_the_number_is_kept():
    rows = [candidate(i, "insufficient_data", site="a", documents=i) for i in range(60)]
    rows += [candidate(i, "insufficient_data", site="b", documents=0) for i in range(2)]
    found = most_telling(rows, 50)["insufficient_data"]
    assert len(found) == 50
    assert [(t.candidate.site, t.candidate.latent) for t in found[:5]] == [
        ("a", 59),
        ("b", 0),
        ("a", 58),
        ("b", 1),
        ("a", 57),
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
    # 812 + 722 + 632 supported, 377 mixed and 301 + 371 + 441 like a control; 190 + 368 a site are not judged.
    assert "2,166 of 4,410 judged latents (49%) are supported" in text
    assert "1,674 latents were not judged" in text
    assert "calls 3.1% (95% interval 1.8% to 4.7%) of 512 non-features supported" in text
    assert "at 3 of 3 sites a control is reconstructed better" in text
    assert "from 2.95 to 3.42 nats/token" in text
    assert "With every site patched the 3.9 M model predicts like a 0.6 M one." in text
    assert "nan" not in text.lower().replace("finan", "")


def test_headlines_name_the_loss_that_was_tested():
    report = sample_report(per_status=1)
    observed = report.model_copy(update={"statistic": "ce"})
    alone = [
        d.model_copy(update={"verdict_counts": {"insufficient_data": 9}, "tests": (("causal_effect", 4, 9),)})
        for d in report.dictionaries[:1]
    ]
    for one, removing, latents in (
        (
            report,
            "removing them changes the predictions more than",
            "latents change the predictions more than a random",
        ),
        (
            observed,
            "removing them raises the loss of the actual next token more than",
            "latents raise the loss of the actual next token more than a random",
        ),
    ):
        assert removing in headlines(one)[0]
        said = headlines(one.model_copy(update={"dictionaries": tuple(alone)}))
        assert any(latents in line for line in said)


def test_headlines_of_an_empty_study_claim_nothing():
    assert headlines(bare_report()) == ("No latent was judged.",)
    none = sample_report(per_status=0)
    counts = {"supported": 0, "mixed": 3, "insufficient_data": 7}
    none = none.model_copy(
        update={
            "dictionaries": tuple(
                d.model_copy(update={"verdict_counts": counts, "verdicts_missing": {"of that": 1, "of this": 6}})
                for d in none.dictionaries
            ),
            "calibration": None,
        }
    )
    first = headlines(none)[0]
    assert first.startswith(
        "None of 9 judged latents is supported. 1,125 latents were not judged (18: of this; 3: of that)."
    )
    assert "The rate of false positives of this procedure was not measured." in headlines(none)


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
    assert metric_name("model_specificity/gaussian") == "Model-specificity / gaussian"
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


def test_an_encoder_is_told_what_could_be_tested():
    """No causal test, so no verdict; the headline has what model-specificity says."""
    report = sample_report(per_status=0)
    dictionaries = tuple(
        d.model_copy(
            update={
                "verdict_counts": {"insufficient_data": 1022},
                "verdicts_missing": {"no causal effect: the network does not predict the next token": 1022},
                "n_not_judged": 0,
                "tests": (("causal_effect", 0, 0), ("model_specificity", 188, 1000)),
            }
        )
        for d in report.dictionaries[:1]
    )
    said = headlines(report.model_copy(update={"dictionaries": dictionaries}))
    assert said[0] == "No latent was judged (no causal effect: the network does not predict the next token)."
    assert said[1] == (
        "One test alone says: 188 of 1,000 latents are matched better by another seed's dictionary than by any "
        "control's dictionary, by at least the FDR threshold."
    )
    assert "planted" not in " ".join(said)  # no rate of a procedure that was not run


def test_a_rate_is_quoted_with_its_controls_and_the_kind_it_is_worst_for():
    report = sample_report(per_status=0)
    assert report.calibration is not None
    rate = report.calibration.false_positive_rate
    worse = rate.model_copy(update={"value": 0.986, "n": 139, "interval": None})
    calibration = report.calibration.model_copy(
        update={"controls": ("gaussian_reinit", "spectrum_reinit"), "by_kind": (("statistics of the input", worse),)}
    )
    text = "\n".join(headlines(report.model_copy(update={"calibration": calibration})))
    assert "with the controls gaussian_reinit, spectrum_reinit calls 3.1%" in text
    assert "among statistics of the input, 99% of 139" in text
    nobody = calibration.model_copy(update={"counts": (("features", {"insufficient_data": 240}),)})
    text = "\n".join(headlines(report.model_copy(update={"calibration": nobody})))
    assert "judges no latent, so its error rates are not known" in text
    why = {"calibration": None, "calibration_missing": "it differs from the calibrated ones (verdicts.alpha 0.1)"}
    text = "\n".join(headlines(report.model_copy(update=why)))
    assert "was not measured: it differs from the calibrated ones (verdicts.alpha 0.1)." in text
