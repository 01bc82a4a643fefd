"""The page: what it shows, and that hostile text stays text."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme.core.errors import InputError
from polyseme.core.records import AXES, STATUSES, AxisResult, Evidence, Interval
from polyseme.interpret.records import Context, Histogram
from polyseme.nulls import NullConfig
from polyseme.report.html import charts, render, svg, write_report
from polyseme.report.html.svg import SHAPES, Frame, Scale, legend, nice_ticks, tag, tick_labels
from polyseme.report.profiles import SIZE_NAMES, STATUS_LINES, STATUS_SIGNS
from polyseme.report.schema import StudyReport
from polyseme.studies.config import StudyConfig
from tests.report.fixture import HOSTILE, MISSING, NO_EFFECTS, NULLS, bare_report, encoder, one_site, sample_report

VOID = {"meta", "link", "input", "br", "img", "wbr"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; raises where a tag is left open or closed twice."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text += data


@pytest.fixture(scope="module")
def hostile() -> str:
    return render(sample_report(per_status=2, hostile=True))


def test_hostile_text_makes_no_element_and_no_attribute(hostile: str):
    page = Page(hostile)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "img", "iframe", "object", "embed", "base", "form", "a:href"}
    plain = Page(render(sample_report(per_status=2)))
    assert names == {name for name, _ in plain.elements}
    for name, attributes in page.elements:
        assert not [a for a in attributes if a.startswith("on")]
        for key in ("href", "src"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:image/svg+xml,")), (name, value)
    assert sum(name == "style" for name, _ in page.elements) == 1


def test_hostile_text_is_shown_as_text(hostile: str):
    text = Page(hostile).text
    assert "<script>alert(1)</script>" in text
    assert "{{ 7*7 }}" in text
    assert "⟨U+202E⟩gnp.exe" in text
    assert "␛[31;1mred" in text
    assert not re.search(
        "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", hostile
    )


def test_the_policy_forbids_scripts_and_the_network(hostile: str):
    policy = next(a["content"] for n, a in Page(hostile).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert {"default-src 'none'", "script-src 'none'", "base-uri 'none'"} <= set(policy.split("; "))


def test_the_page_says_what_the_study_found():
    text = " ".join(Page(render(sample_report(per_status=2))).text.split())
    for expected in (
        *(
            "336 of 6,144 latents",
            "Called network feature",
            "like a 0.6 M one",
            "all sites jointly",
            "the control is better",
        ),
        *("FVU of a token look-up", "not measured", "20,480 tokens", "with local changes", "random firings"),
    ):
        assert expected in text, expected
    assert "nan" not in re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            [
                "has no control",
                "One seed only",
                "Splicing was not run",
                "The procedure of this study was not run on planted networks",
                "not measured",
            ],
        ),
        ({"dictionaries": ()}, ["No latent was judged"]),
        ({"faithfulness": sample_report(per_status=0).faithfulness}, ["Interaction"]),
    ],
)
def test_missing_parts_are_named(changes: dict, said: list[str]):
    text = " ".join(Page(render(bare_report(**changes))).text.split())
    for sentence in said:
        assert sentence in text, sentence


def test_one_site_has_no_joint_figure():
    full = sample_report(per_status=0)
    assert full.faithfulness is not None
    single = full.faithfulness.model_copy(
        update={"single": full.faithfulness.single[:1], "joint": None, "interaction": None, "ladder": ()}
    )
    page = render(bare_report(faithfulness=single))
    assert "One site only, so there is no joint figure" in page
    assert 'name="site"' not in page  # no filter with nothing to choose


def test_with_one_site_nothing_is_shown_twice():
    text = " ".join(Page(render(one_site())).text.split())
    assert "all sites jointly" not in text
    assert "no joint figure is shown beside its own" in text
    assert text.count("CE recovered over mean-ablation") == 1
    several = " ".join(Page(render(sample_report(per_status=0))).text.split())
    assert "no joint figure" not in several


def test_what_an_encoder_cannot_be_measured_on_is_one_sentence_and_no_chart():
    html = render(encoder())
    text = " ".join(Page(html).text.split())
    why = "the network sees later tokens, so it has no next-token prediction"
    assert f"What reconstructions cost was not measured: {why}." in text
    assert f"Not measured, as {why}: CE recovered over mean-ablation." in text
    assert f"Used: no latent has an answer ({NO_EFFECTS})." in text
    labels = [a["aria-label"] or "" for _, a in Page(html).elements if "chart" in (a.get("class") or "").split()]
    assert not [label for label in labels if label.startswith(("Cross-entropy", "CE recovered", "used at"))]
    assert any(label.startswith("FVU at") for label in labels)
    assert any(label.startswith("recurrent at") for label in labels)


def card(status: str) -> str:
    """The text of the card of the one latent with a word."""
    full = sample_report(per_status=1)
    latents = tuple(latent for latent in full.latents if latent.verdict.status == status)
    assert len(latents) == 1
    [found] = re.findall(
        '<details class="latent.*?</details>', render(full.model_copy(update={"latents": latents})), re.S
    )
    return " ".join(Page(found).text.split())


def test_a_card_shows_the_answer_of_every_axis_with_every_null_and_the_sizes_of_effect():
    text = card("token_level")
    for said in (
        *("✓ recurrent: yes", "✓ the network's: yes", "✗ beyond tokens: not shown", "✓ used: yes"),
        *(null for axis in AXES for null in NULLS[axis]),
        *SIZE_NAMES.values(),
        *(f"{STATUS_LINES['token_level']}.", "It is expected to get the same word in ", "[31%, 100%] of repetitions."),
        *("yes expected in 93% [66%, 99%] of repetitions", "each difference must exceed 0.05"),
    ):
        assert said in text, said
    assert text.count("the hardest") == len(AXES)
    assert "What is missing" not in text


def test_an_axis_without_an_answer_says_why_and_is_neither_passed_nor_failed():
    text = card("undecided")
    assert f"What is missing: {MISSING}." in text
    assert f"– the network's: no answer {MISSING}" in text
    assert "✗ the network's" not in text
    assert "✓ the network's" not in text


def test_sentences_of_what_a_study_lacks_are_left_out():
    full = sample_report(per_status=1)
    text = " ".join(Page(render(full)).text.split())
    for sentence in ("the sites taking turns", "Where the token was sampled", "Whiskers are 95% intervals"):
        assert sentence in text
    blind = tuple(
        x.model_copy(
            update={"contexts": tuple(c.model_copy(update={"loss_effects": (), "kl_effects": ()}) for c in x.contexts)}
        )
        for x in full.latents
    )
    assert "Where the token was sampled" not in Page(render(full.model_copy(update={"latents": blind}))).text
    assert "taking turns" not in Page(render(one_site())).text


def test_every_shipped_control_has_its_own_line():
    n = sum(2 if "keep_embeddings" in control.model_fields else 1 for control in get_args(get_args(NullConfig)[0]))
    classes = [charts.control_class(i) for i in range(n)]
    assert len(set(classes)) == n
    css = render(bare_report())
    for i in range(n):
        assert css.count(f"--c{i}:#") == 2  # in light and in dark


def test_a_word_that_no_latent_has_is_said_to_be_nobodys():
    full = sample_report(per_status=1)
    report = full.model_copy(
        update={
            "dictionaries": tuple(
                d.model_copy(update={"verdict_counts": {"token_level": 5}}) for d in full.dictionaries
            ),
            "latents": tuple(x for x in full.latents if x.verdict.status == "token_level"),
        }
    )
    text = " ".join(Page(render(report)).text.split())
    assert "None of 15 latents is a network feature" in text
    assert "No latent of this study is a network feature" in text
    assert "No latent of this study is use not shown" not in text
    assert "No latent of this study has the word “use not shown”" in text


def test_everything_not_measured_still_renders():
    measured = {
        *("value", "null_value", "low", "high", "least", "p", "p_corrected", "frequency", "detectable", "kept"),
        *("difference", "edges", "counts", "gap", "x", "y"),
    }

    def blank(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {k: blank(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [blank(v, key) for v in value]
        return None if key in measured and not isinstance(value, bool) else value

    values = blank(json.loads(sample_report(per_status=1).model_dump_json()))
    page = Page(render(StudyReport.model_validate(values)))
    assert "not measured" in page.text


def test_the_latents_of_a_study_stay_small():
    one = sample_report(per_status=1)
    two = sample_report(per_status=3)
    each = (len(render(two).encode()) - len(render(one).encode())) / (2 * len(STATUSES))
    assert len(render(one).encode()) + len(STATUSES) * StudyConfig().shown * each < 4e6


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_report(bare_report(), tmp_path / "report.html")
    before = path.read_bytes()
    assert before.startswith(b"<!doctype html>")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match="disk is full"):
        write_report(sample_report(per_status=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_tokens_are_grouped_and_coloured_by_their_share_of_the_greatest():
    context = Context(
        stratum="top",
        document="d",
        position=4,
        focus=3,
        tokens=("a", " b", "c", "d", "e", "\u202e"),
        activations=(math.nan, 0.0, 0.1, 6.0, 3.0, 0.0),
        loss_effects=(math.nan, math.nan, math.nan, 0.25, math.nan, math.nan),
        kl_effects=(math.nan, math.nan, math.nan, 0.031, 0.5, math.nan),
    )
    found = context.pieces(6.0)
    assert [(p.text, p.level, p.focus) for p in found] == [
        *(("a b", 0, False), ("c", 1, False), ("d", 6, True), ("e", 3, False), ("⟨U+202E⟩", 0, False)),
    ]
    assert [p.title for p in found[1:4]] == ["0.100", "6, ΔCE +0.25, KL 0.031", "3, KL 0.50"]
    assert [p.text for p in context.pieces(6.0, before=1, after=0)] == ["c", "d"]
    assert [p.level for p in context.pieces(0.0)] == [0, 0, 0]  # a greatest of 0 colours nothing


def test_effects_at_the_outlined_token_stand_in_columns_where_any_was_measured():
    report = sample_report(per_status=1)
    shown = report.latents[0].contexts[0]
    nothing = (math.nan,) * len(shown.tokens)

    def at_focus(effect: float) -> tuple[float, ...]:
        return tuple(effect if i == shown.focus else math.nan for i in range(len(shown.tokens)))

    def columns(*contexts: Context) -> tuple[str, list[str]]:
        latent = report.latents[0].model_copy(update={"contexts": contexts})
        html = render(report.model_copy(update={"latents": (latent,)}))
        body = html[html.index('<div class="contexts') : html.index('<div class="facts">')]
        return " ".join(Page(html).text.split()), re.findall('<span class="act"[^>]*>([^<]*)</span>', body)

    both = shown.model_copy(update={"loss_effects": at_focus(-0.125), "kl_effects": at_focus(0.02)})
    other = shown.model_copy(update={"loss_effects": nothing, "kl_effects": ()})
    text, cells = columns(both, other)
    active = cells[3]
    assert cells == ["active", "ΔCE", "KL", active, "−0.12", "0.020", active, "", ""]
    assert "ΔCE and KL in nats, blank where not measured" in text
    assert "the change expected" in text
    text, cells = columns(both.model_copy(update={"kl_effects": ()}))
    assert cells == ["active", "ΔCE", active, "−0.12"]
    assert "the change expected" not in text
    assert columns(other)[1] == [active]


def test_scales_and_ticks():
    scale = Scale(0, 10, 100, 200)
    assert [scale(v) for v in (0, 5, 10)] == [100, 150, 200]
    log = Scale(1, 100, 0, 100, log=True)
    assert log(10) == pytest.approx(50)
    assert [round(t, 9) for t in log.ticks()] == [1, 10, 100]
    assert Scale(3, 3, 0, 1)(3) == 0.5
    assert nice_ticks(0.112, 0.191, 4) == [0.12, 0.14, 0.16, 0.18]
    assert tick_labels([-0.05, 0.0, 0.05]) == ["−0.05", "0.00", "0.05"]
    assert nice_ticks(1, 1) == []
    rng = np.random.default_rng(0)
    for _ in range(200):
        low = float(rng.normal(0, 10 ** rng.uniform(-4, 4)))
        high = low + float(10 ** rng.uniform(-4, 4))
        ticks = nice_ticks(low, high)
        assert len(ticks) >= 2
        assert all(low - 1e-9 * abs(low) - 1e-9 <= t <= high + 1e-9 * abs(high) + 1e-9 for t in ticks)


def test_ticks_read_as_what_they_are():
    for low, high in ((0.112, 0.191), (2.9, 3.5), (0, 24), (-0.2, 0.6)):
        ticks = nice_ticks(low, high)
        assert [float(t.replace("−", "-")) for t in tick_labels(ticks)] == pytest.approx(ticks)


def test_svg_text_and_attributes_are_escaped():
    mark = tag("text", HOSTILE[0], title='"><script>')
    assert mark == '<text title="&#34;&gt;&lt;script&gt;">&lt;script&gt;alert(1)&lt;/script&gt;</text>'
    assert "<script" not in legend([("a", "dot", HOSTILE[0])])
    plot = Frame((0, 1)).whisker(0.5, 0, 1, "c", HOSTILE[0], "dot")
    drawn = svg.chart(HOSTILE[2], svg.strip(HOSTILE[0], plot), x=HOSTILE[0], y=HOSTILE[1])
    assert drawn.count("&lt;script&gt;alert(1)") == 3
    assert not {name for name, _ in Page(drawn).elements} & {"script", "img"}


def test_a_whisker_stands_where_its_numbers_say():
    drawn = Frame((0, 10), height=14).whisker(5, 2, 8, "trained", "t", "dot").svg()
    assert 'x1="20%" x2="80%" y1="7" y2="7"' in drawn
    assert '<use href="#dot" x="50%" y="7">' in drawn
    assert Frame((0, 1)).whisker(math.nan, 0, 1, "c", "t", "dot").marks == []


def test_what_lies_beyond_the_axes_points_out_of_them_from_the_edge():
    frame = Frame((0, 10), (0, 1))
    assert frame.mark(70, 3, "dot") == '<use href="#right" x="100%" y="3"></use>'
    assert frame.mark(-1, 3, "dot", small=True) == '<use href="#left-small" x="0%" y="3"></use>'
    assert "L" not in str(frame.line([(1, 0.5), (2, 7.0), (3, 0.5)], "s0").svg()).split(' d="')[1]
    symbols = str(svg.symbols())
    for shape in ("dot", "left", "right", *SHAPES):
        assert f'id="{shape}"' in symbols
        assert f'id="{shape}-small"' in symbols


def test_an_axis_leaves_out_the_few_values_that_would_squeeze_the_others():
    usual = [i / 100 for i in range(100)]
    assert svg.central([*usual, 4e9]) == usual
    assert svg.central([*usual, math.nan, math.inf, -1e301]) == usual
    spread = [1.5**i for i in range(40)]
    assert svg.central(spread) == spread
    assert svg.central([0.0] * 30 + [1.0]) == [0.0] * 30 + [1.0]
    assert svg.central([1.0, 2.0, 3e9]) == [1.0, 2.0, 3e9]


@given(
    low=st.floats(-1e6, 1e6),
    span=st.one_of(st.floats(1e-6, 1e6), st.floats(1e-3, 1.0)),
    pixels=st.floats(120, 900),
    log=st.booleans(),
)
def test_labels_of_ticks_never_touch(low: float, span: float, pixels: float, log: bool):
    low = abs(low) + 1e-6 if log else low
    scale = Scale(low, low + span, 0, 100, log=log)
    labels = scale.labels(6, pixels)
    ends = [
        (scale(t) * pixels / 100 - 3.7 * len(text), scale(t) * pixels / 100 + 3.7 * len(text)) for t, text in labels
    ]
    assert all(a[1] < b[0] for a, b in pairwise(ends))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.31, 0.99, "93% [31%, 99%] of repetitions"),
        (0.93, 0.93, "93% of repetitions"),
        (None, None, "93% of repetitions"),
    ],
)
def test_a_share_of_repetitions_has_its_interval_where_that_says_more(low: float, high: float, said: str):
    one = sample_report(per_status=1).latents[0]
    bounds = None if low is None else Interval(low=low, high=high)
    changed = one.verdict.model_copy(update={"frequency": 0.93, "frequency_interval": bounds})
    report = bare_report(latents=(one.model_copy(update={"verdict": changed}),))
    assert f"It is expected to get the same word in {said}." in " ".join(Page(render(report)).text.split())


def test_comparisons_at_a_glance_stand_on_one_scale_with_0_and_the_least_difference():
    bounds = Interval(low=0.2, high=0.5)
    one = Evidence(null="spectrum_reinit", value=0.8, null_value=0.4, interval=bounds, least=0.05)
    other = one.model_copy(update={"null": "gaussian_reinit", "null_value": 0.8, "interval": None})
    unmeasured = one.model_copy(update={"null": "permuted_weights", "value": math.nan})
    found = charts.glances(AxisResult(axis="network", answer="yes", evidence=(one, other, unmeasured)))
    places = {null: {k: int(v) for k, v in re.findall(r"--(\w):(\d+)%", style)} for null, style in found.items()}
    assert places.keys() == {"spectrum_reinit", "gaussian_reinit"}
    wide, narrow = places.values()
    assert (wide["z"], wide["l"]) == (narrow["z"], narrow["l"])
    assert wide["z"] < wide["l"] < wide["a"] < wide["v"] < wide["b"] <= 100
    assert narrow["a"] == narrow["v"] == narrow["b"] == narrow["z"]
    # 0 to 0.5 with room above: 0.4 stands at four fifths of where the upper end does.
    assert wide["v"] / wide["b"] == pytest.approx(0.8, abs=0.02)


def test_differences_show_every_answer_and_every_null():
    first = sample_report(per_status=0).dictionaries[0]
    for axis in AXES:
        drawn = str(charts.differences(first, axis))
        assert [f'class="answer {answer}"' in drawn for answer in ("yes", "no", "unknown")] == [True, True, False]
        assert all(null in Page(drawn).text for null in NULLS[axis])
        assert drawn.count('class="middle"') == len(NULLS[axis])
    few = first.axes[0].model_copy(update={"differences": ()})
    assert charts.differences(first.model_copy(update={"axes": (few,)}), "recurrent") is None
    assert charts.differences(first.model_copy(update={"axes": (few,)}), "used") is None


def test_the_bars_of_the_answers_are_stacked():
    histogram = {"edges": (0.0, 1.0, 2.0), "label": "x"}
    part = (
        sample_report(per_status=0)
        .dictionaries[0]
        .axes[0]
        .model_copy(
            update={
                "differences": tuple(
                    (answer, Histogram(counts=counts, **histogram))
                    for answer, counts in (("yes", (0.0, 3.0)), ("no", (4.0, 1.0)), ("unknown", (0.0, 0.0)))
                ),
                "nulls": (),
            }
        )
    )
    dictionary = sample_report(per_status=0).dictionaries[0].model_copy(update={"axes": (part,)})
    paths = re.findall('<path class="answer (\\w+)" d="([^"]*)"', str(charts.differences(dictionary, "recurrent")))
    assert [answer for answer, _ in paths] == ["no", "yes"]  # the last one lies on top
    tops = {answer: [float(v) for v in re.findall("V([0-9.]+)H", d)] for answer, d in paths}
    height = max(float(v) for _, d in paths for v in re.findall("V([0-9.]+)Z", d))
    assert len(tops["yes"]) == 1
    assert (height - tops["yes"][0]) / (height - tops["no"][1]) == pytest.approx(3 / 4, abs=0.01)


def test_charts_without_data_are_none():
    bare = bare_report().dictionaries[0]
    assert charts.differences(bare, "network") is None
    assert charts.density(bare) is None
    assert charts.activation_histogram(None) is None
    assert charts.activation_histogram(Histogram(edges=(0, 1), counts=(0,))) is None


def test_every_word_has_its_own_sign_and_its_own_colour_in_light_and_in_dark():
    assert len(set(STATUS_SIGNS.values())) == len(STATUSES)
    css = render(bare_report())
    names = [re.findall(rf"\.v-{status}\{{--v:var\(--(\w+)\)\}}", css) for status in STATUSES]
    assert all(len(found) == 1 for found in names)
    for theme in (0, 1):
        colours = {re.findall(rf"--{name}:(#\w+)", css)[theme] for [name] in names}
        assert len(colours) == len(STATUSES)
