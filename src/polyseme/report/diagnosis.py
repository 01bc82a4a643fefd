"""A diagnosis on a terminal: the answer, what it rests on, and every line of evidence."""

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyseme.diagnosis.diagnose import Diagnosis
from polyseme.diagnosis.line import Line

WORDS = {
    "aligned": "not polysemantic: aligned",
    "superposition": "superposition",
    "rotated": "rotated: orthogonal features, not along the neurons",
    "correlated": "correlated features share a direction",
    "incidental": "incidental: features collided with room to spare",
    "non_linear": "non-linear representation",
    "compositional": "compositional code",
    "none": "no features found",
    "abstain": "abstain",
}


def print_diagnosis(diagnosis: Diagnosis, *, console: Console | None = None) -> None:
    """Print the answer, its reason and the evidence: effect, interval, null, threshold, n, and whether it passed."""
    console = console or Console(markup=False, highlight=False, emoji=False)
    console.print(Text(f"{diagnosis.site}: {WORDS[diagnosis.answer]}", style="bold"))
    console.print(Text(f"{diagnosis.reason[0].upper()}{diagnosis.reason[1:]}."))
    features = f", {len(diagnosis.features)} variables represented" if diagnosis.features else ""
    console.print(Text(f"{diagnosis.n_rows} rows, {diagnosis.n_neurons} neurons{features}", style="dim"))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("evidence", "effect [95%]", "null", "bound", "p", "n", ""):
        table.add_column(column, no_wrap=True)
    for line in diagnosis.evidence:
        table.add_row(
            Text(line.name.replace("_", " ")),
            _effect(line),
            _number(line.null),
            _number(line.threshold),
            "" if math.isnan(line.p_corrected) else f"{line.p_corrected:.3f}",
            str(line.n),
            "passed" if line.passed else "unmeasured" if math.isnan(line.effect) else "no",
        )
    console.print(table)


def _effect(line: Line) -> str:
    if line.interval is None or math.isnan(line.interval.low):
        return _number(line.effect)
    return f"{_number(line.effect)} [{_number(line.interval.low)}, {_number(line.interval.high)}]"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
