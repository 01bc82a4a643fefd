"""The sentences at the top of a report, made from its numbers alone."""

import math
from collections import Counter
from collections.abc import Iterator

from polyseme.core.numbers import count, interval, percent, short, signed
from polyseme.core.records import MetricRecord
from polyseme.report.schema import Comparison, ControlValue, SpliceRow, StudyReport, n_judged
from polyseme.report.words import EFFECT_MEANINGS, metric_name

MOST_REASONS = 4


def headlines(report: StudyReport) -> tuple[str, ...]:
    """What the study found, strongest statement first; only of what was measured, and never a single score."""
    if report.headlines:
        return report.headlines
    lines = [
        _verdicts(report),
        _tests(report),
        _calibration(report),
        _faithfulness(report),
        _single_sites(report),
        _scores(report),
        *_frozen(report),
    ]
    return tuple(line for line in lines if line)


def _verdicts(report: StudyReport) -> str:
    judged, supported = report.n_judged, report.verdict_counts["supported"]
    if not judged:
        return f"No latent was judged{_reasons(report)}."
    whole = f"{count(judged)} judged latents"
    if supported:
        are, them = ("is", "it") if supported == 1 else ("are", "them")
        does, what = EFFECT_MEANINGS[report.statistic]
        text = (
            f"{count(supported)} of {whole} ({percent(supported / judged)}) {are} supported: removing {them} {does}s "
        )
        text += f"{what} more than removing {report.causal_null} does, and another seed's "
        text += f"dictionary matches {them} better than {_any_control(report)} does{_threshold(report)}."
    else:
        text = f"None of {whole} is supported."
    left_out = report.n_latents - judged
    were = "latent was" if left_out == 1 else "latents were"
    return f"{text} {count(left_out)} {were} not judged{_reasons(report)}." if left_out else text


def _any_control(report: StudyReport) -> str:
    """What a latent's match in another seed's dictionary is compared with."""
    which = _of_network(report)
    return f"the dictionary of any control{which}" if which else "any control's dictionary"


def _of_network(report: StudyReport) -> str:
    """Which controls are meant, where some are of the dictionary."""
    mixed = any(control.targets == "dictionary" for control in report.summary.controls)
    return " of the weights or tokens" if mixed else ""


def _threshold(report: StudyReport) -> str:
    """That a margin must exceed more than 0, where it must."""
    above = [(t, d.margin_fdr) for d in report.dictionaries for _, t in d.thresholds if t > 0]
    if not above:
        return ""
    unfiltered = [t for t, share in above if share >= 1]
    return f", by at least {short(max(unfiltered))}" if unfiltered else ", by at least the FDR threshold"


def _reasons(report: StudyReport) -> str:
    """Why latents were not judged, most often first."""
    missing = sum((Counter(d.verdicts_missing) for d in report.dictionaries), Counter[str]())
    if not missing:
        return ""
    ranked = missing.most_common()
    if len(ranked) == 1:
        return f" ({ranked[0][0]})"
    shown = [f"{count(n)}: {what}" for what, n in ranked[:MOST_REASONS]]
    rest = sum(n for _, n in ranked[MOST_REASONS:])
    return f" ({'; '.join([*shown, *([f'{count(rest)}: other reasons'] if rest else [])])})"


def _tests(report: StudyReport) -> str:
    """What a single test found, where the other one could not be made: no verdict says it."""
    if report.n_judged:
        return ""
    passed: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for dictionary in report.dictionaries:
        for name, n_passed, n_made in dictionary.tests:
            passed[name] += n_passed
            made[name] += n_made
    does = " ".join(EFFECT_MEANINGS[report.statistic])
    meanings = {
        "causal_effect": f"{does} more than {report.causal_null} does",
        "model_specificity": "are matched better by another seed's dictionary than by "
        f"{_any_control(report)}{_threshold(report)}",
    }
    said = [f"{count(passed[name])} of {count(n)} latents {meanings[name]}" for name, n in made.items() if n > 0]
    if said:
        return f"One test alone says: {'; '.join(said)}."
    # Where the causal test is what most latents lack, nothing else says that the other one found nothing to go by.
    without = sorted({name for d in report.dictionaries for name, t in d.thresholds if math.isnan(t)})
    known = any("FDR filter" in what for d in report.dictionaries for what in d.verdicts_missing)
    if known or not without:
        return ""
    return f"Model-specificity says nothing either: the FDR filter finds no threshold against {', '.join(without)}."


def _calibration(report: StudyReport) -> str:
    if not report.n_judged:
        return ""
    found = report.calibration
    if found is None or math.isnan(found.false_positive_rate.value):
        why = f": {report.calibration_missing}" if report.calibration_missing else ""
        return f"The rate of false positives of this procedure was not measured{why}."
    text = "On planted networks the same procedure"
    if found.controls:
        text += f" with {'the control' if len(found.controls) == 1 else 'the controls'} {', '.join(found.controls)}"
    if found.counts and not any(n_judged(counts) for _, counts in found.counts):
        return f"{text} judges no latent, so its error rates are not known."
    text += f" calls {_share(found.false_positive_rate)} of {count(found.false_positive_rate.n)} non-features supported"
    worst = max(found.by_kind, key=lambda kind: kind[1].value, default=None)
    if worst is not None and worst[1].value > found.false_positive_rate.value:
        text += f"; among {worst[0]}, {_share(worst[1])} of {count(worst[1].n)}"
    return f"{text}. It misses {_share(found.miss_rate)} of {count(found.miss_rate.n)} features."


