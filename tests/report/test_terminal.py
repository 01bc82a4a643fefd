"""What the terminal shows: the numbers, in 80 columns, with nothing a corpus could inject."""

import io
import math
import re
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from polyseme.report.schema import StudyReport
from polyseme.report.terminal import print_summary
from polyseme.screen import progress
from polyseme.screen.progress import EVERY, SILENCE, BarReporter, LineReporter, make_reporter
from tests.report.fixture import KINDS, bare_report, one_site, sample_report


def printed(report: StudyReport, *, width: int = 80, terminal: bool = False, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    print_summary(report, report_path=Path("runs/demo/artifacts/report.html"), console=console)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_the_summary_fits_80_columns_and_says_it_all():
    text = printed(sample_report(per_status=0))
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for expected in (
        *("336 of 6,144 latents", "all sites jointly 2.95 3.42 +0.469 [+0.446, +0.495] 89.0%", "on spectrum_reinit"),
        *(
            "+0.0242 [+0.0142, +0.0342]",
            "+43.3 pp [+42.3, +44.3]",
            "Seed stability (cosine > 0.7) value 95% interval by chance blocks.0.resid_post 38.0%",
            "blocks.0.resid_post 10.0% 18.0% 24.3% +6.30 pp [+5.30, +7.30] rising",
        ),
        *("Report: runs/demo/artifacts/report.html", "5 min 18 s"),
    ):
        assert expected in flat, expected


def test_with_one_site_nothing_is_printed_twice():
    assert "all sites jointly" not in printed(one_site())


@pytest.mark.parametrize("width", [40, 60, 200])
def test_other_widths_cut_no_number(width: int):
    flat = re.sub(r"\s+", "", printed(sample_report(per_status=0), width=width))
    assert "…" not in flat
    assert "Report:runs/demo/artifacts/report.html" in flat


def test_markup_escapes_and_direction_marks_are_text():
    report = sample_report(per_status=1, hostile=True)
    report = report.model_copy(update={"title": "[bold red]x[/] [link=http://example.com]y[/link] \x1b]0;z\x07 \u202e"})
    plain = printed(report)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", plain)
    assert "[bold red]x[/] [link=http://example.com]y[/link] ␛]0;z⟨U+0007⟩" in plain
    coloured = printed(report, terminal=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).count("\x1b") == 0  # colours alone, of our own making


def test_a_terminal_without_unicode_gets_ascii():
    text = printed(sample_report(per_status=1, hostile=True), encoding="ascii")
    assert "-0.0206" in text
    assert "2,436" in text


def test_an_empty_study_is_summed_up_without_inventing_numbers():
    text = printed(bare_report())
    assert "No latent was judged" in text
    assert "the study has one seed" in text
    assert "nan" not in re.findall(r"\w+", text.lower())


class Clock:
    """Time that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[LineReporter, Clock, io.StringIO]:
    file, clock = io.StringIO(), Clock()
    return LineReporter(Console(file=file, width=80), clock), clock, file


def test_plain_lines_come_at_once_then_every_few_seconds_then_at_the_end():
    reporter, clock, file = lines()
    task = reporter.task("training", 1000, "tokens")
    assert file.getvalue() == "training (1000 tokens)\n"
    for i in range(1, 101):
        clock.now = i * 0.2
        task.update(i * 10, note="loss 0.12")
    said = file.getvalue().splitlines()
    assert len(said) == 2 + int(20 / EVERY) - 1
    assert said[1] == "training: 25% (250 of 1000 tokens, 48/s, 16 s left); loss 0.12"
    assert said[-1] == "training: done in 20 s; loss 0.12"
    task.update(1000)
    assert len(file.getvalue().splitlines()) == len(said)


def test_a_long_step_says_that_it_is_at_work():
    reporter, clock, file = lines()
    outer = reporter.task("study", 3, "stages")
    inner = reporter.task("random weights (spectrum)", 4000, "weights")
    inner.update(1000)
    clock.now = SILENCE - 1
    reporter.break_silence()
    assert len(file.getvalue().splitlines()) == 2
    clock.now = SILENCE + 45
    reporter.break_silence()
    reporter.break_silence()  # once is enough
    assert file.getvalue().splitlines()[2:] == [
        "random weights (spectrum): at work for 1 min 05 s, 1000 of 4000 weights",
    ]
    inner.update(4000)
    clock.now += SILENCE + 1
    reporter.break_silence()
    assert file.getvalue().splitlines()[-1] == "study: at work for 1 min 26 s, 0 of 3 stages"
    outer.update(3)
    clock.now += SILENCE + 1
    before = file.getvalue()
    reporter.break_silence()
    assert file.getvalue() == before


def test_silence_is_watched_until_the_reporter_is_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "SILENCE", 0.02)
    file = io.StringIO()
    reporter = make_reporter(Console(file=file, width=80))
    reporter.task("one long step", 0)
    for _ in range(500):
        if "at work" in file.getvalue():
            break
        time.sleep(0.01)
    assert "one long step: at work for 0.0 s\n" in file.getvalue()
    reporter.close()


def test_what_an_earlier_run_had_done_does_not_count_as_speed():
    reporter, clock, file = lines()
    task = reporter.task("training", 1000, "tokens")
    task.update(900)
    clock.now = 10
    task.update(910)
    assert file.getvalue().splitlines()[-1] == "training: 91% (910 of 1000 tokens, 1/s, 1 min 30 s left)"


def test_a_total_may_come_late_or_be_nothing():
    reporter, clock, file = lines()
    task = reporter.task("reading", 0, "files")
    clock.now = 6
    task.update(1, 4)
    task.update(4, 4)
    assert file.getvalue().splitlines() == [
        *("reading", "reading: 25% (1 of 4 files)", "reading: done in 6.0 s"),
    ]
    reporter.task("nothing", 0).update(0)
    assert file.getvalue().splitlines()[-1] == "nothing: done in 0.0 s"


def test_names_cannot_write_to_the_terminal():
    reporter, _, file = lines()
    reporter.message("[red]site[/] \x1b[2J\nnext")
    reporter.task("a\x1bb\r", math.nan)
    assert file.getvalue() == "[red]site[/] ␛[2J↵next\na␛b␍ (not measured )\n" or "\x1b" not in file.getvalue()


def test_bars_leave_one_line_a_task_and_the_cursor():
    file = io.StringIO()
    reporter = BarReporter(Console(file=file, force_terminal=True, width=80, color_system=None))
    first, second = reporter.task("harvest [x]", 10, "tokens"), reporter.task("training", 10)
    first.update(5, note="L0 24")
    first.update(10)
    second.update(10, note="FVU 0.12")
    reporter.close()
    text = file.getvalue()
    kept = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() for line in text.splitlines()]
    assert any(line.startswith("✓ harvest [x] in 0.0 s") for line in kept)
    assert any(line.startswith("✓ training in 0.0 s; FVU 0.12") for line in kept)
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is shown again


def test_the_reporter_fits_the_console():
    assert isinstance(make_reporter(Console(file=io.StringIO())), LineReporter)
    terminal = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    assert isinstance(make_reporter(terminal), BarReporter)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(make_reporter(dumb), LineReporter)


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_no_line_is_too_long_and_no_number_cut_off(kind: str, width: int):
    report = KINDS[kind]()

    def shown(width: int) -> str:
        out = io.StringIO()
        print_summary(report, console=Console(file=out, width=width, markup=False, highlight=False, color_system=None))
        return out.getvalue()

    text, wide = shown(width), shown(1000)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    flat = "".join(text.split())
    for word in wide.split():
        assert word in flat, word
