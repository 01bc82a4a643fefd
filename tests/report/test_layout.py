"""Reports of every kind, laid out by a real browser at the widths of telephones and desks, in both themes, on paper."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from polyseme.core.records import STATUSES
from polyseme.report.html import write_report
from tests.report.fixture import KINDS
from tests.report.test_browser import CHROMIUM, browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.enable_socket,  # playwright speaks to its own browser through an event loop
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium: apt-get install chromium"),
]
__all__ = ["browser"]

WIDTHS = (320, 400, 800, 1280, 1600)
AUDIT = (Path(__file__).parent / "audit.js").read_text()
EVERYTHING = """
document.querySelectorAll("details").forEach((d) => (d.open = true));
const style = document.createElement("style");
style.textContent = ".show { display: block }";
document.head.append(style);
"""


@pytest.fixture(params=KINDS)
def page(request: pytest.FixtureRequest, browser, tmp_path: Path) -> Iterator:
    path = write_report(KINDS[request.param](), tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    yield page
    page.close()


def test_nothing_overlaps_is_cut_off_or_too_small_at_any_width(page):
    faults = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        faults[width, "as it opens"] = page.evaluate(AUDIT)
    page.evaluate(EVERYTHING)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        faults[width, "everything open"] = page.evaluate(AUDIT)
    page.emulate_media(color_scheme="dark")
    faults["dark"] = page.evaluate(AUDIT)
    assert {place: found[:8] for place, found in faults.items() if found} == {}


def test_paper_shows_what_is_folded_away_in_light_colours(browser, tmp_path: Path):
    path = write_report(KINDS["several sites"](), tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 718, "height": 1000}, color_scheme="dark")
    page.goto(path.as_uri())
    assert not page.get_by_text("also when the four are corrected", exact=False).first.is_visible()
    page.locator(".show-0 .latent summary").first.click()
    page.emulate_media(media="print")
    for folded in ("also when the four are corrected", "Reconstruction loss", "singular values, biases, norms"):
        assert page.get_by_text(folded).first.is_visible(), folded
    # Latents stay as they were left: the open one open, the others one line each, those of every verdict.
    assert page.locator(".evidence:visible").count() == 1
    assert page.locator(".latent > summary:visible").count() == 2 * len(STATUSES)
    assert page.locator(".show > h3:visible").count() == len(STATUSES)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(AUDIT) == []
    page.close()


def test_a_wide_table_is_scrolled_by_the_keyboard(browser, tmp_path: Path):
    path = write_report(KINDS["huge"](), tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    table = page.get_by_role("region", name="Held-out metrics of every dictionary")
    assert table.evaluate("(e) => e.scrollWidth > e.clientWidth")
    table.focus()
    page.keyboard.press("ArrowRight")
    for _ in range(100):  # it scrolls smoothly, and the page's policy forbids playwright's own way of waiting
        if table.evaluate("(e) => e.scrollLeft") > 0:
            break
        page.wait_for_timeout(20)
    assert table.evaluate("(e) => e.scrollLeft") > 0
    assert table.evaluate("(e) => getComputedStyle(e).outlineStyle") == "solid"
    page.close()