def _share(record: MetricRecord) -> str:
    if record.interval is None or math.isnan(record.interval.low):
        return percent(record.value)
    return f"{percent(record.value)} (95% interval {percent(record.interval.low)} to {percent(record.interval.high)})"


def _faithfulness(report: StudyReport) -> str:
    if report.faithfulness is None:
        return ""
    rows: list[SpliceRow] = [*([report.faithfulness.joint] if report.faithfulness.joint else [])]
    rows += report.faithfulness.single if len(report.faithfulness.single) == 1 else ()
    row = next((row for row in rows if not math.isnan(row.ce_patched.value)), None)
    if row is None:
        return ""
    text = "With every site patched in one pass" if row.joint else f"With {row.site} patched"
    text += f" the loss goes from {short(row.ce_clean.value)} to {short(row.ce_patched.value)} nats/token"
    interaction = report.faithfulness.interaction if row.joint else None
    if interaction is not None and not math.isnan(interaction.value):
        bounds = interval(interaction.interval, sign=True)
        more = "more" if interaction.value > 0 else "less"
        if interaction.interval is not None and interaction.interval.excludes(0):
            text += f", {short(abs(interaction.value))} nats {more} than the sites one at a time add up to"
        elif bounds:
            text += ", and no difference is shown from what the sites one at a time add up to"
        text += f" (interaction {signed(interaction.value)} {bounds})" if bounds else ""
    equivalent = row.compute_equivalent
    return f"{text}. {equivalent[:1].upper()}{equivalent[1:]}." if equivalent else f"{text}."


def _single_sites(report: StudyReport) -> str:
    every = report.faithfulness.single if report.faithfulness else ()
    rows = [r for r in every if not math.isnan(r.recovered_mean.value)]
    if not rows:
        return ""
    low, high = (f(r.recovered_mean.value for r in rows) for f in (min, max))
    shown = percent(low, 3) if len(rows) == 1 else f"{percent(low, 3)} to {percent(high, 3)}"
    where = "" if len(rows) == len(every) else f" (measured at {len(rows)} of {len(every)} sites)"
    one = "Patching it" if len(every) == 1 else "Patching one site at a time"
    return f"{one} recovers {shown} of the loss that mean ablation costs{where}."


def _scores(report: StudyReport) -> str:
    """How the trained network's score compares with that of networks or texts that were made random."""
    rows, name = _scored(report, "weights", "tokens"), _score_name(report)
    if not rows:
        return ""
    beaten = [(row, best) for row in rows if (best := _best(row)) is not None and _told(best) and best.gap > 0]
    if beaten:
        row, best = beaten[0]
        where = f"{len(beaten)} of {len(rows)} sites" if len(rows) > 1 else row.site
        return (
            f"The plain score would mislead: at {where} a control is reconstructed better than the trained network "
            f"({name} {short(best.record.value)} on {best.control}, {short(row.trained.value)} on the trained network "
            f"at {row.site})."
        )
    every = f"every control{_of_network(report)}"
    if all(_told(c) and c.gap < 0 for row in rows for c in row.controls):
        return f"By {name} alone the trained network is reconstructed better than {every} at every site."
    return f"By {name} alone the trained network is not shown to differ from {every}."


def _frozen(report: StudyReport) -> Iterator[str]:
    """What training the directions adds to the score: one sentence for each control of the dictionary."""
    rows, name = _scored(report, "dictionary"), _score_name(report)
    for control in (c.name for c in report.summary.controls if c.targets == "dictionary"):
        pairs = [(row, value) for row in rows for value in row.controls if value.control == control]
        better, worse = ([pair for pair in pairs if _told(pair[1]) and sign * pair[1].gap > 0] for sign in (1, -1))
        if not pairs:
            continue
        shown = better or worse
        row, value = (shown or pairs)[0]
        does = (
            "reconstruct better" if better else "reconstruct worse" if worse else "are not shown to reconstruct worse"
        )
        where = f" at {len(shown)} of {len(pairs)} sites" if shown and len(pairs) > 1 else ""
        yield (
            f"On the same network, dictionaries of {control} {does} than freely trained ones{where} "
            f"({name} {short(value.record.value)} and {short(row.trained.value)} at {row.site})."
        )


def _scored(report: StudyReport, *targets: str) -> list[Comparison]:
    """FVU of each site beside that of the controls of some targets. Where some vectors are massive, FVU is about them,
    and the figure without them stands in for it."""
    names = {control.name for control in report.summary.controls if control.targets in targets}
    of_site = {c.site: c for c in report.comparisons if c.trained.name == "fvu"}
    of_site |= {c.site: c for c in report.comparisons if c.trained.name == "fvu_ordinary"}
    rows = [
        c.model_copy(update={"controls": tuple(value for value in c.controls if value.control in names)})
        for c in of_site.values()
        if not math.isnan(c.trained.value)
    ]
    return [row for row in rows if row.controls]


def _score_name(report: StudyReport) -> str:
    ordinary = any(c.trained.name == "fvu_ordinary" for c in report.comparisons)
    return f"{metric_name('fvu')} of ordinary vectors" if ordinary else metric_name("fvu")


def _best(row: Comparison) -> ControlValue | None:
    """The control that is reconstructed best."""
    known = [c for c in row.controls if not math.isnan(c.record.value)]
    return min(known, key=lambda c: c.record.value, default=None)


def _told(value: ControlValue) -> bool:
    """True when the gap's interval leaves 0 out."""
    return value.gap_interval is not None and value.gap_interval.excludes(0)
