"""Tables and records in a notebook: hostile text is text, in the HTML and in the terminal, and nothing is lost."""

from dataclasses import dataclass
from html.parser import HTMLParser
from math import nan
from typing import Any

import numpy as np
import pytest

from polyseme.core import html
from polyseme.core.errors import InputError
from polyseme.core.table import PAGE, PREVIEW, Table
from polyseme.interpret.records import SHOWN, Context, LatentReport, Records, TokenWeight
from tests.report.fixture import HOSTILE, latent_report

ALLOWED = {"div", "span", "b", "bdi", "table", "thead", "tbody", "tr", "th", "td"}


class Parsed(HTMLParser):
    """The text of a fragment; any element or attribute that ours do not have fails."""

    def __init__(self, fragment: str):
        super().__init__()
        self.text, self.titles, self.open = "", "", []
        self.feed(fragment)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= {"style", "title"}
        self.titles += "".join(value or "" for name, value in attrs if name == "title")
        assert not any("url(" in (value or "") or "import" in (value or "") for name, value in attrs if name == "style")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")


@dataclass(frozen=True, repr=False)
class Things(Table):
    """Any."""

    row = "Thing"

    @property
    def title(self) -> str:
        return f"{len(self)} things"


def things(**columns: Any) -> Things:
    return Things({name: np.array(values, dtype=object) for name, values in columns.items()})


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_in_a_table_is_text(evil: str):
    table = things(name=[evil, "x"], value=[1.5, nan])
    shown = Parsed(table._repr_html_())
    assert html.visible(evil, limit=400) in shown.text
    assert "1.50" in shown.text
    assert "–" in shown.text
    hidden = {"\x1b", "\u202e", "\u200b", "\x00", "\x07"}
    assert not hidden & set(table._repr_html_())
    assert not hidden & set(repr(table))


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_in_a_latents_card_is_text(evil: str):
    latent = latent_report(np.random.default_rng(0), "blocks.0", 3, "network_feature", hostile=True)
    context = latent.contexts[0].model_copy(update={"document": evil, "tokens": (evil, "b"), "activations": (2.0, 0.0)})
    context = context.model_copy(update={"focus": 0, "loss_effects": (0.5, nan), "kl_effects": ()})
    latent = latent.model_copy(
        update={
            "site": evil,
            "contexts": Records([context]),
            "top_tokens": (TokenWeight(token=evil, value=1.0),),
            "verdict": latent.verdict.model_copy(update={"missing": evil}),
        }
    )
    for shown in (latent, context, latent.contexts):
        parsed = Parsed(shown._repr_html_())
        assert html.visible(evil) in parsed.text
        assert "ΔCE +0.50" in parsed.titles
        assert "\x1b" not in repr(shown)
    assert html.visible(evil, limit=400) in Parsed(latent._repr_html_()).text


def test_a_table_shows_the_first_rows_and_says_how_many_there_are():
    table = things(i=list(range(1000)))
    assert f"{PREVIEW} of 1,000 rows shown" in repr(table)
    shown = Parsed(table._repr_html_())
    assert f"{PAGE} of 1,000 rows shown; .to_pandas() has all" in shown.text
    assert shown.text.count(str(PAGE - 1)) == 1
    assert str(PAGE) not in shown.text.replace(f"{PAGE} of 1,000", "")
    assert len(table.to_pandas()) == 1000


def test_an_empty_table_is_said_to_be_empty():
    table = things(i=[], j=[])
    assert repr(table) == "0 things\n0 of 0 rows shown"
    assert Parsed(table._repr_html_()).text == "0 things0 of 0 rows shown"
    assert table.to_pandas().shape == (0, 2)
    assert list(table) == []


def test_a_column_or_a_value_that_is_not_there_is_answered_with_the_nearest():
    table = things(density=[1.0], site=["blocks.0.resid_post"])
    with pytest.raises(InputError, match=r"no column 'densty'\. Fix: nearest: density"):
        table["densty"]
    with pytest.raises(InputError, match=r"no thing has the site 'blocks\.0'.*one of blocks\.0\.resid_post"):
        table.rows_where({"site": "blocks.0"})
    many = things(site=[f"blocks.{i}.resid_post" for i in range(30)])
    with pytest.raises(InputError, match=r"nearest: blocks\.7\.resid_post"):
        many.rows_where({"site": "blocks.7.resid_pst"})


def test_records_are_a_tuple_with_a_data_frame_and_the_first_of_them_shown():
    weights = Records(TokenWeight(token=f"t{i}", value=float(i)) for i in range(SHOWN + 5))
    assert weights == tuple(weights)
    assert weights.to_pandas()["token"].tolist() == [f"t{i}" for i in range(SHOWN + 5)]
    assert "5 more are not shown" in Parsed(weights._repr_html_()).text
    assert repr(weights).endswith("… and 5 more")
    assert repr(Records()) == "nothing"
    assert Parsed(Records()._repr_html_()).text == "nothing"
    assert Records().to_pandas().empty


def test_contexts_of_a_latent_are_records_and_survive_json():
    latent = latent_report(np.random.default_rng(0), "blocks.0", 3, "use_not_shown", hostile=False)
    again = LatentReport.model_validate_json(latent.model_dump_json())
    assert isinstance(again.contexts, Records)
    assert again.contexts == latent.contexts
    frame = again.contexts.to_pandas()
    assert list(frame.columns) == list(Context.model_fields)
    assert sum(len(group) for _, group in again.by_stratum) == len(again.contexts)


def test_a_latents_card_has_its_profile_against_the_hardest_nulls():
    latent = latent_report(np.random.default_rng(0), "blocks.0", 3, "undecided", hostile=False)
    assert "profile: recurrent yes, network unknown, beyond tokens unknown, used no" in repr(latent)
    shown = Parsed(latent._repr_html_()).text
    recurrent, network = latent.verdict.axes[:2]
    hardest = recurrent.comparison
    assert hardest is not None
    assert f"{hardest.value:.3f}{hardest.null_value:.3f}" in shown
    assert "random directions" in shown
    assert network.comparison is None
    assert network.missing in shown


def test_the_focus_stands_between_marks_and_under_an_outline():
    context = Context(
        stratum="top", document="d", position=1, focus=1, tokens=("a", "b", "c"), activations=(0.0, 2.0, 1.0)
    )
    assert context.text == "a«b»c"
    assert context.activation == 2.0
    shown = context._repr_html_()
    assert shown.count("outline") == 1
    assert shown.count("rgba(255,140,0,0.60)") == 1
    assert shown.count("rgba(255,140,0,0.35)") == 1
