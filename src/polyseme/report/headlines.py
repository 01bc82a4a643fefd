"""The sentences at the top of a report, made from its numbers alone."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from polyseme.core.numbers import count, interval, percent, short, signed
from polyseme.core.records import DECIDED, STATUSES
from polyseme.report import learning
from polyseme.report.profiles import AXIS_NAMES, STATUS_NAMES, asked, correction
from polyseme.report.schema import Comparison, ControlValue, SpliceRow, StudyReport
from polyseme.report.words import metric_name
from polyseme.verdicts.error_rates import PlantedKind

MOST_REASONS = 4


def headlines(report: StudyReport) -> tuple[str, ...]:
    """What the study found, strongest statement first; only of what was measured, and never a single score."""
    if report.headlines:
        return report.headlines
    lines = [
        _words(report),
        _repetition(report),
        *_axes(report),
        *_unanswered(report),
        learning.headline(report),
        _calibration(report),
        _faithfulness(report),
        _single_sites(report),
        _scores(report),
        *_frozen(report),
    ]
    return tuple(line for line in lines if line)


def _words(report: StudyReport) -> str:
    """How many latents have each word."""
    total, counts = report.n_latents, report.verdict_counts
    if not total:
        return "No latent was judged."
    if not report.n_decided:
        return f"All {count(total)} latents are undecided{_reasons(report)}."
    features = counts["network_feature"]
    if features:
        are = "is a network feature" if features == 1 else "are network features"
        text = f"{count(features)} of {_latents(total)} ({percent(features / total)}) {are}: every axis says yes."
    else:
        text = f"None of {_latents(total)} is a network feature."
    others = [f"{STATUS_NAMES[status]} {count(counts[status])}" for status in STATUSES[1:] if counts[status]]
    why = _reasons(report) if counts["undecided"] else ""
    return f"{text} Words of the others: {', '.join(others)}{why}." if others else text


def _latents(n: int) -> str:
    return f"{count(n)} latent{'' if n == 1 else 's'}"


def _reasons(report: StudyReport) -> str:
    return reasons(sum((Counter(d.verdicts_missing) for d in report.dictionaries), Counter[str]()))


def reasons(missing: Mapping[str, int], of: int | None = None) -> str:
    """What is missing, most often first, in brackets; nothing where nothing is.

    Args:
        missing: to how many latents.
        of: latents without an answer, where `missing` is not about all of them.
    """
    ranked = Counter(missing).most_common()
    if not ranked:
        return ""
    if len(ranked) == 1 and of in (None, ranked[0][1]):
        return f" ({ranked[0][0]})"
    shown = [f"{count(n)}: {what}" for what, n in ranked[:MOST_REASONS]]
    rest = sum(n for _, n in ranked[MOST_REASONS:])
    return f" ({'; '.join([*shown, *([f'{count(rest)}: other reasons'] if rest else [])])})"


def _repetition(report: StudyReport) -> str:
    """How many latents would have the same word in a repetition."""
    shares = [(report.verdict_counts[status], report.kept(status)) for status in DECIDED]
    known = [(n, kept) for n, kept in shares if n and not math.isnan(kept)]
    if not known:
        return ""
    n, kept = sum(n for n, _ in known), sum(n * kept for n, kept in known)
    features, of_them = report.verdict_counts["network_feature"], report.kept("network_feature")
    text = (
        "If the same dictionaries were judged again, with other seeds, draws of nulls, held-out documents, firings and "
        f"directions, {percent(kept / n)} of the {count(n)} latents with a word would be expected to keep it"
    )
    if features and not math.isnan(of_them):
        text += f", and {percent(of_them)} of the {count(features)} network features"
    return f"{text}."


def _axes(report: StudyReport) -> Iterator[str]:
    """What each axis says of how many latents, and what it asks."""
    parts = report.axes
    everywhere = {
        why: n for why, n in (parts[0].missing if parts else {}).items() if all(p.missing.get(why) == n for p in parts)
    }
    for part in parts:
        name = AXIS_NAMES[part.axis]
        name = f"{name[:1].upper()}{name[1:]}"
        if not part.n_answered:
            yield f"{name}: no latent has an answer{reasons(part.missing)}."
            continue
        without = f", no answer for {count(part.unknown)}" if part.unknown else ""
        without += reasons({why: n for why, n in part.missing.items() if why not in everywhere}, of=part.unknown)
        yield (
            f"{name}: yes for {count(part.yes)}, not shown for {count(part.no)}{without}. "
            f"Yes means that {asked(part.axis, report.judging)}."
        )
    for why, n in everywhere.items():
        if n < report.n_latents:
            yield f"No axis has an answer for {_latents(n)} ({why})."
    if any(part.n_answered for part in report.axes):
        yield correction(report.judging)


def _unanswered(report: StudyReport) -> Iterator[str]:
    """What a site lacks: nulls that nothing could be compared with, and answers of most latents."""
    for dictionary in report.dictionaries:
        for part in dictionary.axes:
            if part.left_out and part.n_answered:
                yield (
                    f"At {dictionary.name} no latent could be compared with {' or '.join(part.left_out)} on the axis "
                    f"{AXIS_NAMES[part.axis]}; its answers rest on the other nulls."
                )
            if part.n_answered and part.unknown > part.n_answered:
                yield (
                    f"At {dictionary.name} the axis {AXIS_NAMES[part.axis]} answers for {count(part.n_answered)} of "
                    f"{count(part.n_answered + part.unknown)} latents only{reasons(part.missing)}."
                )


def _calibration(report: StudyReport) -> str:
    """How planted latents are judged by the same procedure, kind by kind."""
    if not report.n_decided:
        return ""
    found = report.calibration
    if found is None or not found.kinds:
        why = f": {report.calibration_missing}" if report.calibration_missing else ""
        return f"How often this procedure errs was not measured on planted networks{why}."
    against = f" against {', '.join(found.controls)}" if found.controls else ""
    said = [_called(kind) for kind in found.kinds if kind.is_feature]
    wrong = [kind for kind in found.kinds if kind.is_feature is False and not math.isnan(kind.called.value)]
    if wrong:
        worst = max(wrong, key=lambda kind: kind.called.value)
        most = f"of the {len(wrong)} kinds that are not features, at most " if len(wrong) > 1 else ""
        said.append(f"{most}{_called(worst)}")
    return (
        f"On {count(found.n_networks)} planted networks, judged as here{against}, these are called network features: "
        f"{'; '.join(said)}. All kinds are under Method."
    )


def _called(kind: PlantedKind) -> str:
    """Share of a kind that is called a network feature, with its interval."""
    record = kind.called
    bounds = ""
    if record.interval is not None and not math.isnan(record.interval.low):
        bounds = f" [{percent(record.interval.low)}, {percent(record.interval.high)}]"
    return f"{percent(record.value)}{bounds} of {count(record.n)} {kind.name}"


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
    mixed = any(control.targets == "dictionary" for control in report.summary.controls)
    every = f"every control{' of the weights or tokens' if mixed else ''}"
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
