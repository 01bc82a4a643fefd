"""The hostile report in a real browser: nothing runs, nothing leaves, everything can be reached."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyseme.core.records import STATUSES
from polyseme.report.html import write_report
from tests.report.fixture import sample_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.enable_socket,  # playwright speaks to its own browser through an event loop
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium: apt-get install chromium"),
]


class Watched:
    """A page and all that went wrong on it."""

    def __init__(self, page):
        self.page, self.events, self.requests = page, [], []
        page.on("dialog", lambda d: (self.events.append(("dialog", d.message)), d.dismiss()))
        page.on("console", lambda m: self.events.append(("console", m.text)))
        page.on("pageerror", lambda e: self.events.append(("error", str(e))))
        page.on("popup", lambda p: self.events.append(("popup", p.url)))
        page.on("request", lambda r: self.requests.append(r.url))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(sample_report(per_status=2, hostile=True), tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_nothing_runs_and_nothing_leaves(browser, path: Path, width: int, scheme: str):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    watched = Watched(context.new_page())
    page = watched.page
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for i in range(len(STATUSES)):
        page.locator(f"label[for=show-{i}]").click()
        assert page.locator(f".show-{i}").is_visible()
        for latent in page.locator(f".show-{i} .latent:visible").all():
            latent.hover()
    page.keyboard.press("Tab")
    assert watched.events == []
    assert [u for u in watched.requests if not u.startswith((path.as_uri(), "data:"))] == []
    assert page.title() == "demo<script>alert(1)</script>⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+2069⟩ · polyseme"
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, f"the page is {overflow} px wider than the window"
    context.close()


def test_tabs_sites_and_latents_work_by_keyboard_alone(browser, path: Path):
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    page.locator("#show-0").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".show-1").is_visible()
    assert not page.locator(".show-0").is_visible()
    shown = page.locator(".show-1 .latent:visible").count()
    page.locator("#at-all").focus()
    page.keyboard.press("ArrowRight")
    assert 0 < page.locator(".show-1 .latent:visible").count() < shown
    latent = page.locator(".show-1 .latent:visible").first
    latent.locator("summary").focus()
    page.keyboard.press("Enter")
    assert latent.get_attribute("open") is not None
    assert latent.locator(".evidence").is_visible()
    context.close()
