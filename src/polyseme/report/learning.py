"""What the learning curves say: whether more training tokens would change how many latents recur."""

from collections.abc import Iterable, Sequence

from polyseme.core import numbers
from polyseme.core.records import MetricRecord
from polyseme.report.schema import Chart, Curve, DictionaryReport, StudyReport
from polyseme.report.words import gap_bounds, gap_of, metric_name, value_of

SHARE = "recurring"
MATCH = "recurring_match"
_CHANGE = "_change"
_MOST_SITES = 3
_SAYS = {
    "rising": "still rising: more training tokens would change verdicts",
    "falling": "still falling: more training tokens would change verdicts",
    "open": "known too poorly to say whether more training tokens would change verdicts; more seeds or held-out tokens "
    "would tell",
    "flat": "flat: twice the tokens changed neither figure by as much as 0.02",
}
"""By what the study says of recurrence at a site, from what asks for most to what asks for nothing."""


def outcome(dictionary: DictionaryReport) -> str:
    """What the last doubling says of a site: `flat` where both figures are; empty where nothing was measured."""
    said = {str(record.details.get("outcome", "")) for record in _changes(dictionary)}
    return next((one for one in _SAYS if one in said), "")


def sentence(dictionary: DictionaryReport) -> str:
    """How many latents of a site recurred at each moment, and what that says; empty where it was not measured."""
    found = outcome(dictionary)
    if not found:
        return ""
    shares = moments(dictionary, SHARE)
    said = [f"{value_of(one)} at {numbers.short(float(one.scope['tokens']))} tokens" for one in shares]
    share, match = (change(dictionary, name) for name in (SHARE, MATCH))
    return (
        f"Before the learning rate falls, the share of latents that recur in another seed is {', '.join(said)}. "
        f"The last doubling changed it by {_by(share)}, and the mean best match by {_by(match)}. "
        f"Recurrence is {_SAYS[found]}."
    )


def headline(report: StudyReport) -> str:
    """The sentence of the only site, or of all of them together; empty where nothing was measured."""
    known = [dictionary for dictionary in report.dictionaries if outcome(dictionary)]
    if len(known) < 2:
        return "".join(map(sentence, known))
    said: list[str] = []
    for found in _SAYS:
        of_outcome = [dictionary for dictionary in known if outcome(dictionary) == found]
        if of_outcome:
            said.append(f"{_SAYS[found]} ({_listed(of_outcome)}).")
    return f"Over the last doubling of the training tokens recurrence is {' It is '.join(said)}"


def _listed(dictionaries: Sequence[DictionaryReport]) -> str:
    """The first sites with what the last doubling changed."""
    shown = [
        f"{d.name}: latents that recur {_by(change(d, SHARE))}, mean best match {_by(change(d, MATCH))}"
        for d in dictionaries[:_MOST_SITES]
    ]
    more = len(dictionaries) - len(shown)
    return "; ".join([*shown, *([f"{more} other site{'s' if more > 1 else ''}"] if more else [])])


def chart(dictionary: DictionaryReport) -> Chart | None:
    """Both curves of a site; None where they were not measured."""
    curves = tuple(_curve(metric_name(name), moments(dictionary, name)) for name in (SHARE, MATCH))
    if not curves[0].x:
        return None
    return Chart(
        title="Learning curves", x_label="training tokens", y_label="share, correlation", curves=curves, log_x=True
    )


def moments(dictionary: DictionaryReport, name: str) -> list[MetricRecord]:
    """The records of one of the two figures, by moment."""
    return [record for record in dictionary.learning if record.name == name]


def change(dictionary: DictionaryReport, name: str) -> MetricRecord:
    """What the last doubling changed one of the two figures by."""
    return next(record for record in dictionary.learning if record.name == f"{name}{_CHANGE}")


def _changes(dictionary: DictionaryReport) -> list[MetricRecord]:
    return [record for record in dictionary.learning if record.name.endswith(_CHANGE)]


def _by(record: MetricRecord) -> str:
    """A change with its interval."""
    return f"{gap_of(record.value, record)} {gap_bounds(record.interval, record)}".rstrip()


def _curve(name: str, records: Iterable[MetricRecord]) -> Curve:
    points = [(float(r.scope["tokens"]), r.value, r.interval) for r in records]
    bounds = [(i.low, i.high) for _, _, i in points if i is not None]
    return Curve(
        name=name,
        x=tuple(x for x, _, _ in points),
        y=tuple(y for _, y, _ in points),
        low=tuple(low for low, _ in bounds),
        high=tuple(high for _, high in bounds),
    )
